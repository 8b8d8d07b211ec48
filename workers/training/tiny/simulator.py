"""SIMULATION, for tuning and benchmarks only: what a container would answer, without a container.

Training and evaluation of a run never use this module; they execute commands in real sandboxes.
It knows the demonstrator's command language and a little around it, runs the workspace's functions
in this process, and counts what it does not know. A unit test holds it against real `bash`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from workers.training.tiny.sources import PUBLIC_CHECK
from workers.training.tiny.tasks import Task

_LANGUAGE = re.compile(
    r"sed(?P<flag> -i)? 's/(?P<old>[a-z]+|[-+*%])/(?P<new>[a-z]+|[-+*%])/' (?P<file>[a-z]+\.py)"
    rf" && python3 {re.escape(PUBLIC_CHECK)}"
)


@dataclass
class SimulatedWorkspace:
    """The workspace of one rollout; the interface of a real one."""

    task: Task
    files: dict[str, str] = field(init=False)
    unknown: int = 0

    def __post_init__(self) -> None:
        self.files = self.task.files()

    def run(self, command: str) -> str:
        """The output of a command as a rollout's agent sees it: both streams, stripped."""
        match = _LANGUAGE.fullmatch(command)
        if match is None or match["file"] == PUBLIC_CHECK:
            self.unknown += 1
            return "error"
        if match["file"] not in self.files:
            return f"sed: can't read {match['file']}: No such file or directory"
        edited = _substitute(self.files[match["file"]], match["old"], match["new"])
        if not match["flag"]:
            return edited + self._check()
        self.files[match["file"]] = edited
        return self._check()

    def grade(self) -> float:
        """1.0 if every hidden case holds, else 0.0."""
        return float(all(self._value(m, f, a, b) == want for m, f, a, b, want in self.task.cases()))

    def close(self) -> None:
        """A real workspace gives its container back here."""

    def _check(self) -> str:
        c, (a, b) = self.task.combination, self.task.public_case
        got = self._value(c.module, c.function, a, b)
        if got == c.right.value(a, b):
            return "PASSED"
        return f"FAILED {c.function}({a}, {b}) = {got}"

    def _value(self, module: str, function: str, a: int, b: int) -> Any:
        scope: dict[str, Any] = {"__name__": module}
        try:
            exec(self.files[f"{module}.py"], scope)  # noqa: S102 - two lines of our own making
            return scope[function](a, b)
        except (SyntaxError, NameError, TypeError, KeyError, ZeroDivisionError) as error:
            name = type(error).__name__
            return "ImportError" if name == "KeyError" else name


def _substitute(text: str, old: str, new: str) -> str:
    """`sed s/old/new/`: the first occurrence of every line."""
    return "".join(line.replace(old, new, 1) for line in text.splitlines(keepends=True))
