"""All runtimes and sandboxes, whatever run they belong to; and whether Skydeck itself is well."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from app.db.engine import ReadSession
from app.db.tables import ReconcilerLease, Run, Runtime, Sandbox
from app.domain.states import RUN_FINAL, RuntimeState
from workers.contract.sandbox_api import SandboxState


@dataclass(frozen=True)
class RuntimeRow:
    runtime: Runtime
    run_name: str
    stale: bool
    """No heartbeat for longer than the limit: gets no new leases."""


@dataclass(frozen=True)
class SandboxRow:
    sandbox: Sandbox
    run_name: str


@dataclass(frozen=True)
class Fleet:
    runtimes: tuple[RuntimeRow, ...]
    sandboxes: tuple[SandboxRow, ...]
    sandboxes_live: int


@dataclass(frozen=True)
class Health:
    """What the strip on top of every page says."""

    reconciler_at: datetime | None
    reconciler_late: bool
    scheduler_at: datetime | None
    scheduler_error: str
    owner: str
    active_runs: int


def fleet(
    session: ReadSession, now: datetime, stale_after: timedelta, *, closed: bool = False
) -> Fleet:
    query = select(Runtime, Run.name).join(Run, Run.id == Runtime.run_id)
    if not closed:
        query = query.where(Runtime.state != RuntimeState.CLOSED)
    found = session.execute(query.order_by(Runtime.id.desc()).limit(200))
    live = Sandbox.state.not_in((SandboxState.GONE, SandboxState.FAILED))
    boxes = (
        select(Sandbox, Run.name)
        .join(Run, Run.id == Sandbox.run_id)
        .order_by(Sandbox.created_at.desc(), Sandbox.id)
        .limit(200)
    )
    if not closed:
        boxes = boxes.where(live, Run.state.not_in(RUN_FINAL))
    count = (
        select(func.count())
        .select_from(Sandbox)
        .join(Run, Run.id == Sandbox.run_id)
        .where(live, Run.state.not_in(RUN_FINAL))
    )
    return Fleet(
        tuple(runtime_row(runtime, name, now, stale_after) for runtime, name in found),
        tuple(SandboxRow(box, name) for box, name in session.execute(boxes)),
        session.scalar(count) or 0,
    )


def health(session: ReadSession, now: datetime, late_after: timedelta) -> Health:
    lease = session.scalars(select(ReconcilerLease).limit(1)).first()
    active = session.scalar(
        select(func.count()).select_from(Run).where(Run.state.not_in(RUN_FINAL))
    )
    tick = lease.last_tick_at if lease else None
    return Health(
        reconciler_at=tick,
        reconciler_late=tick is None or now - tick > late_after,
        scheduler_at=lease.scheduler_ok_at if lease else None,
        scheduler_error=lease.scheduler_error if lease else "",
        owner=lease.owner if lease else "",
        active_runs=active or 0,
    )


def runtime_row(
    runtime: Runtime, run_name: str, now: datetime, stale_after: timedelta
) -> RuntimeRow:
    return RuntimeRow(runtime, run_name, _stale(runtime, now, stale_after))


def _stale(runtime: Runtime, now: datetime, stale_after: timedelta) -> bool:
    if runtime.state is RuntimeState.CLOSED or runtime.state is RuntimeState.EXPECTED:
        return False
    return runtime.heartbeat_at is None or now - runtime.heartbeat_at > stale_after
