"""The run list: filters, a cursor, and per run what tells whether it is well."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import and_, or_, select

from app.db.engine import ReadSession
from app.db.tables import Attempt, Experiment, Job, Run, Sweep
from app.domain.states import RUN_FINAL, RunState
from app.services.views_learning import Totals as _Totals
from app.services.views_learning import Truth, first_and_last, steps, totals, truths

PAGE_SIZE = 25


@dataclass(frozen=True)
class RunFilter:
    state: RunState | None = None
    active: bool = False
    """Only runs that have not ended."""
    experiment: str | None = None
    """An experiment's id."""
    sweep: str | None = None
    """A sweep's id."""
    text: str = ""
    """Part of a run's name or id."""
    before: str | None = None
    """Cursor: id of the last run of the page before."""


@dataclass(frozen=True)
class RunOutline:
    """What costs no look at the rollouts."""

    run: Run
    experiment: str
    attempt: Attempt | None


@dataclass(frozen=True)
class RunRow(RunOutline):
    truths: tuple[Truth, ...]
    reward: tuple[float, float] | None
    """Mean of the first and of the last fifth of the steps."""


@dataclass(frozen=True)
class OutlinePage:
    rows: tuple[RunOutline, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class RunPage:
    rows: tuple[RunRow, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Choices:
    """What the filters offer."""

    experiments: tuple[Experiment, ...]
    sweeps: tuple[Sweep, ...]


def list_runs(session: ReadSession, wanted: RunFilter, limit: int = PAGE_SIZE) -> RunPage:
    shown, more = _page(session, wanted, limit)
    return RunPage(tuple(rows(session, shown)), more)


def list_outlines(session: ReadSession, wanted: RunFilter, limit: int) -> OutlinePage:
    shown, more = _page(session, wanted, limit)
    return OutlinePage(tuple(outlines(session, shown)), more)


def _page(session: ReadSession, wanted: RunFilter, limit: int) -> tuple[Sequence[Run], str | None]:
    query = select(Run).order_by(Run.created_at.desc(), Run.id.desc()).limit(limit + 1)
    found = list(session.scalars(query.where(*_conditions(session, wanted))))
    return found[:limit], found[limit - 1].id if len(found) > limit else None


def outlines(session: ReadSession, runs: Sequence[Run]) -> list[RunOutline]:
    ids = [run.id for run in runs]
    wanted = {run.experiment_id for run in runs}
    found = session.execute(select(Experiment.id, Experiment.name).where(Experiment.id.in_(wanted)))
    names = {key: name for key, name in found}  # noqa: C416 - dict() takes no rows
    attempts = {
        (attempt.run_id, attempt.number): attempt
        for attempt in session.scalars(select(Attempt).where(Attempt.run_id.in_(ids)))
    }
    return [
        RunOutline(run, names.get(run.experiment_id, ""), attempts.get((run.id, run.attempt)))
        for run in runs
    ]


def rows(session: ReadSession, runs: Sequence[Run]) -> list[RunRow]:
    ids = [run.id for run in runs]
    jobs = _jobs(session, ids)
    total, known = totals(session, ids), steps(session, ids)
    return [
        RunRow(
            **vars(outline),
            truths=truths(
                outline.run.state,
                [job for job in jobs[outline.run.id] if job.attempt == outline.run.attempt],
                total.get(outline.run.id, _Totals()),
                known[outline.run.id],
            ),
            reward=first_and_last(known[outline.run.id]),
        )
        for outline in outlines(session, runs)
    ]


def choices(session: ReadSession) -> Choices:
    experiments = session.scalars(select(Experiment).order_by(Experiment.name))
    sweeps = session.scalars(select(Sweep).order_by(Sweep.created_at.desc()).limit(50))
    return Choices(tuple(experiments), tuple(sweeps))


def _jobs(session: ReadSession, run_ids: Sequence[str]) -> dict[str, list[Job]]:
    by_run: dict[str, list[Job]] = defaultdict(list)
    for job in session.scalars(select(Job).where(Job.run_id.in_(run_ids)).order_by(Job.id)):
        by_run[job.run_id].append(job)
    return by_run


def _conditions(session: ReadSession, wanted: RunFilter):
    if wanted.state is not None:
        yield Run.state == wanted.state
    if wanted.active:
        yield Run.state.not_in(RUN_FINAL)
    if wanted.experiment:
        yield Run.experiment_id == wanted.experiment
    if wanted.sweep:
        yield Run.sweep_id == wanted.sweep
    if wanted.text:
        # autoescape: a percent sign in the search means itself.
        yield or_(
            Run.name.icontains(wanted.text, autoescape=True),
            Run.id.startswith(wanted.text, autoescape=True),
        )
    last = session.get(Run, wanted.before) if wanted.before else None
    if last is not None:
        yield or_(
            Run.created_at < last.created_at,
            and_(Run.created_at == last.created_at, Run.id < last.id),
        )
