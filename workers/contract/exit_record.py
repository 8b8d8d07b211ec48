"""The last word of a worker, written before its job ends."""

from enum import StrEnum

from workers.contract.base import Message


class ExitResult(StrEnum):
    """How the worker itself saw its end; the scheduler's word is another fact."""

    COMPLETED = "completed"
    DRAINED = "drained"
    """Told to stop (SIGTERM, walltime near) and did so in order."""
    FAILED = "failed"
    PREFLIGHT_FAILED = "preflight_failed"
    """The node cannot do this work; nothing was begun."""
    SUPERSEDED = "superseded"
    """The control plane said that this attempt or generation is over."""


class ExitRecord(Message):
    contract_version: int
    run_id: str
    attempt: int
    role: str
    index: int
    generation: int
    result: ExitResult
    exit_code: int
    detail: str = ""
    """For people: what failed, where, how to mend it. One paragraph."""
    last_step: int | None = None
