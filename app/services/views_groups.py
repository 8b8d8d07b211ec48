"""Experiments and sweeps: what they hold and how far it has come."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from sqlalchemy import func, select

from app.db.engine import ReadSession
from app.db.tables import Experiment, Run, Sweep
from app.domain.states import RunState
from app.errors import NotFound
from app.services.views_overview import RunRow, rows


@dataclass(frozen=True)
class ExperimentRow:
    experiment: Experiment
    by_state: dict[RunState, int]
    sweeps: int


@dataclass(frozen=True)
class SweepRow:
    sweep: Sweep
    experiment: str
    by_state: dict[RunState, int]
    runs: int


@dataclass(frozen=True)
class SweepPoint:
    values: tuple[object, ...]
    """One per axis of the grid, in its order."""
    row: RunRow


@dataclass(frozen=True)
class SweepView:
    summary: SweepRow
    axes: tuple[str, ...]
    points: tuple[SweepPoint, ...]


def experiments(session: ReadSession) -> list[ExperimentRow]:
    counts = session.execute(
        select(Run.experiment_id, Run.state, func.count()).group_by(Run.experiment_id, Run.state)
    )
    by_id: dict[str, dict[RunState, int]] = {}
    for experiment_id, state, count in counts:
        by_id.setdefault(experiment_id, {})[state] = count
    per_experiment = session.execute(
        select(Sweep.experiment_id, func.count()).group_by(Sweep.experiment_id)
    )
    sweeps = {key: count for key, count in per_experiment}  # noqa: C416 - dict() takes no rows
    return [
        ExperimentRow(experiment, by_id.get(experiment.id, {}), sweeps.get(experiment.id, 0))
        for experiment in session.scalars(select(Experiment).order_by(Experiment.created_at.desc()))
    ]


def sweeps(session: ReadSession, limit: int = 100) -> list[SweepRow]:
    query = select(Sweep).order_by(Sweep.created_at.desc(), Sweep.id).limit(limit)
    return _summaries(session, list(session.scalars(query)))


def sweep(session: ReadSession, sweep_id: str) -> SweepView:
    found = session.get(Sweep, sweep_id)
    if found is None:
        raise NotFound(f"there is no sweep {sweep_id}")
    axes = tuple(found.grid)
    runs = session.scalars(select(Run).where(Run.sweep_id == sweep_id).order_by(Run.sweep_index))
    points = (
        SweepPoint(tuple(_at(row.run.spec, axis) for axis in axes), row)
        for row in rows(session, list(runs))
    )
    return SweepView(_summaries(session, [found])[0], axes, tuple(points))


def _summaries(session: ReadSession, found: Sequence[Sweep]) -> list[SweepRow]:
    counts = session.execute(
        select(Run.sweep_id, Run.state, func.count())
        .where(Run.sweep_id.in_([sweep.id for sweep in found]))
        .group_by(Run.sweep_id, Run.state)
    )
    by_id: dict[str | None, dict[RunState, int]] = {}
    for sweep_id, state, count in counts:
        by_id.setdefault(sweep_id, {})[state] = count
    names = dict(session.execute(select(Experiment.id, Experiment.name)).all())
    return [
        SweepRow(
            sweep,
            names.get(sweep.experiment_id, ""),
            by_id.get(sweep.id, {}),
            sum(by_id.get(sweep.id, {}).values()),
        )
        for sweep in found
    ]


def _at(spec: Mapping[str, Any], key: str) -> object:
    node: Any = spec
    for part in key.split("."):
        node = cast("Mapping[str, Any]", node).get(part) if isinstance(node, Mapping) else None
    return node
