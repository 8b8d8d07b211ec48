"""Slurm's words for a job's state, normalised. Total: a word without a row is UNKNOWN."""

from slurm.port import SlurmState

_RAW: dict[str, SlurmState] = {
    "PENDING": SlurmState.PENDING,
    "CONFIGURING": SlurmState.PENDING,
    "REQUEUED": SlurmState.PENDING,
    "REQUEUE_HOLD": SlurmState.HELD,
    "REQUEUE_FED": SlurmState.PENDING,
    "RESV_DEL_HOLD": SlurmState.HELD,
    "SPECIAL_EXIT": SlurmState.HELD,
    "RUNNING": SlurmState.RUNNING,
    "COMPLETING": SlurmState.RUNNING,
    "SUSPENDED": SlurmState.RUNNING,
    "STOPPED": SlurmState.RUNNING,
    "RESIZING": SlurmState.RUNNING,
    "SIGNALING": SlurmState.RUNNING,
    "STAGE_OUT": SlurmState.RUNNING,
    "COMPLETED": SlurmState.COMPLETED,
    "FAILED": SlurmState.FAILED,
    "CANCELLED": SlurmState.CANCELLED,
    "TIMEOUT": SlurmState.TIMEOUT,
    "DEADLINE": SlurmState.TIMEOUT,
    "OUT_OF_MEMORY": SlurmState.OUT_OF_MEMORY,
    "PREEMPTED": SlurmState.PREEMPTED,
    "NODE_FAIL": SlurmState.NODE_FAIL,
    "BOOT_FAIL": SlurmState.NODE_FAIL,
}

_HOLDS = ("jobheld", "requeued held", "requeued in held state")


def normalise(raw: str, reason: str = "") -> SlurmState:
    """The state behind Slurm's text, e.g. ``CANCELLED by 1000`` or ``PENDING`` with a hold reason.

    Text that we have no row for (REVOKED, later versions) is UNKNOWN, which is not final.
    """
    words = raw.split()
    state = _RAW.get(words[0].rstrip("+").upper(), SlurmState.UNKNOWN) if words else None
    if state is SlurmState.PENDING and any(hold in reason.lower() for hold in _HOLDS):
        return SlurmState.HELD
    return state or SlurmState.UNKNOWN
