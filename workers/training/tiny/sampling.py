"""Batched multi-turn sampling at temperature 1 with plain torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen2ForCausalLM

from workers.training.tiny import demonstrator
from workers.training.tiny.dialogue import (
    MAX_TURNS,
    TURN_TOKENS,
    Workspace,
    observation_ids,
    prompt_ids,
)
from workers.training.tiny.tasks import Task

WorkspaceFactory = Callable[[Task], Workspace]


@dataclass
class Rollout:
    """One trajectory: ids from the prompt on, and which of them the model chose."""

    task: Task
    workspace: Workspace
    ids: list[int]
    mask: list[int]
    log_probs: list[float]
    commands: list[str] = field(default_factory=list)
    unparsed: int = 0
    reward: float = 0.0
    over: bool = False


@torch.no_grad()
def roll_out(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[Task],
    open_workspace: WorkspaceFactory,
    generator: torch.Generator,
) -> list[Rollout]:
    """One rollout per task (repeat a task for a group), graded."""
    rollouts = [_begin(tokenizer, task, open_workspace(task)) for task in tasks]
    try:
        for _ in range(MAX_TURNS):
            active = [rollout for rollout in rollouts if not rollout.over]
            if not active:
                break
            _turn(model, tokenizer, active, generator)
        for rollout in rollouts:
            rollout.reward = rollout.workspace.grade()
    finally:
        for rollout in rollouts:
            rollout.workspace.close()
    return rollouts


def _begin(tokenizer: PreTrainedTokenizerFast, task: Task, workspace: Workspace) -> Rollout:
    ids = prompt_ids(tokenizer, task)
    return Rollout(task, workspace, ids, [0] * len(ids), [0.0] * len(ids))


def _turn(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    active: list[Rollout],
    generator: torch.Generator,
) -> None:
    end = int(tokenizer.eos_token_id)
    pad = int(tokenizer.pad_token_id)
    texts = generate(model, [rollout.ids for rollout in active], end, pad, generator)
    for rollout, (ids, log_probs) in zip(active, texts, strict=True):
        rollout.ids += ids
        rollout.mask += [1] * len(ids)
        rollout.log_probs += log_probs
        _act(tokenizer, rollout, ids, ended=ids[-1] == end)


def _act(tokenizer: PreTrainedTokenizerFast, rollout: Rollout, ids: list[int], ended: bool) -> None:
    """Run the call; text that is no call, or was cut, ends the rollout, which is still graded."""
    command = demonstrator.parse(str(tokenizer.decode(ids, skip_special_tokens=True)))
    if not ended or not command:
        rollout.over = True
        rollout.unparsed += command is None or not ended
        return
    rollout.commands.append(command)
    observed = observation_ids(tokenizer, rollout.workspace.run(command))
    rollout.ids += observed
    rollout.mask += [0] * len(observed)
    rollout.log_probs += [0.0] * len(observed)


def generate(
    model: Qwen2ForCausalLM,
    prompts: Sequence[list[int]],
    end: int,
    pad: int,
    generator: torch.Generator,
) -> list[tuple[list[int], list[float]]]:
    """Sample each prompt's continuation up to and including the end token."""
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    attention = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    positions = (attention.cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache()
    out: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
    done = torch.zeros(len(prompts), dtype=torch.bool)
    for _ in range(TURN_TOKENS):
        logits = (
            model(
                input_ids=ids.to(model.device),
                attention_mask=attention.to(model.device),
                position_ids=positions.to(model.device),
                past_key_values=cache,
                logits_to_keep=1,
            )
            .logits[:, -1]
            .cpu()
        )
        log_probs = logits.log_softmax(-1)
        chosen = torch.multinomial(log_probs.exp(), 1, generator=generator)
        picked = log_probs.gather(-1, chosen).squeeze(-1).tolist()
        for row, token in enumerate(chosen.squeeze(-1).tolist()):
            if not done[row]:
                out[row][0].append(token)
                out[row][1].append(picked[row])
        done |= chosen.squeeze(-1) == end
        if bool(done.all()):
            break
        ids = chosen
        attention = torch.cat([attention, torch.ones(len(prompts), 1, dtype=torch.long)], -1)
        positions = positions[:, -1:] + 1
    return out
