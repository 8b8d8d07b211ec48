"""The reconciler on each real, migrated database."""

from pathlib import Path

from app.db import runs
from app.domain.states import Reason, RunState
from slurm.port import SlurmState
from tests.factories.databases import Database
from tests.factories.world import World


def test_a_run_is_tried_again_after_a_lost_node_and_completes(
    database: Database, tmp_path: Path
) -> None:
    world = World(tmp_path, sessions=database.sessions)
    run = world.launch({"policy": {"retry_delay_s": 0}})
    world.until(run, RunState.RUNNING)
    world.save_checkpoint(run, 3)
    world.finish(world.trainer(run), None, state=SlurmState.NODE_FAIL)
    world.until(run, RunState.STOPPING)
    world.until(run, RunState.RUNNING)
    world.finish(world.trainer(run))
    world.until(run, RunState.SUCCEEDED, RunState.FAILED)
    view = world.view(run)
    assert (view.state, view.attempt_number) == (RunState.SUCCEEDED, 2)
    assert view.reason is Reason.TRAINER_COMPLETED
    assert view.attempt is not None
    assert view.attempt.resume_step == 3
    assert world.live_names() == []


def test_a_crash_after_submit_is_repaired(database: Database, tmp_path: Path) -> None:
    world = World(tmp_path, sessions=database.sessions)
    run = world.launch()
    while not world.view(run).prepared:
        world.tick()
    world.crash.effects_left, world.crash.after = 0, True
    assert world.tick()
    world.until(run, RunState.RUNNING)
    assert len(world.cluster.submitted()) == 2


def test_of_a_large_sweep_only_runs_that_may_start_and_cancelled_ones_are_looked_at(
    database: Database, tmp_path: Path
) -> None:
    world = World(tmp_path, sessions=database.sessions)
    members = world.launch_sweep(count=12, parallel=2)
    alone = world.launch()
    world.cancel(members[9])

    def due() -> set[str]:
        with world.sessions.begin() as session:
            return set(runs.claim_due(session, world.now))

    assert due() == {members[0], members[1], members[9], alone}
    world.until(members[1], RunState.RUNNING)
    world.until(members[9], RunState.CANCELLED)
    assert world.state(members[2]) is RunState.PENDING
    world.finish(world.trainer(members[0]))
    world.until(members[0], RunState.SUCCEEDED)
    world.until(members[2], RunState.RUNNING)
    assert world.state(members[3]) is RunState.PENDING
