"""A foreign trainer as an integration."""

from pathlib import Path

import pytest

from workers.contract.attempt import AttemptFile
from workers.contract.spec import RunSpec, TrainerSpec
from workers.training.integrations.base import IntegrationError
from workers.training.integrations.command import CommandIntegration

INTEGRATION = CommandIntegration(python="/venv/bin/python")


def attempt_in(folder: Path, *command: str) -> AttemptFile:
    return AttemptFile(
        contract_version=1,
        installation="i",
        run_id="r",
        attempt=1,
        attempt_dir=str(folder),
        control_plane_file="/data/control-plane.json",
        spec=RunSpec(name="n", trainer=TrainerSpec(integration="command", command=command)),
    )


def test_command_is_started_as_written_with_our_interpreter(tmp_path: Path) -> None:
    command = INTEGRATION.prepare(attempt_in(tmp_path, "python", "train.py", "--x y"))
    assert command.argv == ("/venv/bin/python", "train.py", "--x y")
    assert command.environment["SKYDECK_ATTEMPT_FILE"] == str(tmp_path / "attempt.json")
    assert INTEGRATION.prepare(attempt_in(tmp_path, "/bin/t")).argv == ("/bin/t",)


def test_missing_command_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrationError, match=r"trainer\.command is empty"):
        INTEGRATION.prepare(attempt_in(tmp_path))


def test_steps_are_read_once(tmp_path: Path) -> None:
    progress = INTEGRATION.progress(attempt_in(tmp_path, "t"))
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "data": {"reward": NaN, "x": 2}}\nbad\n')
    news = progress.metrics()
    assert [dict(step.metrics) for step in news.steps] == [{"reward": None, "x": 2.0}]
    assert [finding.code for finding in news.findings] == ["metrics_unreadable"]
    assert not progress.metrics()


def test_checkpoint_is_complete_once_its_last_file_is_there(tmp_path: Path) -> None:
    attempt = attempt_in(tmp_path, "t")
    assert INTEGRATION.checkpoints(attempt) == ()
    for step in (10, 9):
        (tmp_path / "checkpoints" / f"step_{step}").mkdir(parents=True)
    (tmp_path / "checkpoints/step_9/COMPLETE").touch()
    found = [INTEGRATION.complete(path) for path in INTEGRATION.checkpoints(attempt)]
    assert [(one.step, one.complete, one.missing) for one in found] == [
        (9, True, ()),
        (10, False, ("COMPLETE",)),
    ]
