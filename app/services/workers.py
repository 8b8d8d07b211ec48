"""Who a worker is: its token names one attempt and one role, good for nothing else."""

import hmac
from dataclasses import dataclass
from typing import Protocol

from app.db import tokens
from app.db.engine import ReadSession
from app.db.tables import Attempt, Run
from app.domain.states import RUN_FINAL, Role, RunState
from app.errors import Forbidden, Invalid, Superseded, Unauthenticated
from app.ids import token_hash
from workers.contract.version import CONTRACT_VERSION


@dataclass(frozen=True)
class Worker:
    run_id: str
    attempt: int
    role: Role


class Addressed(Protocol):
    """What every message of a worker says about itself."""

    @property
    def run_id(self) -> str: ...
    @property
    def attempt(self) -> int: ...


def authenticate(session: ReadSession, clear: str, role: Role) -> Worker:
    """Raises Unauthenticated for a token that is no attempt's token of this role.

    A token of an attempt that is over still says who asks: the answer is then "superseded", which
    a worker obeys, and not "unauthenticated", which it would retry.
    """
    hashed = token_hash(clear)
    find = tokens.attempt_of_runtime if role is Role.RUNTIME else tokens.attempt_of_trainer
    attempt = find(session, hashed)
    if attempt is None:
        raise _stranger(role)
    kept = attempt.runtime_token_hash if role is Role.RUNTIME else attempt.trainer_token_hash
    if kept is None or not hmac.compare_digest(kept, hashed):
        raise _stranger(role)
    return Worker(attempt.run_id, attempt.number, role)


def _stranger(role: Role) -> Unauthenticated:
    return Unauthenticated(
        f"this is no {role} token of any attempt: the job belongs to another installation or to a "
        "database that was replaced; cancel the job and launch the run again"
    )


def require_own(worker: Worker, message: Addressed) -> None:
    if (message.run_id, message.attempt) != (worker.run_id, worker.attempt):
        raise Forbidden(
            f"this token belongs to run {worker.run_id} attempt {worker.attempt}, the message "
            f"speaks of run {message.run_id} attempt {message.attempt}"
        )


def is_over(run: Run, attempt: Attempt) -> bool:
    return attempt.number != run.attempt or attempt.ended_at is not None or run.state in RUN_FINAL


def is_stopping(run: Run, attempt: Attempt) -> bool:
    return is_over(run, attempt) or run.state is RunState.STOPPING


def current(session: ReadSession, worker: Worker) -> tuple[Run, Attempt]:
    """The worker's run and attempt; raises Superseded when that attempt is over."""
    run = session.get(Run, worker.run_id)
    attempt = session.get(Attempt, (worker.run_id, worker.attempt))
    if run is None or attempt is None or is_over(run, attempt):
        raise Superseded(f"attempt {worker.attempt} of run {worker.run_id} is over: stop")
    return run, attempt


def require_version(version: int) -> None:
    if version != CONTRACT_VERSION:
        raise Invalid(
            f"the worker speaks contract version {version}, the control plane "
            f"{CONTRACT_VERSION}: install the same Skydeck on both sides",
            code="contract_version",
        )
