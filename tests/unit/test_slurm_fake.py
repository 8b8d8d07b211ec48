"""Scripted fates, and faults by plan."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.fake import FakeScheduler, Outcome
from slurm.faulty import Fault, FaultKind, FaultyScheduler, Outage, random_faults
from slurm.port import (
    BatchJob,
    SchedulerError,
    SchedulerUnreachable,
    SlurmJobId,
    SlurmState,
    SubmitAmbiguous,
    SubmitCategory,
    SubmitRejected,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
JOB = BatchJob("sd-a", ("true",), Path("/w"), Path("/w/log"), Path("/w/exit"))


class Clock:
    def __init__(self) -> None:
        self.time = START

    def __call__(self) -> datetime:
        return self.time

    def move(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)


PLAIN = Outcome()


def make(outcome: Outcome = PLAIN) -> tuple[Clock, FakeScheduler]:
    clock = Clock()
    return clock, FakeScheduler(clock, lambda _job: outcome)


def states(fake: FakeScheduler) -> list[SlurmState]:
    return [job.state for job in fake.snapshot()]


def test_a_job_waits_runs_ends_and_is_purged_as_time_passes() -> None:
    clock, fake = make(Outcome(wait_s=5, run_s=10, exit_code=3))
    fake.release(fake.submit(JOB))
    assert states(fake) == [SlurmState.PENDING]
    clock.move(5)
    assert states(fake) == [SlurmState.RUNNING]
    clock.move(10)
    assert states(fake) == [SlurmState.FAILED]
    assert fake.snapshot()[0].exit_code == 3
    clock.move(299)
    assert states(fake) == [SlurmState.FAILED]
    clock.move(1)
    assert states(fake) == []
    assert [job.state for job in fake.history(["sd-a"], START)] == [SlurmState.FAILED]


def test_accounting_lags_and_never_knows_held_jobs() -> None:
    clock, fake = make(Outcome(run_s=1))
    held = fake.submit(JOB)
    clock.move(100)
    assert fake.history(["sd-a"], START) == ()
    fake.release(held)
    clock.move(4)
    assert fake.history(["sd-a"], START) == ()
    clock.move(2)
    assert len(fake.history(["sd-a"], START)) == 1


@pytest.mark.parametrize("state", [SlurmState.NODE_FAIL, SlurmState.PREEMPTED])
def test_the_cluster_may_end_a_job(state: SlurmState) -> None:
    _, fake = make()
    fake.release(fake.submit(JOB))
    fake.end("sd-a", Outcome(state=state, reason="NodeDown"))
    assert states(fake) == [state]
    fake.end("sd-a", Outcome(exit_code=0))
    assert states(fake) == [state]


def test_a_purge_takes_ended_jobs_only() -> None:
    _, fake = make()
    fake.submit(JOB)
    fake.purge("sd-a")
    assert states(fake) == [SlurmState.HELD]
    fake.cancel("sd-a")
    fake.purge("sd-a")
    assert states(fake) == []


def test_a_refusal_hits_one_submission() -> None:
    _, fake = make()
    fake.refuse_next(SubmitCategory.QOS, "Invalid qos specification")
    with pytest.raises(SubmitRejected, match="qos"):
        fake.submit(JOB)
    fake.submit(JOB)
    assert len(fake.submitted()) == 1


def faulty(*faults: Fault, outages: tuple[Outage, ...] = ()):
    clock, fake = make()
    return clock, fake, FaultyScheduler(fake, clock, faults, outages, wait=clock.move)


def test_a_submission_that_failed_before_did_not_happen() -> None:
    _, fake, broken = faulty(Fault(FaultKind.FAIL_BEFORE))
    with pytest.raises(SchedulerUnreachable):
        broken.submit(JOB)
    assert states(fake) == []


def test_a_submission_whose_answer_was_lost_did_happen() -> None:
    _, fake, broken = faulty(Fault(FaultKind.ANSWER_LOST))
    with pytest.raises(SubmitAmbiguous, match="sd-a"):
        broken.submit(JOB)
    assert states(fake) == [SlurmState.HELD]


def test_a_late_submission_appears_when_it_is_due() -> None:
    clock, fake, broken = faulty(Fault(FaultKind.LATE, 30))
    with pytest.raises(SubmitAmbiguous):
        broken.submit(JOB)
    assert broken.in_flight() == ("sd-a",)
    clock.move(29)
    assert broken.snapshot() == ()
    clock.move(1)
    assert len(broken.snapshot()) == 1
    assert broken.in_flight() == ()
    assert states(fake) == [SlurmState.HELD]


def test_a_late_submission_lands_also_during_an_outage() -> None:
    outage = Outage(START + timedelta(seconds=1), START + timedelta(seconds=60))
    clock, fake, broken = faulty(Fault(FaultKind.LATE, 10), outages=(outage,))
    with pytest.raises(SubmitAmbiguous):
        broken.submit(JOB)
    clock.move(20)
    with pytest.raises(SchedulerUnreachable):
        broken.snapshot()
    assert states(fake) == [SlurmState.HELD]


@pytest.mark.parametrize("kind", [FaultKind.ANSWER_LOST, FaultKind.LATE, FaultKind.FAIL_BEFORE])
def test_a_cancel_without_answer_is_unreachable(kind: FaultKind) -> None:
    _, fake, broken = faulty(Fault(), Fault(kind))
    broken.submit(JOB)
    with pytest.raises(SchedulerUnreachable):
        broken.cancel("sd-a")
    happened = states(fake) == [SlurmState.CANCELLED]
    assert happened is (kind is FaultKind.ANSWER_LOST)


def test_a_stale_look_is_the_one_before() -> None:
    _, _, broken = faulty(Fault(), Fault(), Fault(FaultKind.STALE))
    assert broken.snapshot("sd") == ()
    broken.submit(JOB)
    assert broken.snapshot("sd") == ()
    assert len(broken.snapshot("sd")) == 1


def test_a_delay_takes_time_and_an_outage_ends() -> None:
    outage = Outage(START + timedelta(seconds=10), START + timedelta(seconds=20))
    clock, _, broken = faulty(Fault(FaultKind.DELAY, 10), outages=(outage,))
    broken.submit(JOB)
    assert clock.time == START + timedelta(seconds=10)
    with pytest.raises(SchedulerUnreachable):
        broken.snapshot()
    clock.move(10)
    assert len(broken.snapshot()) == 1


@given(seed=st.integers(), share=st.floats(0, 1))
def test_the_same_plan_gives_the_same_answers(seed: int, share: float) -> None:
    assert _story(seed, share) == _story(seed, share)


def _story(seed: int, share: float) -> list[str]:
    clock, fake = make()
    broken = FaultyScheduler(fake, clock, random_faults(Random(seed), share), wait=clock.move)
    told: list[str] = []
    for step in range(20):
        calls = (
            lambda n=step: broken.submit(replace(JOB, name=f"sd-{n}")),
            broken.snapshot,
            lambda n=step: broken.release(SlurmJobId(str(n))),
            lambda n=step: broken.cancel(f"sd-{n - 2}"),
        )
        try:
            told.append(repr(calls[step % 4]()))
        except SchedulerError as error:
            told.append(repr(error))
        clock.move(7)
    return told
