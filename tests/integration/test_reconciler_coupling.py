"""When one job of a run ends, the other is released within a minute and the run says why."""

from pathlib import Path
from typing import Any

import pytest

from app.domain.states import CloseReason, JobState, Reason, RunState
from slurm.port import SlurmState
from tests.factories.world import World
from workers.contract.exit_record import ExitResult

ONE_ATTEMPT = {"policy": {"max_attempts": 1}}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _running(world: World, spec: dict[str, Any] | None = None) -> str:
    run = world.launch({**ONE_ATTEMPT, **(spec or {})})
    world.until(run, RunState.RUNNING)
    return run


def _ended_within(world: World, run: str, seconds: float) -> None:
    world.until(run, RunState.FAILED, RunState.SUCCEEDED, RunState.CANCELLED, limit_s=seconds)
    assert world.live_names() == []


@pytest.mark.parametrize(
    ("outcome", "reason", "says"),
    [
        ({"state": SlurmState.CANCELLED}, Reason.RUNTIME_FAILED, "cancelled outside Skydeck"),
        ({"exit_code": 1}, Reason.RUNTIME_FAILED, "exit code 1"),
        ({"signal": 9}, Reason.RUNTIME_FAILED, "killed by signal 9"),
        ({"state": SlurmState.NODE_FAIL}, Reason.NODE_FAILED, "lost its node"),
        ({"state": SlurmState.PREEMPTED}, Reason.PREEMPTED, "preempted"),
        ({"state": SlurmState.TIMEOUT}, Reason.TIME_LIMIT, "time limit"),
        ({"state": SlurmState.OUT_OF_MEMORY}, Reason.OUT_OF_MEMORY, "out of memory"),
        ({}, Reason.RUNTIME_FAILED, "ended"),
    ],
)
def test_a_runtime_that_ends_takes_the_trainer_with_it(
    world: World, outcome: dict[str, Any], reason: Reason, says: str
) -> None:
    run = _running(world)
    world.finish(world.runtime(run), None, **outcome)
    _ended_within(world, run, 60)
    view = world.view(run)
    assert (view.state, view.reason) == (RunState.FAILED, reason)
    assert says in view.reason_detail
    assert world.runtime(run) in view.reason_detail


@pytest.mark.parametrize(
    ("record", "outcome", "reason"),
    [
        (ExitResult.COMPLETED, {}, Reason.TRAINER_COMPLETED),
        (ExitResult.COMPLETED, {"state": SlurmState.TIMEOUT}, Reason.TRAINER_COMPLETED),
        (ExitResult.FAILED, {"exit_code": 1}, Reason.TRAINER_FAILED),
        (ExitResult.FAILED, {}, Reason.TRAINER_FAILED),
        (ExitResult.DRAINED, {}, Reason.TRAINER_FAILED),
        (ExitResult.PREFLIGHT_FAILED, {"exit_code": 1}, Reason.PREFLIGHT_FAILED),
        (None, {}, Reason.EXIT_RECORD_MISSING),
        (None, {"exit_code": 1}, Reason.TRAINER_FAILED),
        (None, {"state": SlurmState.CANCELLED}, Reason.TRAINER_FAILED),
        (None, {"state": SlurmState.NODE_FAIL}, Reason.NODE_FAILED),
        (None, {"state": SlurmState.OUT_OF_MEMORY}, Reason.OUT_OF_MEMORY),
    ],
)
def test_a_trainer_that_ends_releases_the_runtimes_and_its_record_decides(
    world: World, record: ExitResult | None, outcome: dict[str, Any], reason: Reason
) -> None:
    run = _running(world)
    world.finish(world.trainer(run), record, **outcome)
    _ended_within(world, run, 60)
    good = reason is Reason.TRAINER_COMPLETED
    assert world.state(run) is (RunState.SUCCEEDED if good else RunState.FAILED)
    assert world.view(run).reason is reason


def test_an_exit_record_that_shows_up_late_still_counts(world: World) -> None:
    run = _running(world)
    trainer = world.trainer(run)
    world.finish(trainer, None)
    world.run_for(4, step=1)
    world.leave_record(trainer, ExitResult.COMPLETED)
    _ended_within(world, run, 60)
    assert world.state(run) is RunState.SUCCEEDED


def test_runtimes_that_leave_with_a_completed_trainer_are_no_loss(world: World) -> None:
    run = _running(world)
    world.finish(world.runtime(run), ExitResult.DRAINED)
    world.finish(world.trainer(run))
    _ended_within(world, run, 60)
    assert world.view(run).reason is Reason.TRAINER_COMPLETED


def test_an_exit_record_of_another_generation_is_no_proof(world: World) -> None:
    run = _running(world)
    world.leave_record(world.trainer(run), ExitResult.COMPLETED, generation=2)
    world.finish(world.trainer(run), None)
    _ended_within(world, run, 60)
    assert world.view(run).reason is Reason.EXIT_RECORD_MISSING


def test_one_of_several_runtimes_is_replaced_and_the_run_goes_on(world: World) -> None:
    run = _running(world, {"runtime": {"count": 2, "min_count": 1, "max_replacements": 1}})
    lost = world.runtime(run, 1)
    world.finish(lost, None, state=SlurmState.NODE_FAIL)
    world.run_for(60)
    view = world.view(run)
    assert (view.state, view.attempt_number) == (RunState.RUNNING, 1)
    assert world.runtime(run, 1).endswith("runtime1-g2")
    assert view.job(world.runtime(run, 1)).state is JobState.RUNNING
    old = next(r for r in view.runtimes if r.job_name == lost)
    assert old.close_reason is CloseReason.JOB_ENDED
    world.finish(world.runtime(run, 1), None, state=SlurmState.NODE_FAIL)
    world.run_for(60)
    assert world.runtime(run, 1).endswith("g2"), "no third one: one replacement was allowed"
    assert world.state(run) is RunState.RUNNING


def test_a_runtime_that_falls_silent_is_closed_cancelled_and_replaced(world: World) -> None:
    run = _running(world, {"runtime": {"count": 2, "min_count": 1}})
    silent = world.runtime(run, 1)
    others = [world.trainer(run), world.runtime(run, 0)]
    for _ in range(50):
        for name in others:
            world.beat(name)
        world.tick()
        world.pass_time(5)
    closed = next(r for r in world.view(run).runtimes if r.job_name == silent)
    assert closed.close_reason is CloseReason.HEARTBEAT_LOST
    assert silent not in world.live_names()
    assert world.runtime(run, 1) != silent
    assert world.state(run) is RunState.RUNNING


def test_silence_of_all_workers_is_our_own_deafness_and_kills_nothing(world: World) -> None:
    run = _running(world)
    world.run_for(900, working=False)  # the web process is down: no heartbeat arrives
    assert world.state(run) is RunState.RUNNING
    world.beat(world.trainer(run))  # it is back; the trainer is merely the first to be heard
    world.tick()
    assert world.state(run) is RunState.RUNNING
    world.run_for(300)
    assert world.state(run) is RunState.RUNNING


def test_a_draining_runtime_gets_its_successor_ahead(world: World) -> None:
    run = _running(world)
    old = world.runtime(run)
    world.drain(old)
    world.run_for(20)
    assert world.runtime(run) != old
    assert sorted(world.live_names()) == sorted([old, world.runtime(run), world.trainer(run)])
    world.finish(old, ExitResult.DRAINED)
    world.run_for(30)
    assert world.state(run) is RunState.RUNNING
    closed = next(r for r in world.view(run).runtimes if r.job_name == old)
    assert closed.close_reason is CloseReason.DRAINED
