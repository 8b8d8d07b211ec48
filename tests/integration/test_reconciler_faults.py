"""Crash before, crash after, answer lost, scheduler down, cancelled meanwhile, stale version and
late arrival: for each effect of the reconciler."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import event, select

from app.db import runs
from app.db.tables import Finding, Run
from app.domain.states import JobState, Reason, RunState
from slurm.faulty import Fault, FaultKind
from slurm.port import BatchJob, JobSnapshot, Scheduler, SlurmJobId, SlurmState, SubmitCategory
from tests.factories.world import World
from workers.contract import env
from workers.contract.exit_record import ExitResult

OK = Fault()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _started_once(world: World, run: str) -> None:
    """The run got where it should, and under each of its names exactly one job ever ran."""
    world.until(run, RunState.RUNNING, limit_s=300)
    assert sorted(world.live_names()) == sorted([world.runtime(run), world.trainer(run)])
    assert all(len(ids) == 1 for ids in world.cluster.released.values())


def _at_first_submit(world: World) -> str:
    run = world.launch()
    while not world.view(run).prepared:
        world.tick()
    return run


def _held(world: World) -> str:
    run = _at_first_submit(world)
    while world.view(run).runtime_jobs[0].state is not JobState.HELD:
        world.tick()
    return run


def _stopping(world: World) -> str:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.cancel(run)
    world.tick()
    assert world.state(run) is RunState.STOPPING
    return run


def test_crash_while_the_attempt_is_prepared_keeps_what_was_written(world: World) -> None:
    run = world.launch()
    world.tick()
    world.crash.effects_left = 1  # the second token
    assert world.tick()
    first = (world.settings.runs_dir / run / "a1" / env.TOKEN_RUNTIME).read_text()
    _started_once(world, run)
    assert (world.settings.runs_dir / run / "a1" / env.TOKEN_RUNTIME).read_text() == first


def test_crash_before_submit_submits_one_job_only(world: World) -> None:
    run = _at_first_submit(world)
    world.crash.effects_left = 0
    assert world.tick()
    assert world.view(run).runtime_jobs[0].state is JobState.SUBMITTING
    _started_once(world, run)
    assert len(world.cluster.submitted()) == 2


def test_crash_after_submit_releases_one_job_only(world: World) -> None:
    run = _at_first_submit(world)
    world.crash.effects_left, world.crash.after = 0, True
    assert world.tick()
    assert world.view(run).runtime_jobs[0].scheduler_id is None
    _started_once(world, run)
    assert len(world.cluster.submitted()) == 2, "the job was found by its name, not sent again"


def test_a_refusal_for_now_is_shown_and_not_repeated_with_every_tick(world: World) -> None:
    run = _at_first_submit(world)
    world.effect_faults += [Fault(FaultKind.FAIL_BEFORE)]
    world.tick()
    job = world.view(run).runtime_jobs[0]
    assert (job.state, job.detail != "") == (JobState.PLANNED, True)
    before = len(world.events("job.state"))
    world.tick()
    assert len(world.events("job.state")) == before
    _started_once(world, run)
    assert world.view(run).runtime_jobs[0].detail == ""


def test_answer_to_submit_lost_is_found_by_name(world: World) -> None:
    run = _at_first_submit(world)
    world.faults += [OK, Fault(FaultKind.ANSWER_LOST)]
    _started_once(world, run)
    assert len(world.cluster.submitted()) == 2


def test_scheduler_down_at_submit_sends_later_and_once(world: World) -> None:
    run = _at_first_submit(world)
    world.faults += [OK, Fault(FaultKind.FAIL_BEFORE)]
    world.tick()
    assert world.view(run).runtime_jobs[0].state is JobState.PLANNED
    _started_once(world, run)
    assert len(world.cluster.submitted()) == 2


def test_submission_lands_within_the_settle_window_and_is_adopted(world: World) -> None:
    run = _at_first_submit(world)
    world.faults += [OK, Fault(FaultKind.LATE, 20)]
    _started_once(world, run)
    assert len(world.cluster.submitted()) == 2


def test_submission_lands_after_the_window_and_its_copy_is_cancelled_held(world: World) -> None:
    run = _at_first_submit(world)
    late = world.settings.settle_window.total_seconds() + 30
    world.faults += [OK, Fault(FaultKind.LATE, late)]
    _started_once(world, run)
    world.run_for(60)
    assert len(world.cluster.submitted()) == 3
    _started_once(world, run)


def test_submission_lands_after_its_run_is_over_and_the_orphan_sweep_cancels_it(
    world: World,
) -> None:
    run = _at_first_submit(world)
    world.faults += [OK, Fault(FaultKind.LATE, 200)]
    world.tick()
    world.cancel(run)
    world.until(run, RunState.CANCELLED)
    assert world.view(run).runtime_jobs[0].state is JobState.NOT_SUBMITTED
    world.run_for(210)
    assert len(world.live_names()) == 1, "it has landed, held"
    world.run_for(world.settings.orphan_sweep.total_seconds() + 10)
    assert world.live_names() == []
    assert world.cluster.released == {}


def test_an_outage_restarts_the_settle_window(world: World) -> None:
    run = _at_first_submit(world)
    window = world.settings.settle_window.total_seconds()
    world.faults += [OK, Fault(FaultKind.LATE, 3 * window)]
    world.tick()
    world.run_for(window - 10)
    world.cluster.be_unreachable(10)
    world.run_for(20)
    assert world.view(run).runtime_jobs[0].state is JobState.SUBMITTING
    assert len(world.cluster.submitted()) == 0, "the window has not passed without a break"


def test_a_restart_of_the_reconciler_restarts_the_settle_window(world: World) -> None:
    _at_first_submit(world)
    world.faults += [OK, Fault(FaultKind.LATE, 500)]
    world.tick()
    world.run_for(world.settings.settle_window.total_seconds() - 5)
    world.restart()
    world.tick()
    assert world.jobs()[0].absent_since == world.now


def test_cancel_while_a_submission_is_unanswered_waits_for_it(world: World) -> None:
    run = _at_first_submit(world)
    world.faults += [OK, Fault(FaultKind.LATE, 20)]
    world.tick()
    world.cancel(run)
    world.run_for(16, step=4)
    assert world.state(run) is RunState.STOPPING, "the job may still appear"
    world.until(run, RunState.CANCELLED)
    assert world.live_names() == []
    assert world.cluster.released == {}


@pytest.mark.parametrize("after", [False, True])
def test_crash_around_release_releases_the_recorded_job(world: World, after: bool) -> None:
    run = _held(world)
    world.crash.effects_left, world.crash.after = 0, after
    assert world.tick()
    _started_once(world, run)
    assert len(world.cluster.submitted()) == 2


@pytest.mark.parametrize("kind", [FaultKind.FAIL_BEFORE, FaultKind.ANSWER_LOST])
def test_release_that_fails_or_is_not_answered_is_repeated(world: World, kind: FaultKind) -> None:
    run = _held(world)
    world.faults += [OK, Fault(kind)]
    _started_once(world, run)


def test_run_cancelled_while_its_job_is_held_never_runs(world: World) -> None:
    run = _held(world)
    world.cancel(run)
    world.until(run, RunState.CANCELLED)
    assert world.cluster.released == {}
    assert world.live_names() == []


@pytest.mark.parametrize("after", [False, True])
def test_crash_around_cancel_leaves_no_job(world: World, after: bool) -> None:
    run = _stopping(world)
    world.crash.effects_left, world.crash.after = 0, after
    assert world.tick()
    world.until(run, RunState.CANCELLED)
    assert world.live_names() == []


@pytest.mark.parametrize("kind", [FaultKind.FAIL_BEFORE, FaultKind.ANSWER_LOST])
def test_cancel_that_fails_or_is_not_answered_is_repeated(world: World, kind: FaultKind) -> None:
    run = _stopping(world)
    world.faults += [OK, Fault(kind), Fault(kind)]
    world.until(run, RunState.CANCELLED)
    assert world.live_names() == []


def test_an_outage_of_an_hour_is_not_a_failure(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    before = world.jobs()
    world.cluster.be_unreachable(3600)
    world.run_for(3600, step=60)
    assert "Unable to contact" in world.lease().scheduler_error
    assert world.state(run) is RunState.RUNNING
    assert [job.state for job in world.jobs()] == [job.state for job in before]
    world.run_for(60)
    assert world.state(run) is RunState.RUNNING
    assert world.lease().scheduler_error == ""


def test_a_cancel_during_an_outage_is_heeded_when_the_scheduler_is_back(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.cluster.be_unreachable(300)
    world.cancel(run)
    world.run_for(200)
    assert world.state(run) is RunState.STOPPING
    world.until(run, RunState.CANCELLED)
    assert world.live_names() == []


def test_a_job_that_left_the_queue_is_looked_up_in_accounting(tmp_path: Path) -> None:
    world = World(tmp_path, purge_after_s=0)
    run = world.launch({"policy": {"max_attempts": 1}})
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run), None, state=SlurmState.PREEMPTED)
    world.until(run, RunState.FAILED, limit_s=60)
    assert world.view(run).reason is Reason.PREEMPTED


def test_a_job_gone_from_the_queue_is_judged_by_its_exit_record(tmp_path: Path) -> None:
    world = World(tmp_path, purge_after_s=0, accounting_lag_s=100_000)
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run))
    world.until(run, RunState.SUCCEEDED, limit_s=200)


def test_a_job_that_nobody_knows_vanishes_only_after_the_grace(tmp_path: Path) -> None:
    world = World(tmp_path, purge_after_s=0, accounting_lag_s=100_000)
    run = world.launch({"policy": {"max_attempts": 1}})
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run), None)
    world.run_for(world.settings.vanish_grace.total_seconds() - 10)
    assert world.state(run) is RunState.RUNNING
    world.until(run, RunState.FAILED, limit_s=200)
    assert world.view(run).reason is Reason.JOB_VANISHED


def test_a_refused_submission_ends_the_run_with_the_words_of_the_scheduler(world: World) -> None:
    run = world.launch()
    world.cluster.refuse_next(SubmitCategory.PARTITION, "invalid partition specified: gpu")
    world.until(run, RunState.FAILED)
    assert world.view(run).reason is Reason.SUBMIT_REJECTED
    assert "invalid partition specified: gpu" in world.view(run).reason_detail
    with world.sessions() as session:
        found = session.scalars(select(Finding)).one()
    assert found.code == "submit_rejected.partition"
    assert "sinfo" in found.text


def test_losing_a_race_writes_nothing_and_the_next_look_goes_on(world: World) -> None:
    run = world.launch()
    with world.sessions() as session:
        stale = runs.load(session, run)
    assert stale is not None
    world.tick()
    events = len(world.events("run.state"))
    with world.sessions.begin() as session:
        changed = replace(stale, state=RunState.STOPPING, reason=Reason.CANCELLED_BY_USER)
        assert runs.store(session, stale, changed, world.now) is False
    assert len(world.events("run.state")) == events
    _started_once(world, run)


def test_an_illegal_transition_is_a_bug_and_writes_nothing(world: World) -> None:
    run = world.launch()
    view = world.view(run)
    wrong = replace(view, state=RunState.SUCCEEDED)
    with pytest.raises(runs.IllegalTransition), world.sessions.begin() as session:
        runs.store(session, view, wrong, world.now)
    assert world.state(run) is RunState.PENDING


def test_only_one_of_two_reconcilers_works(world: World) -> None:
    run = world.launch()
    world.tick()
    second = world._start()
    second.tick()
    assert world.state(run) is RunState.STARTING_RUNTIME
    assert not world.view(run).prepared, "the second one stood aside"
    world.reconciler.close()
    second.tick()
    assert world.view(run).prepared


def test_a_run_that_cannot_be_stepped_does_not_stop_the_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    broken, healthy = world.launch(), world.launch()
    with world.sessions.begin() as session:
        session.get_one(Run, broken).spec = {"name": "of another version", "colour": "blue"}
    world.until(healthy, RunState.RUNNING)
    assert next(r.state for r in world.runs() if r.id == broken) is RunState.PENDING
    assert f"run {broken}: the step failed" in caplog.text
    failures = caplog.text.count("the step failed")
    world.tick()
    assert caplog.text.count("the step failed") == failures, "it was pushed into the future"


def test_a_full_disk_while_preparing_is_waited_out(world: World) -> None:
    run = world.launch()
    world.tick()
    world.settings.runs_dir.parent.mkdir(exist_ok=True)
    world.settings.runs_dir.write_text("in the way")  # any OSError: here, not a directory
    world.run_for(60)
    assert world.state(run) is RunState.STARTING_RUNTIME
    assert world.cluster.submitted() == ()
    world.settings.runs_dir.unlink()
    world.run_for(60)
    _started_once(world, run)


@dataclass
class SessionSpy:
    """Fails when the database is in a transaction while the scheduler is called."""

    inner: Scheduler
    in_transaction: list[int]

    @property
    def kind(self) -> str:
        return self.inner.kind

    def _check(self) -> None:
        assert self.in_transaction == []

    def submit(self, job: BatchJob) -> SlurmJobId:
        self._check()
        return self.inner.submit(job)

    def release(self, job_id: SlurmJobId) -> None:
        self._check()
        self.inner.release(job_id)

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        self._check()
        self.inner.cancel(name, job_ids)

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        self._check()
        return self.inner.snapshot(prefix)

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        self._check()
        return self.inner.history(names, since)


def test_no_session_is_open_while_the_scheduler_is_called(tmp_path: Path) -> None:
    open_now: list[int] = []
    world = World(tmp_path, spy=lambda scheduler: SessionSpy(scheduler, open_now))
    engine = world.sessions.kw["bind"]
    event.listen(engine, "begin", lambda _connection: open_now.append(1))
    for ended in ("commit", "rollback"):
        event.listen(engine, ended, lambda _connection: open_now.clear())
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run), ExitResult.COMPLETED)
    world.until(run, RunState.SUCCEEDED)
    assert "the step failed" not in str(world.view(run))
