"""Runtimes make themselves known; the trainer gets leases on those that are fit for use."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.orm import Session

from app.db import events, intents, runtimes
from app.db.tables import Job, Lease, Runtime, Sandbox
from app.domain.states import Desired, Role, RuntimeState
from app.errors import Conflict, Superseded, Unavailable
from app.ids import IdFactory
from app.services.text import clean, moment
from app.services.workers import Worker, current, is_stopping, require_own, require_version
from workers.contract.leases import LeaseAnswer, LeaseOut, LeaseRequest
from workers.contract.registration import (
    HeartbeatAnswer,
    RegisterRuntime,
    RegisterTrainer,
    RuntimeHeartbeat,
    TrainerHeartbeat,
)
from workers.contract.sandbox_api import SandboxOut


@dataclass(frozen=True)
class Times:
    """Durations that the broker goes by."""

    stale_after: timedelta
    lease: timedelta


def register_runtime(
    session: Session, worker: Worker, message: RegisterRuntime, *, at: datetime
) -> Runtime:
    """Make a generation ACTIVE. The same job may repeat it, with a new URL after a crash.

    Raises Superseded (old attempt or generation: stop), Conflict (another job holds this
    generation), Invalid (contract version), Forbidden (somebody else's token).
    """
    require_own(worker, message)
    require_version(message.contract_version)
    current(session, worker)
    job = _own_job(session, message, Role.RUNTIME, message.index)
    _require_newest(session, message)
    runtime = runtimes.find(
        session, message.run_id, message.attempt, message.index, message.generation
    )
    if runtime is None or runtime.state is RuntimeState.CLOSED:
        raise Superseded(f"generation {message.generation} is closed: stop")
    if runtime.registered_at is not None:
        _require_same_job((job.scheduler_id or runtime.scheduler_job_id, runtime.hostname), message)
    _fill(runtime, message, at)
    session.flush()
    if runtimes.move(session, runtime.id, RuntimeState.EXPECTED, RuntimeState.ACTIVE):
        _announce(session, runtime, RuntimeState.EXPECTED, RuntimeState.ACTIVE, at)
        session.refresh(runtime)
    intents.wake(session, message.run_id, at)
    return runtime


def _own_job(
    session: Session, message: RegisterRuntime | RegisterTrainer, role: Role, index: int
) -> Job:
    job = runtimes.lock_job(
        session, message.run_id, message.attempt, role, index, message.generation
    )
    if job is None or job.name != message.job_name:
        raise Conflict(
            f"job {message.job_name} is not the {role} {index} generation {message.generation} of "
            f"run {message.run_id} attempt {message.attempt}",
            code="not_this_job",
        )
    theirs = message.scheduler_job_id
    if theirs is not None and job.scheduler_id is not None and theirs != job.scheduler_id:
        raise Conflict(
            f"job {theirs} is a second copy: {message.job_name} is job {job.scheduler_id}",
            code="second_registrant",
        )
    return job


def _require_same_job(
    first: tuple[str | None, str], message: RegisterRuntime | RegisterTrainer
) -> None:
    job_id, hostname = first
    if job_id is not None and message.scheduler_job_id is not None:
        same = job_id == message.scheduler_job_id
    else:  # without ids: a server that restarts inside its job stays on the node
        same = hostname == message.hostname
    if not same:
        raise Conflict(
            f"job {job_id or hostname} registered first; this one is "
            f"{message.scheduler_job_id or message.hostname}",
            code="second_registrant",
        )


def _require_newest(session: Session, message: RegisterRuntime) -> None:
    newest = runtimes.newest_generation(session, message.run_id, message.attempt, message.index)
    if message.generation != newest:
        raise Superseded(f"generation {message.generation} was replaced by {newest}: stop")


def _fill(runtime: Runtime, message: RegisterRuntime, at: datetime) -> None:
    runtime.scheduler_job_id = message.scheduler_job_id or runtime.scheduler_job_id
    runtime.url = message.url
    runtime.hostname = clean(message.hostname, 200)
    runtime.pid = message.pid
    runtime.slots = message.slots
    runtime.engine = clean(message.engine, 100)
    runtime.limits = [limit.model_dump() for limit in message.limits]
    runtime.registered_at = runtime.registered_at or at
    runtime.heartbeat_at = at


def _announce(
    session: Session, runtime: Runtime, old: RuntimeState, new: RuntimeState, at: datetime
) -> None:
    events.append(
        session,
        kind="runtime.state",
        text=f"Runtime {runtime.index} generation {runtime.generation} is {new} "
        f"on {runtime.hostname}",
        at=at,
        run_id=runtime.run_id,
        data={
            "from": old.value,
            "to": new.value,
            "attempt": runtime.attempt,
            "index": runtime.index,
            "generation": runtime.generation,
        },
        actor=runtime.job_name,
    )


def runtime_heartbeat(
    session: Session, worker: Worker, message: RuntimeHeartbeat, *, at: datetime
) -> HeartbeatAnswer:
    """Note that it lives and what its sandboxes do. What is over is told to stop, not noted."""
    require_own(worker, message)
    try:
        run, attempt = current(session, worker)
    except Superseded:
        return HeartbeatAnswer(stop=True)
    runtime = runtimes.find(
        session, message.run_id, message.attempt, message.index, message.generation
    )
    if runtime is None or runtime.registered_at is None or runtime.job_name != message.job_name:
        raise Conflict("register this generation before its heartbeat", code="not_registered")
    if runtime.state is RuntimeState.CLOSED:
        return HeartbeatAnswer(stop=True)
    runtime.heartbeat_at = at
    runtime.slots = message.slots
    runtime.slots_used = message.slots_used
    runtime.waiting = message.waiting
    _note_sandboxes(session, message)
    session.flush()
    if message.draining:
        drain(session, runtime, at=at)
    session.refresh(runtime)
    return HeartbeatAnswer(
        stop=is_stopping(run, attempt), drain=runtime.state is RuntimeState.DRAINING
    )


def drain(session: Session, runtime: Runtime, *, at: datetime) -> None:
    """No new leases from now on; repeating it changes nothing."""
    if runtimes.move(session, runtime.id, RuntimeState.ACTIVE, RuntimeState.DRAINING):
        _announce(session, runtime, RuntimeState.ACTIVE, RuntimeState.DRAINING, at)
        intents.wake(session, runtime.run_id, at)


def _note_sandboxes(session: Session, message: RuntimeHeartbeat) -> None:
    known = runtimes.known_sandboxes(session, [told.sandbox_id for told in message.sandboxes])
    for told in message.sandboxes:
        sandbox = known.get(told.sandbox_id)
        if sandbox is None:
            sandbox = Sandbox(
                id=told.sandbox_id,
                run_id=message.run_id,
                attempt=message.attempt,
                runtime_index=message.index,
                generation=message.generation,
            )
            known[told.sandbox_id] = sandbox
            session.add(sandbox)
        elif (sandbox.run_id, sandbox.attempt) != (message.run_id, message.attempt):
            continue  # ids are random: a foreign one is never overwritten
        _copy(sandbox, told)


def _copy(sandbox: Sandbox, told: SandboxOut) -> None:
    sandbox.client_key = clean(told.client_key, 200)
    sandbox.state = told.state
    sandbox.image = clean(told.image)
    sandbox.purpose = clean(told.purpose, 32)
    sandbox.hostname = clean(told.hostname, 200)
    sandbox.stop_reason = told.stop_reason
    sandbox.failure = told.failure
    sandbox.failure_detail = clean(told.failure_detail)
    sandbox.labels = dict(told.labels)
    sandbox.start_s = told.start_s
    sandbox.created_at = moment(told.created_at)
    sandbox.ready_at = moment(told.ready_at) if told.ready_at else None
    sandbox.ended_at = moment(told.ended_at) if told.ended_at else None


def grant_leases(
    session: Session,
    worker: Worker,
    message: LeaseRequest,
    *,
    at: datetime,
    times: Times,
    ids: IdFactory,
) -> LeaseAnswer:
    """One lease for the newest, ACTIVE, fresh generation of each index; held ones are renewed.

    Raises Superseded (the attempt is over), Unavailable ``no_runtime`` (ask again).
    """
    require_own(worker, message)
    run, attempt = current(session, worker)
    if run.desired is Desired.CANCELLED or is_stopping(run, attempt):
        raise Superseded(f"run {run.id} stops: no more leases")
    until = at + times.lease
    held = runtimes.standing_leases(session, run.id, attempt.number, message.held, at)
    answer: list[LeaseOut] = []
    for runtime in runtimes.leasable(session, run.id, attempt.number, at - times.stale_after):
        lease = held.get(runtime.id)
        if lease is None:
            lease = Lease(
                id=ids(),
                runtime_id=runtime.id,
                run_id=run.id,
                attempt=attempt.number,
                created_at=at,
                expires_at=until,
            )
            runtimes.add_lease(session, lease)
        lease.expires_at = until
        answer.append(_lease_out(lease, runtime, times.lease))
    session.flush()
    runtimes.forget_leases(session, run.id, at)
    if not answer:
        raise Unavailable("no runtime of this attempt is fresh: ask again", code="no_runtime")
    return LeaseAnswer(leases=tuple(answer))


def _lease_out(lease: Lease, runtime: Runtime, length: timedelta) -> LeaseOut:
    return LeaseOut(
        lease_id=lease.id,
        runtime_index=runtime.index,
        generation=runtime.generation,
        url=runtime.url,
        slots=runtime.slots,
        expires_at=lease.expires_at.isoformat(),
        expires_in_s=length.total_seconds(),
    )


def register_trainer(
    session: Session, worker: Worker, message: RegisterTrainer, *, at: datetime
) -> None:
    """The trainer is there. The same job may repeat it; another one gets Conflict."""
    require_own(worker, message)
    require_version(message.contract_version)
    current(session, worker)
    job = _own_job(session, message, Role.TRAINER, 0)
    attempt = runtimes.lock_attempt(session, message.run_id, message.attempt)
    if attempt is None:
        raise Superseded()
    if attempt.trainer_registered_at is None:
        events.append(
            session,
            kind="trainer.registered",
            text=f"The trainer started on {clean(message.hostname, 200)}",
            at=at,
            run_id=message.run_id,
            data={"attempt": message.attempt, "job": message.job_name},
            actor=message.job_name,
        )
    else:
        first = job.scheduler_id or attempt.trainer_scheduler_job_id
        _require_same_job((first, attempt.trainer_hostname), message)
    attempt.trainer_registered_at = attempt.trainer_registered_at or at
    attempt.trainer_heartbeat_at = at
    attempt.trainer_hostname = clean(message.hostname, 200)
    attempt.trainer_scheduler_job_id = message.scheduler_job_id
    session.flush()
    intents.wake(session, message.run_id, at)


def trainer_heartbeat(
    session: Session, worker: Worker, message: TrainerHeartbeat, *, at: datetime
) -> HeartbeatAnswer:
    require_own(worker, message)
    try:
        run, attempt = current(session, worker)
    except Superseded:
        return HeartbeatAnswer(stop=True)
    if attempt.trainer_registered_at is None:
        raise Conflict("register the trainer before its heartbeat", code="not_registered")
    attempt.trainer_heartbeat_at = at
    attempt.phase = clean(message.phase, 32)
    attempt.step = message.step
    attempt.steps_total = message.steps_total
    session.flush()
    return HeartbeatAnswer(stop=is_stopping(run, attempt))
