"""Whether a run learns: the numbers per optimiser step and the four truths about a run.

"Jobs run" is not "it learns". The four truths are counted apart and never inferred from
each other: jobs up; tools executed in the sandbox; tests graded; a learning signal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from operator import attrgetter
from typing import Any, cast

from sqlalchemy import ColumnElement, Integer, and_, case, func, select
from sqlalchemy import cast as sql_cast

from app.db.engine import ReadSession
from app.db.facts import EQUAL
from app.db.tables import Job, Rollout, StepMetrics
from app.domain.states import RUN_FINAL, JobState, RunState
from workers.contract.reports import RolloutState

_GRAD_NORM = ("actor/grad_norm", "grad_norm")
_STEP_SECONDS = ("timing_s/step", "perf/time_per_step", "step_seconds")


class Verdict(StrEnum):
    YES = "yes"
    NO = "no"
    WAIT = "wait"


@dataclass(frozen=True)
class Truth:
    key: str
    label: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class Totals:
    """Sums over the training rollouts of a run (evaluation rollouts are not counted).

    What only a score makes worth anything, tests and trainable tokens, is summed over the scored
    ones, whatever a worker says of the others.
    """

    rollouts: int = 0
    scored: int = 0
    invalid: int = 0
    turns: int = 0
    parsed: int = 0
    executed: int = 0
    malformed: int = 0
    graded: int = 0
    trainable_tokens: int = 0


@dataclass(frozen=True)
class Step:
    number: int
    attempt: int
    reward: float | None
    rollouts: int
    scored: int
    invalid: int
    executed: int
    graded: int
    trainable_tokens: int
    groups: int
    groups_with_advantage: int
    grad_norm: float | None = None
    seconds: float | None = None


def totals(session: ReadSession, run_ids: Sequence[str]) -> dict[str, Totals]:
    rows = session.execute(
        select(
            Rollout.run_id,
            func.count(),
            *_counts(),
            func.sum(Rollout.turns_count),
            func.sum(Rollout.calls_parsed),
            func.sum(Rollout.calls_malformed),
        )
        .where(Rollout.run_id.in_(run_ids), Rollout.validation.is_(False))
        .group_by(Rollout.run_id)
    )
    return {
        run_id: Totals(
            rollouts=count,
            scored=scored,
            invalid=invalid,
            turns=turns,
            parsed=parsed,
            executed=executed,
            malformed=malformed,
            graded=graded,
            trainable_tokens=tokens,
        )
        for run_id, count, scored, invalid, executed, graded, tokens, turns, parsed, malformed in (
            rows
        )
    }


def steps(session: ReadSession, run_ids: Sequence[str]) -> dict[str, list[Step]]:
    """Steps of each run in order; of a step that was repeated, the newest attempt's."""
    groups = _groups(session, run_ids)
    found_rows = session.execute(
        select(
            Rollout.run_id,
            Rollout.attempt,
            Rollout.step,
            func.count(),
            func.avg(Rollout.reward),
            *_counts(),
        )
        .where(Rollout.run_id.in_(run_ids), Rollout.validation.is_(False), Rollout.step > 0)
        .group_by(Rollout.run_id, Rollout.attempt, Rollout.step)
    )
    rows = cast("Iterable[Any]", found_rows)  # more columns than the typed forms have
    found = [
        (
            run_id,
            Step(
                number=step,
                attempt=attempt,
                reward=None if reward is None else float(reward),
                rollouts=count,
                scored=scored,
                invalid=invalid,
                executed=executed,
                graded=graded,
                trainable_tokens=tokens,
                groups=groups.get((run_id, attempt, step), (0, 0))[0],
                groups_with_advantage=groups.get((run_id, attempt, step), (0, 0))[1],
            ),
        )
        for run_id, attempt, step, count, reward, scored, invalid, executed, graded, tokens in rows
    ]
    return {run_id: newest(step for owner, step in found if owner == run_id) for run_id in run_ids}


def steps_with_metrics(session: ReadSession, run_id: str) -> list[Step]:
    """As :func:`steps`, with the trainer's own metrics; a step with metrics alone counts too."""
    reported = session.execute(
        select(StepMetrics.attempt, StepMetrics.step, StepMetrics.metrics).where(
            StepMetrics.run_id == run_id
        )
    )
    metrics = {(attempt, step): values for attempt, step, values in reported}
    known = steps(session, [run_id])[run_id]
    seen = {(step.attempt, step.number) for step in known}
    bare = [_bare(attempt, step) for attempt, step in metrics if (attempt, step) not in seen]
    return [
        _measured(step, metrics.get((step.attempt, step.number), {}))
        for step in newest([*known, *bare])
    ]


def newest(found: Iterable[Step]) -> list[Step]:
    ordered = sorted(found, key=attrgetter("number", "attempt"))
    return [list(same)[-1] for _, same in groupby(ordered, attrgetter("number"))]


