"""The queue of the local scheduler and the shepherds that run its jobs."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from slurm.local_files import (
    JobRecord,
    Journal,
    Order,
    read_status,
    try_lock,
    write_durably,
)
from slurm.local_process import ProcessId, send_signal
from slurm.port import SlurmState

_FALSE_STARTS = 3


@dataclass(frozen=True)
class Settings:
    directory: Path
    cpus: int | None = None
    """Jobs wait while the running ones have asked for all of these; None: nobody waits."""
    grace_s: float = 15.0
    retention_s: float = 24 * 3600.0
    idle_exit_s: float = 600.0


class LocalQueue:
    """The queue. Every change is in the journal before anybody hears of it."""

    def __init__(self, settings: Settings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._journal = Journal(settings.directory / "journal.jsonl")
        self._jobs = self._journal.load()
        self._next_id = self._first_free_id()
        self._false_starts: Counter[int] = Counter()
        self._shepherds: dict[int, subprocess.Popen[bytes]] = {}
        self.forget_old()

    def submit(self, request: dict[str, Any]) -> int:
        job_id = self._next_id
        self._next_id += 1
        write_durably(self._settings.directory / "next_id", str(self._next_id))
        job_dir = self._dir(job_id)
        job_dir.mkdir(parents=True)
        write_durably(job_dir / "script", request["script"])
        order = Order(request["log_path"], request["time_limit_s"], self._settings.grace_s)
        write_durably(job_dir / "order.json", json.dumps(asdict(order)))
        self._save(
            JobRecord(
                job_id,
                request["name"],
                SlurmState.HELD,
                request["cpus"],
                self._now(),
                reason="JobHeldUser",
            )
        )
        return job_id

    def release(self, job_id: int) -> None:
        job = self._jobs.get(job_id)
        if job is not None and job.state is SlurmState.HELD:
            self._save(replace(job, state=SlurmState.PENDING, reason="Resources"))

    def cancel(self, name: str, job_ids: list[int]) -> None:
        for job in list(self._jobs.values()):
            if not job.final and (job.name == name or job.id in job_ids):
                self._cancel(job)

    def snapshot(self, prefix: str) -> list[dict[str, Any]]:
        self.tick()
        return [asdict(job) for job in self._jobs.values() if job.name.startswith(prefix)]

    def history(self, names: list[str], since: float) -> list[dict[str, Any]]:
        self.tick()
        jobs = (job for job in self._jobs.values() if job.name in names)
        return [asdict(job) for job in jobs if job.ended_at is None or job.ended_at >= since]

    def tick(self) -> None:
        """Notice what ended, then start what fits. Harmless when repeated."""
        for job in [j for j in self._jobs.values() if j.state is SlurmState.RUNNING]:
            self._notice_end(job)
        for job in [j for j in self._jobs.values() if j.state is SlurmState.PENDING]:
            if not self._fits(job):
                break
            self._start(job)

    def busy(self) -> bool:
        return any(not job.final for job in self._jobs.values())

    def forget_old(self) -> None:
        """Drop what ended longer ago than the retention, and shorten the journal."""
        limit = self._now() - self._settings.retention_s
        old = [j for j in self._jobs.values() if j.ended_at is not None and j.ended_at < limit]
        for job in old:
            del self._jobs[job.id]
        self._journal.rewrite(self._jobs.values())
        for job in old:
            shutil.rmtree(self._dir(job.id), ignore_errors=True)

    def _cancel(self, job: JobRecord) -> None:
        if job.state is not SlurmState.RUNNING:
            self._save(replace(job, state=SlurmState.CANCELLED, reason="", ended_at=self._now()))
            return
        # The file speaks to a shepherd that has not said yet who it is.
        write_durably(self._dir(job.id) / "cancel", "")
        shepherd = self._shepherd(job.id)
        if shepherd is not None:
            send_signal(shepherd, signal.SIGTERM)

    def _fits(self, job: JobRecord) -> bool:
        limit = self._settings.cpus
        running = [j for j in self._jobs.values() if j.state is SlurmState.RUNNING]
        used = sum(j.cpus for j in running)
        # A job that wants more than there is runs alone instead of blocking the queue for ever.
        return limit is None or not running or used + job.cpus <= limit

    def _start(self, job: JobRecord) -> None:
        """The lock is ours before the job counts as running, and the shepherd inherits it: whoever
        finds it free later knows that no shepherd of this job lives or will ever live."""
        job_dir = self._dir(job.id)
        lock = try_lock(job_dir / "lock")
        if lock is None:
            return
        try:
            self._save(replace(job, state=SlurmState.RUNNING, reason="", started_at=self._now()))
            self._shepherds[job.id] = subprocess.Popen(
                [sys.executable, "-m", "slurm.local_shepherd", str(job_dir)],
                pass_fds=(lock,),
                stdin=subprocess.DEVNULL,
                cwd=Path(__file__).parents[1],
                start_new_session=True,
            )
        finally:
            os.close(lock)

    def _notice_end(self, job: JobRecord) -> None:
        job_dir = self._dir(job.id)
        lock = try_lock(job_dir / "lock")
        if lock is None:
            return
        try:
            self._save(self._ended(job))
        finally:
            os.close(lock)
        child = self._shepherds.pop(job.id, None)
        if child is not None:
            child.wait()

    def _ended(self, job: JobRecord) -> JobRecord:
        job_dir = self._dir(job.id)
        status = read_status(job_dir)
        if status is not None:
            return replace(
                job,
                state=status.state,
                reason=status.reason,
                ended_at=status.ended_at,
                exit_code=status.exit_code,
                signal=status.signal,
            )
        if (job_dir / "started.json").exists():
            # The shepherd was killed or the machine went down: we cannot know how far it came.
            return replace(
                job, state=SlurmState.NODE_FAIL, reason="shepherd lost", ended_at=self._now()
            )
        if (job_dir / "cancel").exists():
            return replace(job, state=SlurmState.CANCELLED, ended_at=self._now())
        return self._never_begun(job)

    def _never_begun(self, job: JobRecord) -> JobRecord:
        """Back into the queue, a few times: a crash of ours is no fault of the job."""
        self._false_starts[job.id] += 1
        if self._false_starts[job.id] < _FALSE_STARTS:
            return replace(job, state=SlurmState.PENDING, reason="Resources", started_at=None)
        reason = "JobLaunchFailure: its shepherd does not start; supervisor.log says why"
        return replace(job, state=SlurmState.FAILED, reason=reason, ended_at=self._now())

    def _shepherd(self, job_id: int) -> ProcessId | None:
        path = self._dir(job_id) / "started.json"
        return ProcessId(**json.loads(path.read_text())) if path.exists() else None

    def _save(self, job: JobRecord) -> None:
        self._journal.append(job)
        self._jobs[job.id] = job

    def _first_free_id(self) -> int:
        path = self._settings.directory / "next_id"
        return int(path.read_text()) if path.exists() else 1

    def _dir(self, job_id: int) -> Path:
        return self._settings.directory / "jobs" / str(job_id)
