"""Whether the parts of this installation work together."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version

from sqlalchemy import Engine

from app.db.engine import Sessions, open_read
from app.db.migrate import at_head
from app.schedulers import choose
from app.services import views_fleet
from app.settings import Settings

TICKS_LATE = 6


@dataclass(frozen=True)
class ReconcilerState:
    ok: bool
    last_tick_age_s: float | None


@dataclass(frozen=True)
class SchedulerState:
    kind: str
    why: str
    """Why this one was chosen."""
    ok: bool
    last_answer_age_s: float | None


@dataclass(frozen=True)
class Health:
    ok: bool
    version: str
    database_at_head: bool
    reconciler: ReconcilerState
    scheduler: SchedulerState


def look(sessions: Sessions, settings: Settings, *, now: datetime) -> Health:
    """Raises Unavailable when the database does not answer."""
    engine: Engine = sessions.kw["bind"]
    late_after = late(settings)
    if not at_head(engine):
        quiet = ReconcilerState(False, None)
        return Health(False, _version(), False, quiet, _scheduler(settings, False, None))
    with open_read(sessions) as session:
        seen = views_fleet.health(session, now, late_after)
    tick, answer = _age(seen.reconciler_at, now), _age(seen.scheduler_at, now)
    reconciler = ReconcilerState(not seen.reconciler_late, tick)
    heard = answer is not None and answer <= late_after.total_seconds()
    scheduler = _scheduler(settings, heard and not seen.scheduler_error, answer)
    return Health(reconciler.ok and scheduler.ok, _version(), True, reconciler, scheduler)


def _scheduler(settings: Settings, ok: bool, answer: float | None) -> SchedulerState:
    chosen = choose(settings)
    return SchedulerState(chosen.kind, chosen.why, ok, answer)


def late(settings: Settings) -> timedelta:
    """A reconciler that is silent for this long is not well."""
    return settings.tick * TICKS_LATE + settings.slurm_deadline


def _age(at: datetime | None, now: datetime) -> float | None:
    return None if at is None else max(0.0, (now - at).total_seconds())


def _version() -> str:
    return version("skydeck")
