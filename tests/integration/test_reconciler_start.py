"""From PENDING to the end, for each kind of run."""

import stat
from pathlib import Path

import pytest
from sqlalchemy import select

from app.db.tables import Finding
from app.domain.states import Reason, RunState
from app.ids import token_hash
from app.reconciler.loop import AFTER_FAILURE, GIVE_UP_AFTER, SOON
from slurm.faulty import Fault, FaultKind
from tests.factories.world import ATTACHED, RUNTIME_ONLY, World
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitResult


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_coupled_run_goes_from_pending_to_succeeded(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run))
    assert world.until(run, RunState.SUCCEEDED, RunState.FAILED) is RunState.SUCCEEDED
    assert world.view(run).reason is Reason.TRAINER_COMPLETED
    assert world.live_names() == []
    assert [event.data["to"] for event in world.events("run.state")] == [
        "STARTING_RUNTIME",
        "STARTING_TRAINER",
        "RUNNING",
        "STOPPING",
        "SUCCEEDED",
    ]


def test_the_trainer_is_submitted_only_when_every_runtime_is_ready(world: World) -> None:
    run = world.launch({"runtime": {"count": 2}})
    world.until(run, RunState.STARTING_RUNTIME)
    world.run_for(10, working=False)
    first, second = (job.name for job in world.view(run).runtime_jobs)
    world.beat(first)
    world.run_for(10, working=False)
    assert world.state(run) is RunState.STARTING_RUNTIME
    world.beat(second)
    world.beat(first)
    world.tick()
    assert world.state(run) is RunState.STARTING_TRAINER


def test_a_runtime_that_was_heard_long_ago_is_not_ready(world: World) -> None:
    run = world.launch({"runtime": {"count": 2}})
    world.until(run, RunState.STARTING_RUNTIME)
    world.run_for(10, working=False)
    first, second = (job.name for job in world.view(run).runtime_jobs)
    world.beat(first)
    world.pass_time(world.settings.stale_after.total_seconds() + 1)
    world.beat(second)
    world.tick()
    assert world.state(run) is RunState.STARTING_RUNTIME


def test_a_runtime_only_run_has_no_trainer_and_completes_when_its_runtimes_drain(
    world: World,
) -> None:
    run = world.launch(RUNTIME_ONLY)
    world.until(run, RunState.RUNNING)
    assert world.view(run).trainer is None
    world.drain(world.runtime(run))
    world.finish(world.runtime(run), ExitResult.DRAINED)
    assert world.until(run, RunState.SUCCEEDED, RunState.FAILED) is RunState.SUCCEEDED
    assert world.view(run).reason is Reason.RUNTIME_COMPLETED


def test_an_attached_run_waits_for_the_runtime_of_somebody_else_then_needs_no_own(
    tmp_path: Path,
) -> None:
    wrong = ["no answer"]
    world = World(tmp_path, probe=lambda _url: wrong[0])
    run = world.launch(ATTACHED)
    world.run_for(30)
    assert world.state(run) is RunState.PENDING
    with world.sessions() as session:
        found = session.scalars(select(Finding)).one()
    assert (found.code, found.run_id) == ("runtime_unusable", run)
    assert "no answer" in found.text
    wrong[0] = ""
    world.until(run, RunState.RUNNING)
    assert world.view(run).runtime_jobs == ()
    told = AttemptFile.model_validate_json(
        (world.settings.runs_dir / run / "a1" / env.ATTEMPT_FILE_NAME).read_text()
    )
    assert told.runtime_url == ATTACHED["runtime_url"]
    assert told.runtime_token_file == ATTACHED["runtime_token_file"]
    world.finish(world.trainer(run))
    assert world.until(run, RunState.SUCCEEDED, RunState.FAILED) is RunState.SUCCEEDED


def test_nothing_secret_is_readable_by_others_or_stored_in_clear(world: World) -> None:
    run = world.launch()
    world.until(run, RunState.RUNNING)
    directory = world.settings.runs_dir / run / "a1"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    tokens = [directory / n for n in (env.TOKEN_RUNTIME, env.TOKEN_TRAINER, env.TOKEN_SANDBOX)]
    for path in tokens:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len({path.read_text() for path in tokens}) == 3
    attempt = world.view(run).attempt
    assert attempt is not None
    assert attempt.runtime_token_hash == token_hash(tokens[0].read_text())
    assert attempt.trainer_token_hash == token_hash(tokens[1].read_text())
    secrets = {path.read_text() for path in tokens}
    for job in world.cluster.submitted():
        assert not any(secret in repr(job) for secret in secrets)


def test_jobs_get_the_resources_and_the_names_of_the_contract(world: World) -> None:
    resources = {"partition": "gpu", "gres": "gpu:mig:1", "cpus": 4}
    run = world.launch({"trainer": {"resources": resources, "python": "/opt/train/bin/python"}})
    world.until(run, RunState.RUNNING)
    trainer = next(job for job in world.cluster.submitted() if job.name == world.trainer(run))
    assert trainer.command == ("/opt/train/bin/python", "-m", "workers.training")
    assert (trainer.resources.partition, trainer.resources.gres) == ("gpu", "gpu:mig:1")
    assert trainer.environment[env.ROLE] == "trainer"
    assert trainer.environment[env.JOB_NAME] == trainer.name
    assert Path(trainer.environment[env.ATTEMPT_FILE]).exists()


def test_a_sweep_starts_as_many_runs_at_once_as_it_may(world: World) -> None:
    runs = world.launch_sweep(count=3, parallel=1)
    world.until(runs[0], RunState.RUNNING)
    assert [world.state(run) for run in runs[1:]] == [RunState.PENDING, RunState.PENDING]
    world.finish(world.trainer(runs[0]))
    world.until(runs[1], RunState.RUNNING)
    assert world.state(runs[2]) is RunState.PENDING


def test_it_comes_back_soon_after_progress_and_else_after_a_tick(world: World) -> None:
    world.launch()
    assert world.reconciler.tick() == SOON
    while world.cluster.submitted() == ():
        world.reconciler.tick()
    world.reconciler.tick()
    world.run_for(5, step=1, working=False)
    assert world.reconciler.tick() == world.settings.tick


def test_a_scheduler_that_refuses_connections_is_not_hammered(world: World) -> None:
    run = world.launch()
    while not world.view(run).prepared:
        world.tick()
    world.effect_faults += [Fault(FaultKind.FAIL_BEFORE)]
    assert world.reconciler.tick() == world.settings.tick


def test_a_run_whose_steps_keep_failing_is_stopped_and_says_why(tmp_path: Path) -> None:
    def broken(_url: str) -> str:
        raise ValueError("a bug of ours")

    world = World(tmp_path, probe=broken)
    run = world.launch(ATTACHED)
    world.run_for(AFTER_FAILURE.total_seconds() * (GIVE_UP_AFTER - 2))
    assert world.state(run) is RunState.PENDING
    world.until(run, RunState.FAILED)
    view = world.view(run)
    assert view.reason is Reason.INTERNAL_ERROR
    assert "ValueError" in view.reason_detail
