"""The honest number: mean reward of sampled rollouts at temperature 1 on tasks kept out of all
training. Greedy decoding would flatter a model whose habits are noise around the right answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from workers.training.tiny.sampling import WorkspaceFactory, roll_out
from workers.training.tiny.tasks import Task

_BATCH = 64


@dataclass(frozen=True)
class Evaluation:
    rollouts: int
    reward: float
    commands: int
    unparsed: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def evaluate(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[Task],
    open_workspace: WorkspaceFactory,
    seed: int,
) -> Evaluation:
    """One sampled rollout per task. `open_workspace` decides where commands run: simulated while
    tuning, a sandbox in a real evaluation."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    rollouts = [
        rollout
        for start in range(0, len(tasks), _BATCH)
        for rollout in roll_out(
            model, tokenizer, tasks[start : start + _BATCH], open_workspace, generator
        )
    ]
    return Evaluation(
        rollouts=len(rollouts),
        reward=sum(rollout.reward for rollout in rollouts) / len(rollouts),
        commands=sum(len(rollout.commands) for rollout in rollouts),
        unparsed=sum(rollout.unparsed for rollout in rollouts),
    )
