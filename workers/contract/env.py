"""Every variable, file and header name that crosses a process border. Nowhere else."""

from pathlib import Path

# Variables of a job's environment. Secrets never travel here, only paths of 0600 files do.
ATTEMPT_FILE = "SKYDECK_ATTEMPT_FILE"
"""Absolute path of the attempt's ``attempt.json`` (:class:`~.attempt.AttemptFile`)."""
ROLE = "SKYDECK_ROLE"
"""``runtime`` or ``trainer``."""
INDEX = "SKYDECK_INDEX"
"""Number of this job among those of its role, from 0."""
GENERATION = "SKYDECK_GENERATION"
"""Incarnation of this (role, index) within the attempt, from 1."""
JOB_NAME = "SKYDECK_JOB_NAME"
"""The job's name as the scheduler knows it: its identity (the Slurm id is only an attribute)."""
RESULTS = "SKYDECK_RESULTS"
"""Inside a grading sandbox: path of the result file that the test command must write."""

# Files of an attempt directory (0700). The trainer and the runtimes share it.
ATTEMPT_FILE_NAME = "attempt.json"
TOKEN_RUNTIME = "token.runtime"  # noqa: S105 - a file name
TOKEN_TRAINER = "token.trainer"  # noqa: S105 - a file name
TOKEN_SANDBOX = "token.sandbox"  # noqa: S105 - a file name
CHECKPOINTS_DIR = "checkpoints"
SPOOL_DIR = "spool"

CONTROL_PLANE_FILE = "control-plane.json"
"""Lies in the installation's data folder: ``{"url": ...}``. Workers read it again when a call
fails, because a restarted control plane may listen elsewhere."""

# Headers
AUTHORIZATION = "Authorization"
IDEMPOTENCY_KEY = "Idempotency-Key"


def exit_record_path(attempt_dir: Path, role: str, index: int, generation: int) -> Path:
    """Where a worker leaves its :class:`workers.contract.exit_record.ExitRecord`."""
    return attempt_dir / f"exit.{role}{index}-g{generation}.json"


def log_path(attempt_dir: Path, role: str, index: int, generation: int) -> Path:
    """Where the scheduler writes the job's stdout and stderr."""
    return attempt_dir / f"{role}{index}-g{generation}.log"
