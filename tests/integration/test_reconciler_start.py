"""From PENDING to SUCCEEDED, and what is checked on the way."""

from pathlib import Path

import pytest

from app.domain.states import Reason, RunState
from tests.factories.world import World


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
    path = [(event.data["from"], event.data["to"]) for event in world.events("run.state")]
    assert [to for _, to in path] == [
        "STARTING_RUNTIME",
        "STARTING_TRAINER",
        "RUNNING",
        "STOPPING",
        "SUCCEEDED",
    ]
