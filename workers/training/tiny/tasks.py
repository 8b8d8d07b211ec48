"""The family of repair tasks: one small function in one of three modules computes the wrong thing.

A task is a *combination* (function, module, wrong operation, right operation) plus the distractor
modules around it. Combinations are partitioned once, by a hash, into warm-up, train and eval, so
that a combination met in evaluation was never demonstrated and never trained on.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from workers.training.tiny import sources

Split = Literal["warmup", "train", "eval"]
SPLITS: tuple[Split, ...] = ("warmup", "train", "eval")

IMAGE = "localhost/skydeck-task:1"
DATA_SOURCE = "skydeck/tiny-repair"
TEST_COMMAND = f"python3 -B {sources.HIDDEN_TESTS}"

MODULES = ("cart", "mail", "user", "game", "shop", "plan", "disk", "team")
FUNCTIONS = ("total", "area", "score", "price", "delay", "level", "width", "limit")
LISTED_MODULES = 3

# Inputs on which any two operations of one style differ at least once, so that a wrong repair
# which happens to satisfy the single public case still fails.
HIDDEN_CASES = ((5, 3), (2, 7), (4, 4), (9, 2))


@dataclass(frozen=True)
class Operation:
    """Something a function may compute: its name in prose and its spelling in Python."""

    noun: str
    symbol: str
    call: bool = False

    def expression(self) -> str:
        return f"{self.symbol}(a, b)" if self.call else f"a {self.symbol} b"

    def value(self, a: int, b: int) -> int:
        return int(eval(self.expression(), {"a": a, "b": b}))  # noqa: S307 - our own constant


OPERATIONS = (
    Operation("sum", "+"),
    Operation("difference", "-"),
    Operation("product", "*"),
    Operation("remainder", "%"),
    Operation("minimum", "min", call=True),
    Operation("maximum", "max", call=True),
    Operation("power", "pow", call=True),
)


@dataclass(frozen=True)
class Combination:
    """What is wrong and where; the unit of the partition into splits."""

    function: str
    module: str
    wrong: Operation
    right: Operation

    @property
    def key(self) -> str:
        return f"{self.module}.{self.function}:{self.wrong.noun}>{self.right.noun}"

    @property
    def split(self) -> Split:
        """3 of 5 combinations are for the warm-up, one for training, one for evaluation."""
        bucket = int(hashlib.sha256(self.key.encode()).hexdigest(), 16) % 5
        return "warmup" if bucket < 3 else "train" if bucket == 3 else "eval"


@dataclass(frozen=True)
class Task:
    """One repair task: a combination in a workspace with two other modules."""

    combination: Combination
    listing: tuple[str, ...]
    others: tuple[tuple[str, str, Operation], ...]
    public_case: tuple[int, int]

    @property
    def task_id(self) -> str:
        digest = hashlib.sha256(json.dumps(self.files(), sort_keys=True).encode()).hexdigest()[:8]
        return f"tiny-{self.combination.key}-{'-'.join(self.listing)}-{digest}"

    @property
    def target(self) -> str:
        return f"{self.combination.module}.py"

    def issue(self) -> str:
        c = self.combination
        files = " ".join(f"{name}.py" for name in self.listing)
        return (
            f"Bug: {c.function}() in {self.target} returns the {c.wrong.noun},"
            f" not the {c.right.noun}.\nFiles: {files} {sources.PUBLIC_CHECK}"
        )

    def files(self) -> dict[str, str]:
        """The workspace the agent sees."""
        c = self.combination
        modules = {name: sources.module(f, op.expression()) for name, f, op in self.others}
        modules[c.module] = sources.module(c.function, c.wrong.expression())
        a, b = self.public_case
        check = sources.public_check(c.module, c.function, a, b, c.right.value(a, b))
        return {
            **{f"{name}.py": modules[name] for name in self.listing},
            sources.PUBLIC_CHECK: check,
        }

    def cases(self) -> list[tuple[str, str, int, int, int]]:
        """Hidden cases (module, function, a, b, expected): the bug, and what worked before."""
        c = self.combination
        functions = ((c.module, c.function, c.right), *self.others)
        return [(m, f, a, b, op.value(a, b)) for m, f, op in functions for a, b in HIDDEN_CASES]

    def gold_patch(self) -> str:
        """The repair as a unified diff for `patch -p1`."""
        c = self.combination
        before = sources.module(c.function, c.wrong.expression()).splitlines(keepends=True)
        after = sources.module(c.function, c.right.expression()).splitlines(keepends=True)
        paths = (f"a/{self.target}", f"b/{self.target}")
        return "".join(difflib.unified_diff(before, after, *paths))

    def row(self) -> dict[str, Any]:
        """The task as a line of the dataset: `workers.contract.tasks.Task`."""
        return {
            "task_id": self.task_id,
            "prompt": [{"role": "user", "content": self.issue()}],
            "files": self.files(),
            "tests": {sources.HIDDEN_TESTS: sources.hidden_tests(self.cases())},
            "test_command": TEST_COMMAND,
            "gold_patch": self.gold_patch(),
            "image": IMAGE,
            "data_source": DATA_SOURCE,
            "split": self.combination.split,
        }


def same_style(operation: Operation) -> list[Operation]:
    """Operations that may stand where this one stands without a syntax error."""
    return [other for other in OPERATIONS if other.call == operation.call]


def combinations(split: Split) -> list[Combination]:
    """All combinations of one split, in a fixed order."""
    found = (
        Combination(function, module, wrong, right)
        for function in FUNCTIONS
        for module in MODULES
        for wrong in OPERATIONS
        for right in same_style(wrong)
        if wrong != right
    )
    return [combination for combination in found if combination.split == split]


def sample_task(rng: random.Random, pool: list[Combination]) -> Task:
    """Draw a combination and dress it with two other modules and a public case that shows it."""
    combination = rng.choice(pool)
    names = rng.sample([m for m in MODULES if m != combination.module], LISTED_MODULES - 1)
    functions = rng.sample([f for f in FUNCTIONS if f != combination.function], len(names))
    others = tuple(
        (name, function, rng.choice(OPERATIONS))
        for name, function in zip(names, functions, strict=True)
    )
    listing = [combination.module, *names]
    rng.shuffle(listing)
    shows = [
        case
        for case in HIDDEN_CASES
        if combination.wrong.value(*case) != combination.right.value(*case)
    ]
    return Task(combination, tuple(listing), others, rng.choice(shows))


def sample_tasks(seed: int, split: Split, count: int) -> list[Task]:
    """`count` different tasks of a split; the same seed gives the same tasks."""
    rng = random.Random(f"{split}-{seed}")
    pool = combinations(split)
    tasks: dict[str, Task] = {}
    while len(tasks) < count:
        task = sample_task(rng, pool)
        tasks.setdefault(task.task_id, task)
    return list(tasks.values())


def write_jsonl(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, sort_keys=True) + "\n" for row in rows)
