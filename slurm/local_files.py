"""The folder of a local scheduler: journal, one folder a job, locks that end with their holder.

::

    lock  socket  supervisor.json .log one supervisor at a time holds the lock
    journal.jsonl                      a job's whole record per line; the last line counts
    jobs/<id>/script  order.json       what to run
    jobs/<id>/lock                     held from before the shepherd starts until it has ended
    jobs/<id>/started.json             the shepherd's identity, before it starts anything
    jobs/<id>/cancel                   somebody asked for the end
    jobs/<id>/status.json              how it ended
"""

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slurm.local_process import ProcessId
from slurm.port import FINAL_STATES, SlurmState


@dataclass(frozen=True)
class JobRecord:
    id: int
    name: str
    state: SlurmState
    cpus: int
    submitted_at: float
    reason: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None

    @property
    def final(self) -> bool:
        return self.state in FINAL_STATES


@dataclass(frozen=True)
class Order:
    """What a shepherd needs to know about its job."""

    log_path: str
    time_limit_s: float
    grace_s: float


@dataclass(frozen=True)
class Status:
    """A shepherd's last word."""

    state: SlurmState
    reason: str
    ended_at: float
    exit_code: int | None
    signal: int | None


class Journal:
    """Records on disk before anybody is told of them."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[int, JobRecord]:
        """A line torn by a crash was never acknowledged to anybody, so it is left out."""
        records: dict[int, JobRecord] = {}
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        for line in lines:
            try:
                fields: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue
            fields["state"] = SlurmState(fields["state"])
            record = JobRecord(**fields)
            records[record.id] = record
        return records

    def append(self, record: JobRecord) -> None:
        fresh = not self._path.exists()
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if fresh:
            _sync_directory(self._path.parent)

    def rewrite(self, records: Iterable[JobRecord]) -> None:
        write_durably(self._path, "".join(json.dumps(asdict(r)) + "\n" for r in records))


def write_durably(path: Path, text: str) -> None:
    """All of ``text`` or nothing, also across a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    _sync_directory(path.parent)


def try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock until all its copies are closed; None if it is taken."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def read_status(job_dir: Path) -> Status | None:
    path = job_dir / "status.json"
    if not path.exists():
        return None
    fields: dict[str, Any] = json.loads(path.read_text())
    fields["state"] = SlurmState(fields["state"])
    return Status(**fields)


def supervisor_pid(directory: Path) -> ProcessId | None:
    """The supervisor that serves ``directory`` now."""
    path = directory / "supervisor.json"
    if not path.exists():
        return None
    supervisor = ProcessId(**json.loads(path.read_text()))
    return supervisor if supervisor.alive() else None


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
