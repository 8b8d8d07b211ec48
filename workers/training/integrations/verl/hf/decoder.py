"""Continuous batched decoding of a Hugging Face causal model. torch only, one thread.

Requests join between two decoding steps: a newcomer's prompt is prefilled with the others
that arrived, then its key-value cache is left-padded beside the running rows. Nobody waits
for a batch to fill, nor for the longest row of a batch to end.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedModel

from workers.training.integrations.verl.hf.sampling import SamplingParams, choose

Layer = tuple[torch.Tensor, torch.Tensor]


@dataclass(eq=False, slots=True)
class Row:
    """One request and what has been sampled for it."""

    prompt_ids: Sequence[int]
    params: SamplingParams
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = self.params.generator()

    @property
    def position(self) -> int:
        """Of the newest sampled token, which the next step feeds to the model."""
        return len(self.prompt_ids) + len(self.token_ids) - 1

    def done(self, stop_ids: frozenset[int]) -> bool:
        return self.token_ids[-1] in stop_ids or len(self.token_ids) >= self.params.max_tokens


class Decoder:
    """Not thread-safe: ``admit`` and ``step`` are called from one thread."""

    def __init__(self, model: PreTrainedModel, stop_ids: frozenset[int], pad_id: int) -> None:
        self._model = model
        self._stop_ids = stop_ids
        self._pad_id = pad_id
        self._rows: list[Row] = []
        self._cache: list[Layer] = []
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    @property
    def busy(self) -> bool:
        return bool(self._rows)

    @torch.inference_mode()
    def admit(self, rows: Sequence[Row]) -> list[Row]:
        """Prefills ``rows``, samples their first token, and returns those already done."""
        width = max(len(row.prompt_ids) for row in rows)
        ids = torch.full((len(rows), width), self._pad_id, dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, width - len(row.prompt_ids) :] = torch.tensor(row.prompt_ids)
            mask[index, width - len(row.prompt_ids) :] = 1
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits, cache = self._forward(ids, mask, positions, [])
        self._sample(rows, logits)
        self._join(list(rows), cache, mask)
        return self._retire()

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Samples one token for every row and returns those that are done with it."""
        rows = self._rows
        ids = torch.tensor([[row.token_ids[-1]] for row in rows])
        positions = torch.tensor([[row.position] for row in rows])
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(rows), 1)], dim=1)
        logits, self._cache = self._forward(ids, self._mask, positions, self._cache)
        self._sample(rows, logits)
        return self._retire()

    def clear(self) -> None:
        """Forgets every row, for use after an error."""
        self._rows, self._cache = [], []
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    def _forward(
        self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: list[Layer]
    ) -> tuple[torch.Tensor, list[Layer]]:
        out = self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=DynamicCache(cache) if cache else DynamicCache(),
            use_cache=True,
            logits_to_keep=1,
        )
        layers = [(layer.keys, layer.values) for layer in out.past_key_values.layers]
        return out.logits[:, -1, :], layers

    def _sample(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        draws = [row.rng.random() for row in rows]
        tokens, logprobs = choose(logits, [row.params for row in rows], draws)
        for row, token, logprob in zip(rows, tokens, logprobs, strict=True):
            row.token_ids.append(token)
            row.logprobs.append(logprob)

    def _join(self, rows: list[Row], cache: list[Layer], mask: torch.Tensor) -> None:
        if not self._rows:
            self._rows, self._cache, self._mask = rows, cache, mask
            return
        width = max(self._mask.shape[1], mask.shape[1])
        self._mask = torch.cat([_left_pad(self._mask, width, 1), _left_pad(mask, width, 1)])
        self._cache = [
            (_stack(old[0], new[0], width), _stack(old[1], new[1], width))
            for old, new in zip(self._cache, cache, strict=True)
        ]
        self._rows = self._rows + rows

    def _retire(self) -> list[Row]:
        """Takes finished rows out, and the padding that only they needed."""
        done = [row for row in self._rows if row.done(self._stop_ids)]
        if not done:
            return []
        stay = [i for i, row in enumerate(self._rows) if not row.done(self._stop_ids)]
        self._rows = [self._rows[i] for i in stay]
        if not stay:
            self._cache, self._mask = [], self._mask.new_zeros(0, 0)
            return done
        keep = torch.tensor(stay)
        mask = self._mask[keep]
        first = int(mask.any(dim=0).long().argmax())
        self._mask = mask[:, first:]
        self._cache = [(k[keep, :, first:], v[keep, :, first:]) for k, v in self._cache]
        return done


def _left_pad(tensor: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    missing = width - tensor.shape[dim]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dim)


def _stack(old: torch.Tensor, new: torch.Tensor, width: int) -> torch.Tensor:
    return torch.cat([_left_pad(old, width, 2), _left_pad(new, width, 2)])
