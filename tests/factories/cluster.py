"""A fake cluster that keeps a ledger, and a reconciler's death around any effect on it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from slurm.fake import FakeScheduler
from slurm.port import BatchJob, JobSnapshot, Scheduler, SlurmJobId


class Crash(BaseException):
    """The reconciler's process dies here."""


class Ledger(FakeScheduler):
    """Remembers which jobs were ever allowed to run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.released: dict[str, set[SlurmJobId]] = {}
        self.names: dict[SlurmJobId, str] = {}

    def submit(self, job: BatchJob) -> SlurmJobId:
        job_id = super().submit(job)
        self.names[job_id] = job.name
        return job_id

    def release(self, job_id: SlurmJobId) -> None:
        super().release(job_id)
        if job_id in self.names:
            self.released.setdefault(self.names[job_id], set()).add(job_id)

    def truth(self) -> list[JobSnapshot]:
        """All jobs that it remembers, also while it answers nobody."""
        down, self._down_until = self._down_until, None
        try:
            return sorted(self.snapshot(), key=lambda seen: int(seen.job_id))
        finally:
            self._down_until = down

    def live(self) -> list[JobSnapshot]:
        return [seen for seen in self.truth() if seen.ended_at is None]


@dataclass
class CrashPlan:
    """When the reconciler dies: before or after the n-th effect from now."""

    effects_left: int | None = None
    after: bool = False
    in_effect: bool = False

    def before_effect(self) -> None:
        if self.effects_left is None:
            return
        if self.effects_left == 0 and not self.after:
            self.effects_left = None
            raise Crash

    def after_effect(self) -> None:
        if self.effects_left is None:
            return
        if self.effects_left == 0:
            self.effects_left = None
            raise Crash
        self.effects_left -= 1


class Crashing:
    """Dies around an effect; a look is none."""

    def __init__(self, inner: Scheduler, plan: CrashPlan, cluster: Ledger) -> None:
        self._inner = inner
        self._plan = plan
        self._cluster = cluster
        self.doubled: list[str] = []
        """Names submitted while the cluster already had a job of that name."""

    @property
    def kind(self) -> str:
        return self._inner.kind

    def submit(self, job: BatchJob) -> SlurmJobId:
        with self._effect():
            if job.name in self._cluster.names.values():
                self.doubled.append(job.name)
            return self._inner.submit(job)

    def release(self, job_id: SlurmJobId) -> None:
        with self._effect():
            self._inner.release(job_id)

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        with self._effect():
            self._inner.cancel(name, job_ids)

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        return self._inner.snapshot(prefix)

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        return self._inner.history(names, since)

    @contextmanager
    def _effect(self) -> Iterator[None]:
        self._plan.before_effect()
        self._plan.in_effect = True
        try:
            yield
        finally:
            self._plan.in_effect = False
            self._plan.after_effect()