def first_and_last(found: Sequence[Step]) -> tuple[float, float] | None:
    """Mean reward of the first and of the last fifth of the steps; None before two steps."""
    rewards = [step.reward for step in found if step.reward is not None]
    if len(rewards) < 2:
        return None
    fifth = max(1, len(rewards) // 5)
    return sum(rewards[:fifth]) / fifth, sum(rewards[-fifth:]) / fifth


def truths(
    state: RunState, jobs: Sequence[Job], total: Totals, known: Sequence[Step]
) -> tuple[Truth, ...]:
    return (_jobs_up(state, jobs), _executed(total), _graded(total), _signal(total, known))


def _counts() -> tuple[ColumnElement[int], ...]:
    def count_if(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.coalesce(func.sum(sql_cast(condition, Integer)), 0)

    scored = Rollout.state == RolloutState.SCORED
    return (
        count_if(scored),
        count_if(Rollout.state == RolloutState.INVALID),
        func.sum(Rollout.calls_executed),
        count_if(and_(scored, Rollout.graded.is_(True))),
        func.coalesce(func.sum(case((scored, Rollout.trainable_tokens))), 0),
    )


def _groups(
    session: ReadSession, run_ids: Sequence[str]
) -> dict[tuple[str, int, int], tuple[int, int]]:
    """(groups, groups whose rewards differ) per run, attempt and step."""
    spread = (func.max(Rollout.reward) - func.min(Rollout.reward)).label("spread")
    per_group = (
        select(Rollout.run_id, Rollout.attempt, Rollout.step, spread)
        .where(
            Rollout.run_id.in_(run_ids),
            Rollout.validation.is_(False),
            Rollout.state == RolloutState.SCORED,
        )
        .group_by(Rollout.run_id, Rollout.attempt, Rollout.step, Rollout.group)
        .subquery()
    )
    differs = func.sum(sql_cast(per_group.c.spread > EQUAL, Integer))
    rows = session.execute(
        select(
            per_group.c.run_id, per_group.c.attempt, per_group.c.step, func.count(), differs
        ).group_by(per_group.c.run_id, per_group.c.attempt, per_group.c.step)
    )
    return {(run, attempt, step): (count, with_) for run, attempt, step, count, with_ in rows}


def _bare(attempt: int, step: int) -> Step:
    return Step(step, attempt, None, 0, 0, 0, 0, 0, 0, 0, 0)


def _measured(step: Step, metrics: Mapping[str, object]) -> Step:
    values = {**step.__dict__}
    values["grad_norm"] = _first(metrics, _GRAD_NORM)
    values["seconds"] = _first(metrics, _STEP_SECONDS)
    return Step(**values)


def _first(metrics: Mapping[str, object], names: Sequence[str]) -> float | None:
    for name in names:
        value = metrics.get(name)
        if isinstance(value, int | float):
            return float(value)
    return None


def _jobs_up(state: RunState, jobs: Sequence[Job]) -> Truth:
    label = "Jobs up"
    jobs = _newest_generations(jobs)
    running = sum(job.state is JobState.RUNNING for job in jobs)
    started = sum(job.started_at is not None for job in jobs)
    if state in RUN_FINAL:
        verdict = Verdict.YES if jobs and started == len(jobs) else Verdict.NO
        return Truth("jobs", label, verdict, f"{started} of {len(jobs)} jobs ran; all have ended")
    if jobs and running == len(jobs) and state is RunState.RUNNING:
        return Truth("jobs", label, Verdict.YES, f"{running} of {len(jobs)} jobs running")
    return Truth("jobs", label, Verdict.WAIT, f"{running} of {len(jobs)} planned jobs running")


def _newest_generations(jobs: Sequence[Job]) -> Sequence[Job]:
    """A replaced runtime is no longer one of the jobs that should be up."""
    ordered = sorted(jobs, key=attrgetter("generation"))
    return list({(job.role, job.index): job for job in ordered}.values())


def _executed(total: Totals) -> Truth:
    label = "Tools executed"
    if total.turns == 0:
        return Truth("tools", label, Verdict.WAIT, "no model turn has been reported yet")
    text = (
        f"{total.executed:,} calls ran in sandboxes; {total.turns:,} turns offered one, "
        f"{total.parsed:,} were parsed, {total.malformed:,} malformed"
    )
    return Truth("tools", label, Verdict.YES if total.executed else Verdict.NO, text)


def _graded(total: Totals) -> Truth:
    label = "Tests graded"
    if total.rollouts == 0:
        return Truth("graded", label, Verdict.WAIT, "no rollout has ended yet")
    text = (
        f"tests ran for {total.graded:,} of {total.rollouts:,} rollouts; "
        f"{total.scored - total.graded:,} scored without a patch to test, "
        f"{total.invalid:,} invalid (no reward)"
    )
    return Truth("graded", label, Verdict.YES if total.graded else Verdict.NO, text)


def _signal(total: Totals, known: Sequence[Step]) -> Truth:
    label = "Learning signal"
    if total.scored == 0:
        return Truth("signal", label, Verdict.WAIT, "nothing has been scored yet")
    groups = sum(step.groups for step in known)
    differing = sum(step.groups_with_advantage for step in known)
    verdict = Verdict.YES if total.trainable_tokens and differing else Verdict.NO
    text = (
        f"{total.trainable_tokens:,} trainable tokens; {differing:,} of {groups:,} groups with a "
        "non-zero advantage"
    )
    return Truth("signal", label, verdict, text)
