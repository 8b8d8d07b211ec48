"""What the runtime job reads from its surroundings, once, at its start."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.contract import env
from workers.contract.attempt import AttemptFile

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class SettingsError(Exception):
    """The job's environment is not that of a runtime job."""


@dataclass(frozen=True)
class RuntimeSettings:
    attempt: AttemptFile
    index: int
    generation: int
    job_name: str
    scheduler_job_id: str | None
    temporary: Path
    cache: Path
    path: str
    cores: int

    @property
    def attempt_dir(self) -> Path:
        return Path(self.attempt.attempt_dir)


def read_settings(environment: Mapping[str, str], cores: int) -> RuntimeSettings:
    """Raises SettingsError, naming the variable and what it should hold."""
    file = Path(_required(environment, env.ATTEMPT_FILE))
    try:
        attempt = AttemptFile.model_validate_json(file.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"{env.ATTEMPT_FILE}: {file} is no attempt file: {error}") from error
    home = environment.get("HOME", "/")
    cache = Path(environment.get("XDG_CACHE_HOME") or Path(home, ".cache"), "skydeck")
    path = environment.get("PATH", "")
    return RuntimeSettings(
        attempt=attempt,
        index=_number(environment, env.INDEX),
        generation=_number(environment, env.GENERATION),
        job_name=_required(environment, env.JOB_NAME),
        scheduler_job_id=environment.get("SLURM_JOB_ID"),
        temporary=Path(environment.get("TMPDIR") or "/tmp"),  # noqa: S108
        cache=cache,
        path=f"{path}:{SYSTEM_PATH}" if path else SYSTEM_PATH,
        cores=cores,
    )


def _required(environment: Mapping[str, str], name: str) -> str:
    try:
        return environment[name]
    except KeyError:
        raise SettingsError(f"{name} is not set: only Skydeck's schedulers start this") from None


def _number(environment: Mapping[str, str], name: str) -> int:
    text = _required(environment, name)
    if not text.isdigit():
        raise SettingsError(f"{name}={text!r} is not a number")
    return int(text)
