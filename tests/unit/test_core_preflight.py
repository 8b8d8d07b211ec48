"""Preflight: each thing that is missing on a node is named, with the mend."""

import sys
from pathlib import Path

import pytest

from workers.contract.attempt import AttemptFile
from workers.contract.spec import DataSpec, RunSpec, TrainerSpec
from workers.training.core import preflight


def attempt(directory: Path, trainer: TrainerSpec, data: DataSpec | None = None) -> AttemptFile:
    return AttemptFile(
        contract_version=1,
        installation="i",
        run_id="r",
        attempt=1,
        attempt_dir=str(directory),
        control_plane_file="/nowhere",
        spec=RunSpec(name="n", trainer=trainer, data=data or DataSpec()),
    )


COMMAND = TrainerSpec(integration="command", command=("x",))


def names(made: AttemptFile, python: str = sys.executable) -> dict[str, str]:
    return {failure.name: failure.text for failure in preflight.failures(made, python)}


def test_a_node_that_can_do_the_work_has_no_failures(tmp_path: Path) -> None:
    assert names(attempt(tmp_path, COMMAND)) == {}


def test_an_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "/nowhere/python" in names(attempt(tmp_path, COMMAND), "/nowhere/python")["interpreter"]


def test_an_interpreter_that_fails_tells_its_own_words(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "it is broken" in names(attempt(tmp_path, COMMAND), str(broken))["interpreter"]


def test_packages_that_the_trainer_needs_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_MODULES", {"verl": ("json", "no_such_package")})
    text = names(attempt(tmp_path, TrainerSpec()))["packages"]
    assert "no_such_package" in text
    assert "json" not in text


def test_a_folder_that_is_no_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_MODULES", {"verl": ()})
    made = attempt(tmp_path, TrainerSpec(model_path=str(tmp_path)))
    assert "config.json" in names(made)["model"]
    (tmp_path / "config.json").write_text("{}")
    assert names(made) == {}


def test_a_data_file_that_is_not_on_this_node_is_named(tmp_path: Path) -> None:
    made = attempt(tmp_path, COMMAND, DataSpec(eval_file="/nowhere/eval.jsonl"))
    assert "data.eval_file: /nowhere/eval.jsonl" in names(made)["data"]


def test_a_full_disk_is_named_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_MIN_FREE_BYTES", 2**62)
    assert "MiB free" in names(attempt(tmp_path, COMMAND))["disk"]
