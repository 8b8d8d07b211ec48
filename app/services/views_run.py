"""What the sections of a run's page show; each section can be read alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, or_, select

from app.db.engine import ReadSession
from app.db.tables import (
    Attempt,
    Checkpoint,
    Event,
    Experiment,
    Finding,
    Job,
    Rollout,
    Run,
    Runtime,
    Sandbox,
    Sweep,
)
from app.domain.spec import flatten
from app.domain.states import RUN_FINAL
from app.errors import NotFound
from app.services.views_learning import (
    Step,
    Totals,
    Truth,
    first_and_last,
    steps_with_metrics,
    totals,
    truths,
)
from workers.contract.reports import InvalidReason, RolloutEnd, RolloutState
from workers.contract.sandbox_api import SandboxState

EVENTS_SHOWN = 100
SANDBOXES_SHOWN = 60
ROLLOUTS_SHOWN = 50
SEVERITY = {"error": 0, "warning": 1, "info": 2}


@dataclass(frozen=True)
class RunHead:
    run: Run
    experiment: Experiment | None
    sweep: Sweep | None
    attempt: Attempt | None
    final: bool
    last_event: int
    """Newest event of the run: the live stream goes on behind it."""


@dataclass(frozen=True)
class Learning:
    truths: tuple[Truth, ...]
    totals: Totals
    steps: tuple[Step, ...]
    reward: tuple[float, float] | None


@dataclass(frozen=True)
class SandboxCounts:
    total: int
    by_state: dict[SandboxState, int]
    by_failure: dict[str, int]


@dataclass(frozen=True)
class SandboxPage:
    rows: tuple[Sandbox, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class RolloutFilter:
    step: int | None = None
    state: RolloutState | None = None
    end: RolloutEnd | None = None
    invalid: InvalidReason | None = None
    passed: bool | None = None
    validation: bool | None = None
    task: str = ""
    before: str | None = None
    """Cursor: id of the last rollout of the page before."""


@dataclass(frozen=True)
class RolloutPage:
    rows: tuple[Rollout, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class SpecLine:
    key: str
    value: Any
    origin: str


def get_run(session: ReadSession, run_id: str) -> Run:
    run = session.get(Run, run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    return run


def head(session: ReadSession, run_id: str) -> RunHead:
    run = get_run(session, run_id)
    last = session.scalar(select(func.max(Event.id)).where(Event.run_id == run_id))
    return RunHead(
        run=run,
        experiment=session.get(Experiment, run.experiment_id),
        sweep=session.get(Sweep, run.sweep_id) if run.sweep_id else None,
        attempt=session.get(Attempt, (run_id, run.attempt)),
        final=run.state in RUN_FINAL,
        last_event=last or 0,
    )


def learning(session: ReadSession, run: Run) -> Learning:
    known = steps_with_metrics(session, run.id)
    total = totals(session, [run.id]).get(run.id, Totals())
    current = [job for job in jobs(session, run.id) if job.attempt == run.attempt]
    return Learning(
        truths=truths(run.state, current, total, known),
        totals=total,
        steps=tuple(known),
        reward=first_and_last(known),
    )


def jobs(session: ReadSession, run_id: str) -> list[Job]:
    """Newest attempt first, within it in the order in which they were planned."""
    query = select(Job).where(Job.run_id == run_id).order_by(Job.attempt.desc(), Job.id)
    return list(session.scalars(query))


def attempts(session: ReadSession, run_id: str) -> list[Attempt]:
    query = select(Attempt).where(Attempt.run_id == run_id).order_by(Attempt.number.desc())
    return list(session.scalars(query))


def runtimes(session: ReadSession, run_id: str) -> list[Runtime]:
    query = (
        select(Runtime)
        .where(Runtime.run_id == run_id)
        .order_by(Runtime.attempt.desc(), Runtime.index, Runtime.generation.desc())
    )
    return list(session.scalars(query))


def sandboxes(
    session: ReadSession, run_id: str, limit: int = SANDBOXES_SHOWN, before: str | None = None
) -> SandboxPage:
    """Newest first; ``before`` is the id of the last sandbox of the page before."""
    query = (
        select(Sandbox)
        .where(Sandbox.run_id == run_id)
        .order_by(Sandbox.created_at.desc(), Sandbox.id)
        .limit(limit + 1)
    )
    last = session.get(Sandbox, before) if before else None
    if last is not None:
        query = query.where(
            or_(
                Sandbox.created_at < last.created_at,
                and_(Sandbox.created_at == last.created_at, Sandbox.id > last.id),
            )
        )
    found = list(session.scalars(query))
    more = found[limit - 1].id if len(found) > limit else None
    return SandboxPage(tuple(found[:limit]), more)


def sandbox_counts(session: ReadSession, run_id: str) -> SandboxCounts:
    rows = list(
        session.execute(
            select(Sandbox.state, Sandbox.failure, func.count())
            .where(Sandbox.run_id == run_id)
            .group_by(Sandbox.state, Sandbox.failure)
        )
    )
    by_state: dict[SandboxState, int] = {}
    by_failure: dict[str, int] = {}
    for state, failure, count in rows:
        by_state[state] = by_state.get(state, 0) + count
        if failure:
            by_failure[failure] = by_failure.get(failure, 0) + count
    return SandboxCounts(sum(by_state.values()), by_state, by_failure)


def rollouts(
    session: ReadSession, run_id: str, wanted: RolloutFilter, limit: int = ROLLOUTS_SHOWN
) -> RolloutPage:
    """Newest first: by attempt, step, then id."""
    query = (
        select(Rollout)
        .where(Rollout.run_id == run_id, *_rollout_conditions(session, wanted))
        .order_by(Rollout.attempt.desc(), Rollout.step.desc(), Rollout.id)
        .limit(limit + 1)
    )
    found = list(session.scalars(query))
    more = found[limit - 1].id if len(found) > limit else None
    return RolloutPage(tuple(found[:limit]), more)


def checkpoints(session: ReadSession, run_id: str) -> list[Checkpoint]:
    query = (
        select(Checkpoint)
        .where(Checkpoint.run_id == run_id)
        .order_by(Checkpoint.attempt.desc(), Checkpoint.step.desc())
    )
    return list(session.scalars(query))


def findings(session: ReadSession, run_id: str) -> list[Finding]:
    """The gravest first, then the newest."""
    found = session.scalars(
        select(Finding).where(Finding.run_id == run_id).order_by(Finding.id.desc()).limit(100)
    )
    return sorted(found, key=lambda finding: SEVERITY.get(finding.severity, 3))


def events(session: ReadSession, run_id: str, before: int | None = None) -> list[Event]:
    """The newest ones, without those that only say that rollouts arrived: one for each would
    bury everything else."""
    telling = (Event.run_id == run_id, Event.kind != "rollouts.reported")
    query = select(Event).where(*telling).order_by(Event.id.desc())
    if before is not None:
        query = query.where(Event.id < before)
    return list(session.scalars(query.limit(EVENTS_SHOWN)))


def spec_lines(spec: Mapping[str, Any], origins: Mapping[str, str]) -> list[SpecLine]:
    return [SpecLine(key, value, origins.get(key, "default")) for key, value in flatten(spec)]


def _rollout_conditions(session: ReadSession, wanted: RolloutFilter):
    for column, value in (
        (Rollout.step, wanted.step),
        (Rollout.state, wanted.state),
        (Rollout.end, wanted.end),
        (Rollout.invalid_reason, wanted.invalid),
        (Rollout.validation, wanted.validation),
    ):
        if value is not None:
            yield column == value
    if wanted.passed is not None:
        yield Rollout.reward > 0 if wanted.passed else Rollout.reward <= 0
    if wanted.task:
        yield Rollout.task_id.icontains(wanted.task, autoescape=True)
    last = session.get(Rollout, wanted.before) if wanted.before else None
    if last is not None:
        yield (
            (Rollout.attempt < last.attempt)
            | ((Rollout.attempt == last.attempt) & (Rollout.step < last.step))
            | (
                (Rollout.attempt == last.attempt)
                & (Rollout.step == last.step)
                & (Rollout.id > last.id)
            )
        )
