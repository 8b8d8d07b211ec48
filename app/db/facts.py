"""Reported facts: rollouts, steps, checkpoints, findings. No run state is touched here."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Subquery, case, func, select, tuple_
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import (
    Checkpoint,
    Finding,
    ReportSequence,
    Rollout,
    RolloutBody,
    StepMetrics,
)
from workers.contract.reports import RolloutState

# Equal rewards within a group give no advantage; a difference below this is rounding.
EQUAL = 1e-9


@dataclass(frozen=True)
class StepTotals:
    """Sums over the training rollouts of one step of one attempt."""

    attempt: int
    step: int
    rollouts: int
    samples: int
    """Distinct (group, sample): repeated tries of one sample count once."""
    scored: int
    invalid: int
    trainable_tokens: int
    groups: int
    groups_with_advantage: int


def accept(session: Session, batch: ReportSequence) -> bool:
    """Note that a batch was taken; False if it had been taken before, also at the same moment."""
    key = (batch.run_id, batch.attempt, batch.source, batch.sequence)
    if session.get(ReportSequence, key) is not None:
        return False
    try:
        with session.begin_nested():
            session.add(batch)
    except IntegrityError:
        return False
    return True


def pack(body: dict[str, Any]) -> bytes:
    return zlib.compress(json.dumps(body, separators=(",", ":")).encode())


def put(session: Session, row: Rollout | RolloutBody | StepMetrics | Checkpoint) -> None:
    """Insert, or replace the row of the same key: the newest report of a thing counts."""
    session.merge(row)
    session.flush()


def add_finding(session: Session, finding: Finding) -> bool:
    """False if this finding is known already for this attempt and step."""
    known = session.scalar(
        select(Finding.id).where(
            Finding.run_id == finding.run_id,
            Finding.attempt == finding.attempt,
            Finding.code == finding.code,
            Finding.step.is_not_distinct_from(finding.step),
        )
    )
    if known is not None:
        return False
    session.add(finding)
    session.flush()
    return True


def newest_complete(session: ReadSession, run_id: str) -> Checkpoint | None:
    """The complete checkpoint of the highest step of all attempts; of equals the latest."""
    return session.scalar(
        select(Checkpoint)
        .where(Checkpoint.run_id == run_id, Checkpoint.complete.is_(True))
        .order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())
        .limit(1)
    )


def metrics(session: ReadSession, run_id: str) -> list[StepMetrics]:
    """One row per step; where attempts repeated a step, the latest attempt's."""
    query = select(StepMetrics).where(StepMetrics.run_id == run_id)
    rows = session.scalars(query.order_by(StepMetrics.step, StepMetrics.attempt))
    return list({row.step: row for row in rows}.values())


def last_metrics_step(session: ReadSession, run_id: str, attempt: int) -> int:
    query = select(func.max(StepMetrics.step)).where(
        StepMetrics.run_id == run_id, StepMetrics.attempt == attempt
    )
    return session.scalar(query) or 0


def step_totals(
    session: ReadSession, run_id: str, steps: Sequence[tuple[int, int]]
) -> list[StepTotals]:
    """Totals of these (attempt, step) pairs, in that order."""
    groups = _groups(run_id, steps)
    rows = session.execute(
        select(
            groups.c.attempt,
            groups.c.step,
            func.sum(groups.c.rollouts),
            func.sum(groups.c.samples),
            func.sum(groups.c.scored),
            func.sum(groups.c.invalid),
            func.sum(groups.c.trainable),
            func.count(),
            func.sum(case((groups.c.highest - groups.c.lowest > EQUAL, 1), else_=0)),
        )
        .group_by(groups.c.attempt, groups.c.step)
        .order_by(groups.c.attempt, groups.c.step)
    )
    return [StepTotals(*(int(value or 0) for value in row)) for row in rows]


def _groups(run_id: str, steps: Sequence[tuple[int, int]]) -> Subquery:
    """Sums per group of one prompt: the unit within which rewards are compared."""
    is_scored = Rollout.state == RolloutState.SCORED
    reward = case((is_scored, Rollout.reward), else_=None)
    return (
        select(
            Rollout.attempt,
            Rollout.step,
            func.count().label("rollouts"),
            func.count(Rollout.sample.distinct()).label("samples"),
            func.sum(case((is_scored, 1), else_=0)).label("scored"),
            func.sum(case((Rollout.state == RolloutState.INVALID, 1), else_=0)).label("invalid"),
            func.sum(case((is_scored, Rollout.trainable_tokens), else_=0)).label("trainable"),
            func.max(reward).label("highest"),
            func.min(reward).label("lowest"),
        )
        .where(
            Rollout.run_id == run_id,
            Rollout.validation.is_(False),
            tuple_(Rollout.attempt, Rollout.step).in_(steps),
        )
        .group_by(Rollout.attempt, Rollout.step, Rollout.group)
        .subquery()
    )
