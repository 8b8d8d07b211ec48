"""A grid over spec keys, expanded in a fixed order."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.spec import known_keys, nest
from app.errors import Invalid

MAX_RUNS = 1000


def expand(grid: Mapping[str, Sequence[Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Each combination as (index, nested overrides); the last key of the grid varies fastest.

    Raises Invalid for an unknown key, an empty axis, or more than MAX_RUNS combinations.
    """
    _check(grid)
    points = itertools.product(*grid.values())
    return [(i, nest(dict(zip(grid, point, strict=True)))) for i, point in enumerate(points)]


def label(grid: Mapping[str, Sequence[Any]], overrides: Mapping[str, Any]) -> str:
    """A short name of one point: ``learning_rate=0.001 seed=2``."""
    parts: list[str] = []
    for key in grid:
        value: Any = overrides
        for part in key.split("."):
            value = value[part]
        parts.append(f"{key.rsplit('.', 1)[-1]}={value}")
    return " ".join(parts)


def _check(grid: Mapping[str, Sequence[Any]]) -> None:
    known = set(known_keys())
    problems: list[str] = []
    for key, values in grid.items():
        if key not in known and not key.startswith(("trainer.overrides.", "trainer.environment.")):
            problems.append(f"grid: {key} is no key of a spec")
        if isinstance(values, str) or not values:
            problems.append(f"grid: {key} needs a list of at least one value")
    if problems or not grid:
        raise Invalid("\n".join(problems) or "grid: name at least one key")
    total = 1
    for values in grid.values():
        total *= len(values)
    if total > MAX_RUNS:
        raise Invalid(f"grid: {total} runs are more than {MAX_RUNS}; split the sweep")
