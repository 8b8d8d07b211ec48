"""The noisy beginner whose attempts the warm-up imitates, and the text in which an agent acts.

Her mistakes are few and independent, so that training has low-dimensional habits to unlearn:
`sed` without `-i` prints the change and keeps the file; the wrong file of those listed; the wrong
old or new text.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from workers.training.tiny.sources import PUBLIC_CHECK
from workers.training.tiny.tasks import Operation, Task, same_style

BASH_OPEN = "<function=execute_bash>"
FINISH_OPEN = "<function=finish>"
FUNCTION_CLOSE = "</function>"
PARAMETER_OPEN = "<parameter=command>"
PARAMETER_CLOSE = "</parameter>"
MARKERS = (BASH_OPEN, FINISH_OPEN, FUNCTION_CLOSE, PARAMETER_OPEN, PARAMETER_CLOSE)
FINISH = f"{FINISH_OPEN}{FUNCTION_CLOSE}"

_CALL = re.compile(
    r"\s*(?:<function=execute_bash>\s*<parameter=command>\s*(?P<command>.*?)\s*</parameter>"
    r"|(?P<finish><function=finish>))\s*</function>\s*",
    re.DOTALL,
)


@dataclass(frozen=True)
class Skill:
    """How often each part of an attempt is right; the parts are independent."""

    in_place: float
    file: float
    old: float
    new: float

    @property
    def first_try(self) -> float:
        return self.in_place * self.file * self.old * self.new


@dataclass(frozen=True)
class Edit:
    """One attempt in the demonstrator's command language."""

    in_place: bool
    old: str
    new: str
    file: str

    def command(self) -> str:
        flag = " -i" if self.in_place else ""
        return f"sed{flag} 's/{self.old}/{self.new}/' {self.file} && python3 {PUBLIC_CHECK}"


def call(command: str) -> str:
    return f"{BASH_OPEN}{PARAMETER_OPEN}{command}{PARAMETER_CLOSE}{FUNCTION_CLOSE}"


def parse(text: str) -> str | None:
    """The command of a tool call, "" for finish, None for text that is not exactly one call."""
    match = _CALL.fullmatch(text)
    if match is None:
        return None
    return "" if match["finish"] else match["command"]


def gold(task: Task) -> Edit:
    """The attempt that repairs the task."""
    c = task.combination
    return Edit(True, c.wrong.symbol, c.right.symbol, task.target)


def attempt(rng: random.Random, task: Task, skill: Skill) -> Edit:
    """One attempt at a task, with independent mistakes."""
    c = task.combination
    others = [f"{name}.py" for name in task.listing if name != c.module]
    old = c.wrong if rng.random() < skill.old else _other(rng, c.wrong, c.wrong)
    new = c.right if rng.random() < skill.new else _other(rng, c.right, c.wrong)
    return Edit(
        in_place=rng.random() < skill.in_place,
        old=old.symbol,
        new=new.symbol,
        file=task.target if rng.random() < skill.file else rng.choice(others),
    )


def _other(rng: random.Random, right: Operation, wrong: Operation) -> Operation:
    return rng.choice([op for op in same_style(wrong) if op not in (right, wrong)])
