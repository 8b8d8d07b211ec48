"""Experiments as people see them."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.orm import Session

from app.db import experiments
from app.db.engine import ReadSession
from app.db.tables import Experiment
from app.domain.states import RunState
from app.errors import NotFound
from app.ids import IdFactory
from app.services import views_groups
from app.services.launch import ensure_experiment


@dataclass(frozen=True)
class ExperimentView:
    id: str
    name: str
    description: str
    created_at: datetime
    runs: dict[RunState, int]


def create(
    session: Session, name: str, *, description: str, at: datetime, ids: IdFactory
) -> tuple[ExperimentView, bool]:
    """The experiment of this name, and whether this call made it."""
    known = experiments.by_name(session, name)
    row = known or ensure_experiment(session, name, at=at, ids=ids, description=description)
    return _view(row, {}), known is None


def every(session: ReadSession) -> list[ExperimentView]:
    return [_view(row.experiment, row.by_state) for row in views_groups.experiments(session)]


def get(session: ReadSession, experiment: str) -> ExperimentView:
    """By id or by name."""
    for view in every(session):
        if experiment in (view.id, view.name):
            return view
    raise NotFound(f"there is no experiment {experiment!r}")


def id_of(session: ReadSession, experiment: str) -> str:
    """The id behind an id or a name; raises NotFound."""
    row = session.get(Experiment, experiment) or experiments.by_name(session, experiment)
    if row is None:
        raise NotFound(f"there is no experiment {experiment!r}")
    return row.id


def _view(row: Experiment, runs: dict[RunState, int]) -> ExperimentView:
    return ExperimentView(row.id, row.name, row.description, row.created_at, runs)
