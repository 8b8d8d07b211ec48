"""What each scheduler needs to be put through the one suite, and what it cannot do."""

import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from slurm.fake import FakeScheduler, Outcome
from slurm.port import BatchJob, JobSnapshot, Resources, Scheduler, SlurmJobId, SlurmState

SMALL = Resources(memory_mb=200, time_limit_s=120)


@dataclass
class Backend:
    scheduler: Scheduler
    directory: Path
    """Readable and writable for jobs."""
    pass_time: Callable[[float], None]
    outage: Callable[[], AbstractContextManager[None]]
    gaps: Mapping[str, str] = field(default_factory=dict)
    """Behaviour -> why this backend does not have it."""
    patience_s: float = 60.0
    script: Callable[[str, Outcome], None] = lambda _name, _outcome: None
    """Tell a scheduler without processes what the job called so would do."""

    def job(
        self, name: str, shell: str = "exit 0", outcome: Outcome | None = None, **changes: object
    ) -> BatchJob:
        self.script(name, outcome or _outcome_of(shell))
        job = BatchJob(
            name=name,
            command=("/bin/bash", "-c", shell),
            workdir=self.directory,
            log_path=self.directory / f"{name}.log",
            exit_record=self.directory / f"{name}.exit.json",
            resources=SMALL,
        )
        return replace(job, **changes)  # type: ignore[arg-type]

    def run(self, job: BatchJob) -> JobSnapshot:
        job_id = self.scheduler.submit(job)
        self.scheduler.release(job_id)
        return self.ended(job.name)

    def ended(self, name: str) -> JobSnapshot:
        return self.until(name, lambda seen: seen.ended_at is not None)

    def running(self, name: str) -> JobSnapshot:
        return self.until(name, lambda seen: seen.state is SlurmState.RUNNING)

    def until(self, name: str, good: Callable[[JobSnapshot], bool]) -> JobSnapshot:
        self.eventually(lambda: all(good(seen) for seen in self.look(name)))
        return self.look(name)[0]

    def eventually(self, good: Callable[[], bool]) -> None:
        step = 0.1
        for _ in range(int(self.patience_s / step)):
            if good():
                return
            self.pass_time(step)
        jobs = "\n".join(str(job) for job in self.scheduler.snapshot())
        raise AssertionError(f"not within {self.patience_s} s; jobs:\n{jobs}")

    def look(self, name: str) -> tuple[JobSnapshot, ...]:
        return tuple(job for job in self.scheduler.snapshot(name) if job.name == name)

    def history(self, name: str) -> tuple[JobSnapshot, ...]:
        """Accounting's word once it has caught up."""
        since = datetime.now(UTC) - timedelta(hours=1)
        self.eventually(lambda: bool(self.scheduler.history([name], since)))
        return self.scheduler.history([name], since)


class Renamed:
    """One test's share of a scheduler that remembers the jobs of others."""

    def __init__(self, inner: Scheduler, mark: str) -> None:
        self._inner = inner
        self._mark = mark

    @property
    def kind(self) -> str:
        return self._inner.kind

    def submit(self, job: BatchJob) -> SlurmJobId:
        return self._inner.submit(replace(job, name=self._mark + job.name))

    def release(self, job_id: SlurmJobId) -> None:
        self._inner.release(job_id)

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        self._inner.cancel(self._mark + name, job_ids)

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        return self._strip(self._inner.snapshot(self._mark + prefix))

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        return self._strip(self._inner.history([self._mark + name for name in names], since))

    def _strip(self, jobs: tuple[JobSnapshot, ...]) -> tuple[JobSnapshot, ...]:
        return tuple(replace(job, name=job.name.removeprefix(self._mark)) for job in jobs)


class FakeClock:
    def __init__(self) -> None:
        # Not a fixed day: the suite asks for the history of the last hour.
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class FakeWorld:
    """A fake scheduler that reads the same little shell programs that real ones run."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.outcomes: dict[str, Outcome] = {}
        self.scheduler = FakeScheduler(self.clock, lambda job: self.outcomes[job.name])

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.scheduler.be_unreachable(3600)
        yield
        self.scheduler.be_unreachable(0)


def _outcome_of(shell: str) -> Outcome:
    run = re.search(r"sleep (\d+)", shell)
    code = re.search(r"exit (\d+)", shell)
    return Outcome(run_s=float(run[1]) if run else 0.5, exit_code=int(code[1]) if code else 0)


def sleep(seconds: float) -> None:
    """Real schedulers take real time."""
    threading.Event().wait(seconds)


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
