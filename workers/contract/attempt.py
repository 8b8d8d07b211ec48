"""What a job is told when it starts: the attempt file."""

from workers.contract.base import Message
from workers.contract.spec import RunSpec


class AttemptFile(Message):
    """``attempt.json`` of an attempt directory; written once before the first job is submitted."""

    contract_version: int
    installation: str
    run_id: str
    attempt: int
    attempt_dir: str
    """Absolute; the only place below which this attempt's jobs may write lasting files."""
    control_plane_file: str
    """Absolute path of ``control-plane.json``; read again whenever the control plane is silent."""
    resume_from: str | None = None
    """Absolute path of the complete checkpoint to resume from; None starts from scratch."""
    resume_step: int = 0
    runtime_url: str | None = None
    """Attached runs only: the runtime that somebody else started."""
    runtime_token_file: str | None = None
    """Attached runs only: 0600 file with the sandbox token of that runtime."""
    spec: RunSpec
