"""The Scheduler port without Slurm: a client of the local supervisor."""

import socket
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from slurm import local_wire
from slurm.port import (
    BatchJob,
    JobSnapshot,
    SchedulerUnreachable,
    SlurmJobId,
    SlurmState,
    SubmitAmbiguous,
)
from slurm.script import check_name, render

_START_S = 30.0
"""For a new interpreter on a busy machine. Nothing was asked for yet, so waiting is harmless."""


class LocalScheduler:
    """Real processes on this machine, with the promises of the port.

    What it lacks: memory limits and OUT_OF_MEMORY, preemption, partitions (ignored), several
    nodes. ``cpus`` and ``grace_s`` take effect when this call is the one that starts the
    supervisor; an already running one keeps its own.
    """

    kind = "local"

    def __init__(
        self,
        directory: Path,
        start_supervisor: bool = True,
        deadline_s: float = 10.0,
        cpus: int | None = None,
        grace_s: float = 15.0,
        idle_exit_s: float = 600.0,
    ) -> None:
        self._directory = directory.absolute()
        self._start_supervisor = start_supervisor
        self._deadline_s = deadline_s
        self._options = [f"--grace-s={grace_s}", f"--idle-exit-s={idle_exit_s}"]
        if cpus is not None:
            self._options.append(f"--cpus={cpus}")

    def submit(self, job: BatchJob) -> SlurmJobId:
        """See the port. A broken connection after the request went out is ambiguous."""
        request = {
            "call": "submit",
            "name": job.name,
            "script": render(job),
            "log_path": str(job.log_path),
            "time_limit_s": job.resources.time_limit_s,
            "cpus": job.resources.cpus * job.resources.nodes,
        }
        connection = self._connect()
        try:
            with connection:
                local_wire.send(connection, request)
                return SlurmJobId(str(_value(local_wire.receive(connection))))
        except (OSError, local_wire.WireError) as error:
            raise SubmitAmbiguous(job.name, f"local supervisor: {error}") from error

    def release(self, job_id: SlurmJobId) -> None:
        self._call({"call": "release", "job_id": job_id})

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        self._call({"call": "cancel", "name": check_name(name), "job_ids": list(job_ids)})

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        """See the port. Ended jobs stay for the supervisor's retention (a day)."""
        return _snapshots(self._call({"call": "snapshot", "prefix": prefix}))

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        """See the port. The same memory as the snapshot's: no lag, no more either."""
        request = {"call": "history", "names": list(names), "since": since.timestamp()}
        return _snapshots(self._call(request))

    def _call(self, request: dict[str, Any]) -> Any:
        try:
            with self._connect() as connection:
                local_wire.send(connection, request)
                return _value(local_wire.receive(connection))
        except (OSError, local_wire.WireError) as error:
            raise SchedulerUnreachable(f"local supervisor: {error}") from error

    def _connect(self) -> socket.socket:
        try:
            return local_wire.connect(self._directory, self._deadline_s)
        except (FileNotFoundError, ConnectionRefusedError):
            self._start()
        except OSError as error:
            raise SchedulerUnreachable(f"local supervisor: {error}") from error
        try:
            return local_wire.connect(self._directory, self._deadline_s)
        except OSError as error:
            text = f"local supervisor in {self._directory} does not answer: {error}"
            raise SchedulerUnreachable(text) from error

    def _start(self) -> None:
        """Returns when it listens. It is nobody's child then, and outlives this process."""
        if not self._start_supervisor:
            raise SchedulerUnreachable(
                f"no local supervisor in {self._directory}; start one with"
                f" python -m slurm.local_supervisor --detach --dir {self._directory}"
            )
        argv = [sys.executable, "-m", "slurm.local_supervisor", f"--dir={self._directory}"]
        try:
            subprocess.run(
                [*argv, "--detach", *self._options],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_START_S,
                check=True,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise SchedulerUnreachable("local supervisor: did not start in time") from error
        except subprocess.CalledProcessError as error:
            raise SchedulerUnreachable(f"local supervisor: {error.stderr.strip()}") from error


def _value(reply: dict[str, Any]) -> Any:
    if "value" not in reply:
        raise local_wire.WireError(str(reply.get("error", reply)))
    return reply["value"]


def _snapshots(rows: list[dict[str, Any]]) -> tuple[JobSnapshot, ...]:
    return tuple(_snapshot(row) for row in rows)


def _snapshot(row: dict[str, Any]) -> JobSnapshot:
    return JobSnapshot(
        job_id=SlurmJobId(str(row["id"])),
        name=row["name"],
        state=SlurmState(row["state"]),
        raw_state=row["state"],
        reason=row["reason"],
        exit_code=row["exit_code"],
        signal=row["signal"],
        nodes="" if row["started_at"] is None else "localhost",
        submitted_at=_time(row["submitted_at"]),
        started_at=_time(row["started_at"]),
        ended_at=_time(row["ended_at"]),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
