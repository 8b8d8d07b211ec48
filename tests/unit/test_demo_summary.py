"""The demo's verdict: proof needs all four truths."""

from typing import Any

import pytest

from examples.demo.summary import fifths, phases, shortfalls, summarise, table


def run(**totals: int) -> dict[str, Any]:
    counted = {
        "rollouts": 20,
        "scored": 19,
        "invalid": 1,
        "turns": 40,
        "parsed": 38,
        "executed": 37,
        "malformed": 2,
        "graded": 15,
        "trainable_tokens": 900,
    }
    return {
        "id": "r1",
        "state": "SUCCEEDED",
        "reason": "trainer_completed",
        "totals": {**counted, **totals},
        "jobs": [
            {"role": "runtime", "started_at": "2026-01-01T00:00:02+00:00"},
            {"role": "trainer", "started_at": "2026-01-01T00:00:05+00:00"},
        ],
        "attempts": [{"trainer_registered_at": None}],
        "created_at": "2026-01-01T00:00:00+00:00",
        "ended_at": "2026-01-01T00:01:05+00:00",
    }


def step(number: int, reward: float) -> dict[str, Any]:
    return {
        "number": number,
        "reward": reward,
        "rollouts": 4,
        "trainable_tokens": 90,
        "groups": 2,
        "groups_with_advantage": 1,
    }


STEPS = [step(number, number / 10) for number in range(1, 11)]
CHECKPOINTS = [
    {"complete": True, "bytes": 9},
    {"complete": False, "bytes": 4},
    {"complete": False, "bytes": 0},
]


def summary(**totals: int) -> dict[str, Any]:
    return summarise(run(**totals), STEPS, CHECKPOINTS, [], {"world": 1.0})


def test_a_run_in_which_everything_happened_is_proof() -> None:
    made = summary()
    assert shortfalls(made) == []
    assert made["reward"]["first_fifth"] == pytest.approx(0.15)
    assert made["reward"]["ratio"] == pytest.approx(6.33)
    assert made["checkpoints"] == {"complete": 1, "partial": 1, "deleted_by_trainer": 1}


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        ("executed", "no tool call was executed"),
        ("graded", "no rollout was graded"),
        ("trainable_tokens", "no token was trainable"),
    ],
)
def test_a_truth_that_does_not_hold_is_named(missing: str, text: str) -> None:
    assert any(text in line for line in shortfalls(summary(**{missing: 0})))


def test_a_run_without_steps_has_no_reward_and_no_proof() -> None:
    made = summarise(run(), [], [], [], {})
    assert made["reward"]["first_fifth"] is None
    assert "no checkpoint is complete" in shortfalls(made)
    assert "-" in table(made)


def test_fifths_ignore_steps_without_reward() -> None:
    assert fifths([None, 0.2, 0.4, None]) == (0.2, 0.4)


def test_phases_are_the_seconds_between_known_moments() -> None:
    assert phases(run()) == {
        "launched to runtime started": 2.0,
        "runtime started to trainer started": 3.0,
        "trainer started to ended": 60.0,
    }


def test_held_out_tasks_are_compared_before_and_after() -> None:
    evaluation = [
        {"state": "SCORED", "step": 0, "reward": 0.0},
        {"state": "SCORED", "step": 0, "reward": 1.0},
        {"state": "INVALID", "step": 10, "reward": None},
        {"state": "SCORED", "step": 10, "reward": 1.0},
    ]
    made = summarise(run(), STEPS, CHECKPOINTS, evaluation, {})
    assert made["evaluation"] == {"before": 0.5, "after": 1.0, "rollouts": 3}
