"""The supervised warm-up: the model imitates the noisy demonstrator on warm-up combinations."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from workers.training.tiny import tasks
from workers.training.tiny.dialogue import Tokens, demonstrate
from workers.training.tiny.recipe import Phase, Schedule

IGNORED = -100
_POOL = 16  # batches sorted by length together, so that padding is small


def train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    phase: Phase,
    seed: int,
    report: Callable[[int, float], None],
) -> None:
    """Train in place; `report(step, mean loss per demonstrated token)` is called every step."""
    schedule = phase.schedule
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _lr(step, schedule))
    batches = _batches(tokenizer, phase, seed)
    model.train()
    for step in range(1, schedule.steps + 1):
        padded = _pad(next(batches), int(tokenizer.pad_token_id))
        ids, attention, labels = (tensor.to(model.device) for tensor in padded)
        loss = model(input_ids=ids, attention_mask=attention, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        report(step, float(loss.detach()))
    model.eval()


def _lr(step: int, schedule: Schedule) -> float:
    if step < schedule.ramp:
        return (step + 1) / schedule.ramp
    done = (step - schedule.ramp) / max(1, schedule.steps - schedule.ramp)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * done))


def _batches(tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int) -> Iterator[list[Tokens]]:
    rng = random.Random(f"warmup-{seed}-{phase}")
    size = phase.schedule.batch
    pool = tasks.combinations("warmup")
    while True:
        drawn = [
            demonstrate(rng, tokenizer, tasks.sample_task(rng, pool), phase.skill, phase.turns)
            for _ in range(size * _POOL)
        ]
        drawn.sort(key=lambda tokens: len(tokens.ids))
        batches = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        rng.shuffle(batches)
        yield from batches


def _pad(batch: list[Tokens], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(tokens.ids) for tokens in batch)
    ids = torch.full((len(batch), width), pad)
    attention = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), IGNORED)
    for row, tokens in enumerate(batch):
        own = [i if m else IGNORED for i, m in zip(tokens.ids, tokens.mask, strict=True)]
        ids[row, : len(own)] = torch.tensor(tokens.ids)
        attention[row, : len(own)] = 1
        labels[row, : len(own)] = torch.tensor(own)
    return ids, attention, labels
