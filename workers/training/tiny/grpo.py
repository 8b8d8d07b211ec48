"""SIMULATION, for tuning only: GRPO in plain torch on simulated workspaces.

It follows the settings that the demo gives to verl (group-normalised advantage, no KL, no entropy
bonus, one mini-batch, temperature 1, mean over tokens), so that warm-up and hyper-parameters can be
tried over many seeds in minutes. The demo itself trains with verl.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from workers.training.tiny.sampling import Rollout, WorkspaceFactory, roll_out
from workers.training.tiny.tasks import Task


@dataclass(frozen=True)
class Hyper:
    """The numbers that verl gets as well."""

    prompts: int
    n: int
    steps: int
    lr: float
    clip: float = 0.2
    grad_norm: float = 1.0


@dataclass(frozen=True)
class StepReport:
    step: int
    reward: float
    informative_groups: int
    unparsed: int
    loss: float
    grad_norm: float


def train(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: list[Task],
    open_workspace: WorkspaceFactory,
    hyper: Hyper,
    seed: int,
    report: Callable[[StepReport], None],
) -> None:
    """Train in place, one optimiser step per batch of prompts."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=hyper.lr, weight_decay=0.0)
    batches = _prompts(tasks, hyper.prompts, seed)
    for step in range(1, hyper.steps + 1):
        grouped = [task for task in next(batches) for _ in range(hyper.n)]
        rollouts = roll_out(model, tokenizer, grouped, open_workspace, generator)
        rewards = torch.tensor([rollout.reward for rollout in rollouts]).view(-1, hyper.n)
        deviation = rewards.std(-1, keepdim=True)
        advantages = (rewards - rewards.mean(-1, keepdim=True)) / (deviation + 1e-6)
        loss = policy_loss(model, rollouts, advantages.flatten(), hyper.clip)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), hyper.grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        report(
            StepReport(
                step=step,
                reward=float(rewards.mean()),
                informative_groups=int((deviation > 0).sum()),
                unparsed=sum(rollout.unparsed for rollout in rollouts),
                loss=float(loss.detach()),
                grad_norm=float(norm),
            )
        )


def policy_loss(
    model: Qwen2ForCausalLM, rollouts: list[Rollout], advantages: torch.Tensor, clip: float
) -> torch.Tensor:
    """Clipped policy-gradient loss, mean over the tokens that the model chose."""
    width = max(len(rollout.ids) for rollout in rollouts)

    def padded(rows: list[list[int]] | list[list[float]]) -> torch.Tensor:
        filled = [[*row, *[0] * (width - len(row))] for row in rows]
        return torch.tensor(filled, device=model.device)

    ids = padded([rollout.ids for rollout in rollouts])
    attention = padded([[1] * len(rollout.ids) for rollout in rollouts])
    mask = padded([rollout.mask for rollout in rollouts])[:, 1:]
    old = padded([rollout.log_probs for rollout in rollouts])[:, 1:]
    logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
    new = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    ratio = (new - old).exp()
    gain = advantages[:, None].to(model.device)
    kept = torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    return -(kept * mask).sum() / mask.sum()


def _prompts(tasks: list[Task], size: int, seed: int) -> Iterator[list[Task]]:
    rng = random.Random(f"prompts-{seed}")
    while True:
        order = rng.sample(tasks, len(tasks))
        for start in range(0, len(order) - size + 1, size):
            yield order[start : start + size]
