"""Grids expand in a fixed order, and wrong grids are refused whole."""

import pytest

from app.domain.sweep import expand, label
from app.errors import Invalid


def test_the_last_key_varies_fastest() -> None:
    grid = {"trainer.learning_rate": [0.1, 0.2], "trainer.seed": [1, 2]}
    points = [point["trainer"] for _, point in expand(grid)]
    assert points == [
        {"learning_rate": 0.1, "seed": 1},
        {"learning_rate": 0.1, "seed": 2},
        {"learning_rate": 0.2, "seed": 1},
        {"learning_rate": 0.2, "seed": 2},
    ]


def test_a_label_names_the_point() -> None:
    grid = {"trainer.learning_rate": [0.1], "trainer.seed": [2]}
    assert label(grid, expand(grid)[0][1]) == "learning_rate=0.1 seed=2"


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({}, "at least one key"),
        ({"trainer.sede": [1]}, "no key of a spec"),
        ({"trainer.seed": []}, "at least one value"),
        ({"trainer.seed": "12"}, "at least one value"),
        ({"trainer.seed": list(range(1001))}, "more than 1000"),
    ],
)
def test_wrong_grids_are_refused(grid: dict[str, list[int]], expected: str) -> None:
    with pytest.raises(Invalid, match=expected):
        expand(grid)
