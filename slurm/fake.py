"""A scheduler in memory, driven by a clock: deterministic, instant, scriptable.

It passes the conformance suite of the real ones. Time passes only when the clock is moved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from slurm.port import (
    BatchJob,
    JobSnapshot,
    SchedulerUnreachable,
    SlurmJobId,
    SlurmState,
    SubmitCategory,
    SubmitRejected,
)
from slurm.script import check_name, render


@dataclass(frozen=True)
class Outcome:
    """What becomes of a job once it is released."""

    wait_s: float = 0.0
    run_s: float = 10.0
    exit_code: int = 0
    signal: int | None = None
    state: SlurmState | None = None
    """The final state; None: COMPLETED or FAILED as the exit code says."""
    reason: str = ""

    @property
    def final_state(self) -> SlurmState:
        success = self.exit_code == 0 and self.signal is None
        return self.state or (SlurmState.COMPLETED if success else SlurmState.FAILED)


@dataclass(frozen=True)
class _FakeJob:
    id: SlurmJobId
    batch: BatchJob
    outcome: Outcome
    submitted_at: datetime
    released_at: datetime | None = None
    ended: JobSnapshot | None = None
    purged: bool = False

    def look(self, now: datetime) -> JobSnapshot:
        if self.ended is not None:
            return self.ended
        if self.released_at is None:
            return self._seen(SlurmState.HELD, "JobHeldUser")
        started = self.released_at + timedelta(seconds=self.outcome.wait_s)
        if now < started:
            return self._seen(SlurmState.PENDING, "Priority")
        ended = started + timedelta(seconds=self.outcome.run_s)
        running = replace(self._seen(SlurmState.RUNNING, ""), nodes="node1", started_at=started)
        if now < ended:
            return running
        return _final(running, self.outcome, ended)

    def _seen(self, state: SlurmState, reason: str) -> JobSnapshot:
        raw = "PENDING" if state is SlurmState.HELD else state.value
        return JobSnapshot(
            self.id, self.batch.name, state, raw, reason, submitted_at=self.submitted_at
        )


def _final(before: JobSnapshot, outcome: Outcome, at: datetime) -> JobSnapshot:
    return replace(
        before,
        state=outcome.final_state,
        raw_state=outcome.final_state.value,
        reason=outcome.reason,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        ended_at=at,
    )


class FakeScheduler:
    """``outcome`` decides each job's fate at submission. Jobs are purged ``purge_after_s`` after
    their end; accounting knows them ``accounting_lag_s`` after it, and never a held one."""

    kind = "fake"

    def __init__(
        self,
        now: Callable[[], datetime],
        outcome: Callable[[BatchJob], Outcome] = lambda _job: Outcome(),
        purge_after_s: float = 300.0,
        accounting_lag_s: float = 5.0,
    ) -> None:
        self._now = now
        self._outcome = outcome
        self._purge_after = timedelta(seconds=purge_after_s)
        self._lag = timedelta(seconds=accounting_lag_s)
        self._jobs: dict[SlurmJobId, _FakeJob] = {}
        self._refusals: list[SubmitRejected] = []
        self._down_until: datetime | None = None

    def submit(self, job: BatchJob) -> SlurmJobId:
        self._answer()
        render(job)
        if self._refusals:
            raise self._refusals.pop(0)
        job_id = SlurmJobId(str(len(self._jobs) + 1))
        self._jobs[job_id] = _FakeJob(job_id, job, self._outcome(job), self._now())
        return job_id

    def release(self, job_id: SlurmJobId) -> None:
        self._answer()
        job = self._jobs.get(job_id)
        if job and job.released_at is None and job.ended is None:
            self._jobs[job_id] = replace(job, released_at=self._now())

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        self._answer()
        check_name(name)
        for job in list(self._jobs.values()):
            if job.batch.name == name or job.id in job_ids:
                self._end(job, Outcome(state=SlurmState.CANCELLED))

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        self._answer()
        seen = (job.look(self._now()) for job in self._jobs.values() if not job.purged)
        return tuple(s for s in seen if s.name.startswith(prefix) and not self._is_old(s))

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        self._answer()
        seen = (job.look(self._now()) for job in self._jobs.values() if job.batch.name in names)
        return tuple(s for s in seen if self._is_accounted(s) and _is_in_window(s, since))

    # What follows is not part of the port: it is how a test plays the cluster.

    def refuse_next(self, category: SubmitCategory, text: str) -> None:
        """The next submission that gets this far is rejected."""
        self._refusals.append(SubmitRejected(category, text))

    def be_unreachable(self, seconds: float) -> None:
        """Answer nobody for this long; jobs go on meanwhile."""
        self._down_until = self._now() + timedelta(seconds=seconds)

    def end(self, name: str, outcome: Outcome) -> None:
        """End every live job of this name now: a node failure, a preemption, an early exit."""
        for job in list(self._jobs.values()):
            if job.batch.name == name:
                self._end(job, outcome)

    def purge(self, name: str) -> None:
        """Forget the ended jobs of this name at once; accounting keeps them."""
        for job in list(self._jobs.values()):
            if job.batch.name == name and job.look(self._now()).ended_at is not None:
                self._jobs[job.id] = replace(job, purged=True)

    def submitted(self) -> tuple[BatchJob, ...]:
        """Everything that was ever accepted, in order."""
        return tuple(job.batch for job in self._jobs.values())

    def _end(self, job: _FakeJob, outcome: Outcome) -> None:
        before = job.look(self._now())
        if before.ended_at is None:
            self._jobs[job.id] = replace(job, ended=_final(before, outcome, self._now()))

    def _answer(self) -> None:
        if self._down_until is not None and self._now() < self._down_until:
            raise SchedulerUnreachable("Unable to contact slurm controller (connect failure)")

    def _is_old(self, seen: JobSnapshot) -> bool:
        return seen.ended_at is not None and seen.ended_at + self._purge_after <= self._now()

    def _is_accounted(self, seen: JobSnapshot) -> bool:
        if seen.ended_at is not None:
            return seen.ended_at + self._lag <= self._now()
        return seen.started_at is not None and seen.started_at + self._lag <= self._now()


def _is_in_window(seen: JobSnapshot, since: datetime) -> bool:
    return seen.ended_at is None or seen.ended_at >= since
