"""Symptoms that the reported numbers of a step show by themselves. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from app.db.facts import StepTotals

INFRASTRUCTURE_SHARE = 0.2


@dataclass(frozen=True)
class Symptom:
    code: str
    severity: str
    text: str


def is_complete(totals: StepTotals, expected_samples: int, last_step: int) -> bool:
    """Nothing more will come: all samples are in, or the trainer has finished a later step."""
    return totals.samples >= expected_samples or last_step > totals.step


def symptoms(totals: StepTotals) -> Iterator[Symptom]:
    """What is wrong with a complete step."""
    if totals.scored and totals.trainable_tokens == 0:
        yield Symptom(
            "no_trainable_tokens",
            "error",
            f"Step {totals.step}: {totals.scored} scored rollouts hold no trainable token, so "
            "nothing was learned. Look at a transcript: are the model's turns marked trainable?",
        )
    if totals.scored and totals.groups and totals.groups_with_advantage == 0:
        yield Symptom(
            "no_advantage",
            "warning",
            f"Step {totals.step}: within each of {totals.groups} groups all rewards are equal, so "
            "every advantage is zero. Mix easier and harder tasks, or raise rollouts_per_prompt.",
        )
    share = totals.invalid / totals.rollouts if totals.rollouts else 0.0
    if share > INFRASTRUCTURE_SHARE:
        yield Symptom(
            "infrastructure_failures",
            "error" if share > 0.5 else "warning",
            f"Step {totals.step}: {totals.invalid} of {totals.rollouts} rollouts failed for "
            "reasons of infrastructure. Filter the rollouts by state INVALID and read the details.",
        )
