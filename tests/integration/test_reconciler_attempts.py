"""Another attempt, or the end."""

from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from app.db.tables import Sandbox
from app.domain.states import JobState, Reason, RunState
from slurm.port import SlurmState
from tests.factories.world import World
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitResult
from workers.contract.sandbox_api import SandboxState


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def _lose_node(world: World, run: str) -> None:
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run), None, state=SlurmState.NODE_FAIL)
    world.until(run, RunState.STOPPING)


def test_the_next_attempt_resumes_from_the_newest_complete_checkpoint(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.save_checkpoint(run, 10)
    world.save_checkpoint(run, 20)
    world.save_checkpoint(run, 30, complete=False)
    _lose_node(world, run)
    world.until(run, RunState.RUNNING)
    directory = world.settings.runs_dir / run / "a2"
    told = AttemptFile.model_validate_json((directory / env.ATTEMPT_FILE_NAME).read_text())
    assert told.resume_from == str(world.checkpoint(run, 1, 20))
    assert told.resume_step == 20
    assert told.attempt_dir == str(directory)


def test_a_checkpoint_that_was_deleted_is_not_resumed_from(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.save_checkpoint(run, 10)
    world.save_checkpoint(run, 20)
    world.checkpoint(run, 1, 20).rmdir()
    _lose_node(world, run)
    world.until(run, RunState.RUNNING)
    attempt = world.view(run).attempt
    assert attempt is not None
    assert attempt.resume_checkpoint == str(world.checkpoint(run, 1, 10))
    assert attempt.resume_step == 10


def test_sandboxes_of_a_runtime_whose_job_ended_are_gone(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    with world.sessions.begin() as session:
        for name, state in (("busy", SandboxState.READY), ("broken", SandboxState.FAILED)):
            session.add(_sandbox(run, name, state, world.now))
    world.cancel(run)
    world.until(run, RunState.CANCELLED)
    with world.sessions() as session:
        found = {box.id: box for box in session.scalars(select(Sandbox))}
    assert found["busy"].state is SandboxState.GONE
    assert found["busy"].ended_at is not None
    assert found["broken"].state is SandboxState.FAILED


def _sandbox(run: str, name: str, state: SandboxState, at: datetime) -> Sandbox:
    return Sandbox(
        id=name,
        run_id=run,
        attempt=1,
        runtime_index=0,
        generation=1,
        client_key=name,
        state=state,
        image="",
        labels={},
        created_at=at,
    )


def test_an_attempt_has_names_directory_and_tokens_of_its_own(world: World) -> None:
    run = world.launch()
    _lose_node(world, run)
    world.until(run, RunState.RUNNING)
    assert world.runtime(run).endswith("-a2-runtime0-g1")
    tokens = [
        (world.settings.runs_dir / run / attempt / env.TOKEN_TRAINER).read_text()
        for attempt in ("a1", "a2")
    ]
    assert tokens[0] != tokens[1]


def test_the_next_attempt_begins_after_the_old_jobs_are_gone_and_the_delay(world: World) -> None:
    run = world.launch({"policy": {"retry_delay_s": 40}})
    _lose_node(world, run)
    world.until(run, RunState.STARTING_RUNTIME)
    assert world.live_names() == []
    began = world.now
    world.run_for(30)
    assert world.live_names() == []
    world.until(run, RunState.STARTING_TRAINER)
    assert (world.now - began).total_seconds() >= 40


def test_attempts_without_a_newer_checkpoint_are_bounded(world: World) -> None:
    policy = {"max_attempts": 9, "max_attempts_without_checkpoint": 2, "retry_delay_s": 0}
    run = world.launch({"policy": policy})
    _lose_node(world, run)
    world.until(run, RunState.RUNNING)
    world.save_checkpoint(run, 5)  # progress: the count starts anew
    _lose_node(world, run)
    world.until(run, RunState.RUNNING)
    world.save_checkpoint(run, 5)  # no newer than the one it resumed from
    _lose_node(world, run)
    world.until(run, RunState.RUNNING)
    _lose_node(world, run)
    assert world.until(run, RunState.FAILED, RunState.RUNNING) is RunState.FAILED
    assert world.view(run).attempt_number == 4
    assert world.view(run).reason is Reason.NODE_FAILED


def test_a_failed_trainer_is_tried_again_only_if_allowed_and_it_got_further(world: World) -> None:
    run = world.launch({"policy": {"retry_trainer_failed": True, "retry_delay_s": 0}})
    world.until(run, RunState.RUNNING)
    world.save_checkpoint(run, 1)
    world.finish(world.trainer(run), ExitResult.FAILED, exit_code=1)
    world.until(run, RunState.STOPPING)
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run), ExitResult.FAILED, exit_code=1)
    assert world.until(run, RunState.FAILED) is RunState.FAILED
    assert world.view(run).attempt_number == 2


def test_a_cancel_in_stopping_takes_away_the_next_attempt(world: World) -> None:
    run = world.launch()
    _lose_node(world, run)
    world.cancel(run)
    world.until(run, RunState.CANCELLED, RunState.FAILED, RunState.RUNNING)
    assert world.state(run) is RunState.CANCELLED
    assert world.view(run).reason is Reason.NODE_FAILED, "the reason was fixed before"


def test_a_cancel_in_stopping_leaves_a_final_reason_as_it_is(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run))
    world.until(run, RunState.STOPPING)
    world.cancel(run)
    world.until(run, RunState.SUCCEEDED, RunState.CANCELLED)
    assert world.state(run) is RunState.SUCCEEDED


def test_a_node_that_failed_its_preflight_is_avoided_next_time(world: World) -> None:
    run = world.launch({"policy": {"retry_delay_s": 0}})
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run), ExitResult.PREFLIGHT_FAILED, exit_code=3)
    world.until(run, RunState.STOPPING)
    world.until(run, RunState.RUNNING)
    assert world.cluster.submitted()[-1].resources.exclude_nodes == ("node1",)


def test_a_run_cancelled_before_it_began_has_no_attempt_and_no_job(world: World) -> None:
    run = world.launch()
    world.cancel(run)
    world.until(run, RunState.CANCELLED)
    assert world.view(run).attempt is None
    assert world.jobs() == []


def test_waiting_in_the_queue_is_not_starting(tmp_path: Path) -> None:
    world = World(tmp_path, queue_seconds=5000)
    run = world.launch({"policy": {"start_timeout_s": 60, "max_attempts": 1}})
    world.run_for(4000, step=30)
    assert world.state(run) is RunState.STARTING_RUNTIME
    assert world.jobs()[0].state is JobState.QUEUED
    world.run_for(1500, step=30, working=False)
    assert world.state(run) is RunState.FAILED
    assert world.view(run).reason is Reason.START_TIMEOUT


def test_a_queue_limit_ends_the_wait_where_one_is_set(tmp_path: Path) -> None:
    world = World(tmp_path, queue_seconds=5000)
    run = world.launch({"policy": {"max_queue_wait_s": 300}})
    world.run_for(400, step=10)
    assert world.state(run) is RunState.FAILED
    assert world.view(run).reason is Reason.QUEUE_TIMEOUT
    assert world.live_names() == []
