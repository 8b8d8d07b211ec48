"""Faults around any Scheduler, by plan: what a network, a frozen controller or a crash does."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from random import Random

from slurm.port import (
    BatchJob,
    JobSnapshot,
    Scheduler,
    SchedulerError,
    SchedulerUnreachable,
    SlurmJobId,
    SubmitAmbiguous,
)


class FaultKind(StrEnum):
    NONE = "none"
    FAIL_BEFORE = "fail_before"
    """It certainly did not happen."""
    ANSWER_LOST = "answer_lost"
    """It happened, and the caller is not told."""
    LATE = "late"
    """Nothing now; it happens ``seconds`` later. Only for submit; else as FAIL_BEFORE."""
    DELAY = "delay"
    """It happens, after ``seconds``."""
    STALE = "stale"
    """The answer of the previous look. Only for snapshot and history; else as NONE."""


@dataclass(frozen=True)
class Fault:
    kind: FaultKind = FaultKind.NONE
    seconds: float = 0.0


@dataclass(frozen=True)
class Outage:
    """Nothing gets through from ``start`` (included) to ``end`` (not)."""

    start: datetime
    end: datetime


@dataclass(frozen=True)
class _Late:
    due: datetime
    job: BatchJob


def random_faults(random: Random, share: float, longest_s: float = 60.0) -> Iterator[Fault]:
    """An endless plan: this ``share`` of the calls goes wrong, in every way there is."""
    bad = [kind for kind in FaultKind if kind is not FaultKind.NONE]
    while True:
        wrong = random.random() < share
        yield Fault(random.choice(bad), random.uniform(0, longest_s)) if wrong else Fault()


class FaultyScheduler:
    """``faults`` gives one Fault a call, in order; when it is used up, all goes well.

    Deterministic: the same faults, calls and clock give the same answers, so a property test may
    draw ``faults`` and shrink them. ``wait`` is told of a DELAY; a test lets it move the clock.
    """

    def __init__(
        self,
        inner: Scheduler,
        now: Callable[[], datetime],
        faults: Iterator[Fault] | Sequence[Fault] = (),
        outages: Sequence[Outage] = (),
        wait: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._inner = inner
        self._now = now
        self._faults = iter(faults)
        self._outages = tuple(outages)
        self._wait = wait
        self._late: list[_Late] = []
        self._last_look: dict[str, tuple[JobSnapshot, ...]] = {}

    @property
    def kind(self) -> str:
        return self._inner.kind

    def submit(self, job: BatchJob) -> SlurmJobId:
        fault = self._begin()
        if fault.kind is FaultKind.LATE:
            self._late.append(_Late(self._now() + timedelta(seconds=fault.seconds), job))
            raise SubmitAmbiguous(job.name, "no answer before the deadline")
        job_id = self._inner.submit(job)
        if fault.kind is FaultKind.ANSWER_LOST:
            raise SubmitAmbiguous(job.name, "the answer was lost")
        return job_id

    def release(self, job_id: SlurmJobId) -> None:
        fault = self._begin_repeatable()
        self._inner.release(job_id)
        _lose_answer(fault)

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        fault = self._begin_repeatable()
        self._inner.cancel(name, job_ids)
        _lose_answer(fault)

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        return self._look(f"snapshot {prefix}", lambda: self._inner.snapshot(prefix))

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        key = f"history {sorted(names)}"
        return self._look(key, lambda: self._inner.history(names, since))

    def land(self) -> None:
        """Let every late submission that is due arrive. Each call begins with it."""
        due = [late for late in self._late if late.due <= self._now()]
        self._late = [late for late in self._late if late.due > self._now()]
        for late in due:
            try:
                self._inner.submit(late.job)
            except SchedulerError:
                continue  # refused when it arrived: nobody is there to be told

    def in_flight(self) -> tuple[str, ...]:
        """Names of submissions that have still to arrive."""
        return tuple(late.job.name for late in self._late)

    def _begin(self) -> Fault:
        self.land()
        fault = next(self._faults, Fault())
        if any(outage.start <= self._now() < outage.end for outage in self._outages):
            raise SchedulerUnreachable("Unable to contact slurm controller (connect failure)")
        if fault.kind is FaultKind.FAIL_BEFORE:
            raise SchedulerUnreachable("connection refused")
        if fault.kind is FaultKind.DELAY:
            self._wait(fault.seconds)
        return fault

    def _begin_repeatable(self) -> Fault:
        fault = self._begin()
        if fault.kind is FaultKind.LATE:
            raise SchedulerUnreachable("no answer before the deadline")
        return fault

    def _look(
        self, key: str, look: Callable[[], tuple[JobSnapshot, ...]]
    ) -> tuple[JobSnapshot, ...]:
        fault = self._begin_repeatable()
        _lose_answer(fault)
        if fault.kind is FaultKind.STALE and key in self._last_look:
            return self._last_look[key]
        self._last_look[key] = look()
        return self._last_look[key]


def _lose_answer(fault: Fault) -> None:
    if fault.kind is FaultKind.ANSWER_LOST:
        raise SchedulerUnreachable("the answer was lost")
