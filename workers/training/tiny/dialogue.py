"""Dialogues as token ids, for the warm-up and for sampling.

An observation is a message of role `tool`, rendered by the chat template like every other message.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from workers.training.tiny import demonstrator
from workers.training.tiny.demonstrator import Skill
from workers.training.tiny.simulator import SimulatedWorkspace
from workers.training.tiny.tasks import Task

MAX_TURNS = 3
TURN_TOKENS = 28
PROMPT_TOKENS = 48
RESPONSE_TOKENS = 144


class Workspace(Protocol):
    """Where a rollout's commands run: simulated here, a sandbox in a real evaluation."""

    def run(self, command: str) -> str: ...
    def grade(self) -> float: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Tokens:
    """Ids and, for each, whether the agent produced it."""

    ids: list[int]
    mask: list[int]


def prompt_ids(tokenizer: PreTrainedTokenizerFast, task: Task) -> list[int]:
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": task.issue()}], tokenize=False, add_generation_prompt=True
    )
    return encode(tokenizer, str(text))


def observation_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """What follows the agent's end token: the observation and the next generation prompt."""
    return encode(tokenizer, f"\n<|im_start|>tool\n{text}<|im_end|>\n<|im_start|>assistant\n")


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def demonstrate(
    rng: random.Random,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    skill: Skill,
    turns: int = MAX_TURNS,
) -> Tokens:
    """One demonstrated dialogue: attempts until the check passes, then finish.

    She never finishes on a failed check. Had she, training would punish the call that ends a
    rollout together with the attempts before it, and it would decay into unparsable text.
    """
    ids = prompt_ids(tokenizer, task)
    mask = [0] * len(ids)
    workspace = SimulatedWorkspace(task)

    def extend(more: list[int], own: int) -> None:
        ids.extend(more)
        mask.extend([own] * len(more))

    observation = ""
    for turn in range(turns):
        if turn:
            extend(observation_ids(tokenizer, observation), 0)
        if observation == "PASSED":
            extend(encode(tokenizer, demonstrator.FINISH + "<|im_end|>"), 1)
            break
        command = demonstrator.attempt(rng, task, skill).command()
        observation = workspace.run(command)
        extend(encode(tokenizer, demonstrator.call(command) + "<|im_end|>"), 1)
    return Tokens(ids, mask)
