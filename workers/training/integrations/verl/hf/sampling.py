"""Choosing one token per row: temperature, top-k, top-p, and a seed of each request's own."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """``temperature`` 0 is greedy; ``top_k`` below 1 is off."""

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None

    def generator(self) -> random.Random:
        return random.Random(self.seed)


def choose(
    logits: torch.Tensor, params: Sequence[SamplingParams], draws: Sequence[float]
) -> tuple[list[int], list[float]]:
    """One token per row of ``logits`` [rows, vocabulary] and its log-probability.

    ``draws`` are uniform numbers in [0, 1): the choice is the inverse of the cumulative
    distribution, so it depends on the row's own draw and not on its neighbours. The
    log-probability is that of the whole distribution at the row's temperature, as the
    trainer computes it, also where top-k or top-p narrowed the choice.
    """
    greedy = torch.tensor([param.temperature <= 0 for param in params])
    heat = torch.tensor([param.temperature or 1.0 for param in params])
    logprobs = torch.log_softmax(logits.float() / heat.unsqueeze(1), dim=-1)
    allowed = _narrowed(logprobs, params)
    cumulative = allowed.exp().double().cumsum(dim=-1)
    target = torch.tensor(draws, dtype=torch.float64) * cumulative[:, -1]
    sampled = torch.searchsorted(cumulative, target.unsqueeze(1), right=True).squeeze(1)
    last = logits.shape[-1] - 1
    chosen = torch.where(greedy, logits.argmax(dim=-1), sampled.clamp(max=last))
    return chosen.tolist(), logprobs.gather(1, chosen.unsqueeze(1)).squeeze(1).tolist()


def _narrowed(logprobs: torch.Tensor, params: Sequence[SamplingParams]) -> torch.Tensor:
    if all(param.top_k < 1 and param.top_p >= 1 for param in params):
        return logprobs
    ordered, order = logprobs.sort(dim=-1, descending=True)
    size = logprobs.shape[-1]
    rank = torch.arange(size).unsqueeze(0)
    top_k = torch.tensor([param.top_k if param.top_k > 0 else size for param in params])
    top_p = torch.tensor([param.top_p for param in params]).unsqueeze(1)
    before = ordered.exp().cumsum(dim=-1) - ordered.exp()
    outside = (rank >= top_k.unsqueeze(1)) | ((before >= top_p) & (rank > 0))
    dropped = torch.zeros_like(outside).scatter(1, order, outside)
    return logprobs.masked_fill(dropped, float("-inf"))
