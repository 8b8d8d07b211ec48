"""The attempt's directory: made once, found again after a crash."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from app.domain.model import JobView, RunView
from app.domain.naming import attempt_directory
from app.ids import token_hash
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitRecord
from workers.contract.version import CONTRACT_VERSION

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """Hashes of what lies in the token files."""

    runtime: str
    trainer: str


def prepare(
    run: RunView, runs_dir: Path, control_plane_file: Path, new_token: Callable[[], str]
) -> tuple[Path, Tokens]:
    """Directory, token files and attempt file. May be called again: what is there is kept,
    because a job may already hold it.

    Raises OSError.
    """
    assert run.attempt is not None
    directory = attempt_directory(runs_dir, run.id, run.attempt.number)
    for folder in (runs_dir, directory.parent, directory):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    runtime = _keep_or_write(directory / env.TOKEN_RUNTIME, new_token)
    trainer = _keep_or_write(directory / env.TOKEN_TRAINER, new_token)
    _keep_or_write(directory / env.TOKEN_SANDBOX, new_token)
    told = _attempt_file(run, directory, control_plane_file)
    _keep_or_write(directory / env.ATTEMPT_FILE_NAME, lambda: told.model_dump_json(indent=2))
    return directory, Tokens(token_hash(runtime), token_hash(trainer))


def _attempt_file(run: RunView, directory: Path, control_plane_file: Path) -> AttemptFile:
    assert run.attempt is not None
    return AttemptFile(
        contract_version=CONTRACT_VERSION,
        installation=run.installation,
        run_id=run.id,
        attempt=run.attempt.number,
        attempt_dir=str(directory),
        control_plane_file=str(control_plane_file),
        resume_from=run.attempt.resume_checkpoint,
        resume_step=run.attempt.resume_step,
        runtime_url=run.spec.runtime_url,
        runtime_token_file=run.spec.runtime_token_file,
        spec=run.spec,
    )


def _keep_or_write(path: Path, make: Callable[[], str]) -> str:
    """The file's content; a file that is there was written whole and is kept."""
    if path.exists():
        return path.read_text()
    content = make()
    draft = path.with_name(f".{path.name}.draft")
    draft.unlink(missing_ok=True)
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return content


def exit_record(run: RunView, job: JobView, runs_dir: Path) -> ExitRecord | None:
    """The job's last word, or None: none yet, not readable, or not this job's."""
    directory = attempt_directory(runs_dir, run.id, job.attempt)
    path = env.exit_record_path(directory, job.role.value, job.index, job.generation)
    try:
        record = ExitRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.warning("run %s: exit record %s cannot be read: %s", run.id, path, error)
        return None
    return record if record.run_id == run.id else None
