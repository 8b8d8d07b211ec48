"""Experiments and sweeps by their names and keys."""

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import Experiment, Sweep


def ensure(session: Session, experiment: Experiment) -> Experiment:
    """The experiment of this name; ``experiment`` itself if there was none. Race-proof."""
    found = by_name(session, experiment.name)
    if found is not None:
        return found
    try:
        with session.begin_nested():
            session.add(experiment)
    except IntegrityError:  # somebody else was faster
        return session.scalars(select(Experiment).where(Experiment.name == experiment.name)).one()
    return experiment


def by_name(session: ReadSession, name: str) -> Experiment | None:
    return session.scalar(select(Experiment).where(Experiment.name == name))


def sweep_by_key(session: ReadSession, key: str) -> Sweep | None:
    return session.scalar(select(Sweep).where(Sweep.idempotency_key == key))
