"""Job names and run directories: derived from what they stand for, and parseable back."""

import re
from dataclasses import dataclass
from pathlib import Path

from app.domain.states import Role

_NAME = re.compile(
    r"sd-(?P<installation>[0-9a-z]+)-(?P<run>[0-9a-z]+)"
    r"-a(?P<attempt>[1-9][0-9]*)"
    r"-(?P<role>runtime|trainer)(?P<index>0|[1-9][0-9]*)"
    r"-g(?P<generation>[1-9][0-9]*)"
)
_ATTEMPT = re.compile(r"a([1-9][0-9]*)")


@dataclass(frozen=True)
class JobKey:
    """What a job is, whatever id the scheduler gave it."""

    run_id: str
    attempt: int
    role: Role
    index: int
    generation: int


def name_prefix(installation: str) -> str:
    """What the names of all jobs of this installation start with, and nobody else's."""
    return f"sd-{installation}-"


def job_name(installation: str, key: JobKey) -> str:
    return (
        f"{name_prefix(installation)}{key.run_id}-a{key.attempt}"
        f"-{key.role}{key.index}-g{key.generation}"
    )


def parse_job_name(name: str) -> tuple[str, JobKey] | None:
    """Installation and key, or None for a name that is not ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    key = JobKey(
        run_id=found["run"],
        attempt=int(found["attempt"]),
        role=Role(found["role"]),
        index=int(found["index"]),
        generation=int(found["generation"]),
    )
    return found["installation"], key


def attempt_directory(runs_dir: Path, run_id: str, attempt: int) -> Path:
    """The only folder below which this attempt may write: a fence against old processes."""
    return runs_dir / run_id / f"a{attempt}"


def parse_attempt_directory(path: Path) -> tuple[str, int] | None:
    """Run id and attempt number, or None for a folder that is not an attempt's."""
    found = _ATTEMPT.fullmatch(path.name)
    return None if found is None else (path.parent.name, int(found[1]))
