"""When a checkpoint folder counts as complete."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.training.integrations.verl.checkpoints import checkpoint_folders, completeness

KINDS = ("model", "optim", "extra_state")


def write(root: Path, step: int = 2, world: int = 1) -> Path:
    folder = root / f"global_step_{step}"
    actor = folder / "actor"
    actor.mkdir(parents=True)
    (folder / "data.pt").write_bytes(b"x")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": world}))
    for kind in KINDS:
        for rank in range(world):
            (actor / f"{kind}_world_size_{world}_rank_{rank}.pt").write_bytes(b"x")
    return folder


@pytest.mark.parametrize("world", [1, 3])
def test_folder_with_every_shard_is_complete(tmp_path: Path, world: int) -> None:
    found = completeness(write(tmp_path, world=world))
    assert found.complete
    assert found.step == 2
    assert found.missing == ()


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def empty(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "missing"),
    [
        (drop("data.pt"), {"data"}),
        (empty("data.pt"), {"data"}),
        (drop("actor/model_world_size_2_rank_1.pt"), {"model"}),
        (empty("actor/optim_world_size_2_rank_0.pt"), {"optim"}),
        (drop("actor/extra_state_world_size_2_rank_0.pt"), {"extra_state"}),
        (drop("actor/fsdp_config.json"), {"fsdp_config", *KINDS}),
        (empty("actor/fsdp_config.json"), {"fsdp_config", *KINDS}),
        (
            lambda folder: (folder / "actor/fsdp_config.json").write_text('{"world_size": 3}'),
            set(KINDS),
        ),
    ],
)
def test_half_written_folder_is_not_complete_and_says_what_is_missing(
    tmp_path: Path, damage: Callable[[Path], None], missing: set[str]
) -> None:
    folder = write(tmp_path, world=2)
    damage(folder)
    found = completeness(folder)
    assert not found.complete
    assert set(found.missing) == missing
    assert not found.pruned


def test_tracker_file_alone_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("5")
    (tmp_path / "global_step_5").mkdir()
    assert [completeness(folder).complete for folder in checkpoint_folders(tmp_path)] == [False]


def test_folder_pruned_by_the_trainer_is_told_apart(tmp_path: Path) -> None:
    folder = tmp_path / "global_step_1"
    folder.mkdir()
    (folder / "data.pt").write_bytes(b"x")
    found = completeness(folder)
    assert found.pruned
    assert not found.complete


def test_folders_come_in_order_of_their_step(tmp_path: Path) -> None:
    for step in (10, 9, 100):
        write(tmp_path, step)
    (tmp_path / "global_step_x").mkdir()
    (tmp_path / "global_step_7").write_text("a file")
    names = [folder.name for folder in checkpoint_folders(tmp_path)]
    assert names == ["global_step_9", "global_step_10", "global_step_100"]
    assert checkpoint_folders(tmp_path / "absent") == ()
