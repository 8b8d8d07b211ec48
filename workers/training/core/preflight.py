"""What must be true of this node before a trainer is started: a named result for each check."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from workers.contract.attempt import AttemptFile
from workers.contract.spec import TrainerSpec

_IMPORT_S = 120.0
_MIN_FREE_BYTES = 512 * 2**20
_MODULES = {"verl": ("verl", "torch", "transformers", "httpx", "pydantic"), "command": ()}
_FIND = (
    "import importlib.util, json, sys;"
    "print(json.dumps([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]))"
)


@dataclass(frozen=True, slots=True)
class Failure:
    name: str
    text: str
    """What, where, and how to mend it."""


def failures(attempt: AttemptFile, python: str) -> list[Failure]:
    """Every check that fails; empty when the work may begin."""
    return [
        *_interpreter(attempt.spec.trainer, python),
        *_model(attempt.spec.trainer),
        *_data(attempt),
        *_disk(Path(attempt.attempt_dir)),
    ]


def _interpreter(trainer: TrainerSpec, python: str) -> Iterator[Failure]:
    """Looks modules up without importing them: torch alone would take seconds."""
    modules = _MODULES[trainer.integration]
    try:
        ran = subprocess.run(
            [python, "-c", _FIND, *modules], capture_output=True, timeout=_IMPORT_S, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        yield Failure("interpreter", f"trainer.python {python} does not run: {error}")
        return
    if ran.returncode != 0:
        yield Failure("interpreter", f"trainer.python {python} fails: {ran.stderr[-500:]}")
        return
    missing: list[str] = json.loads(ran.stdout)
    if missing:
        yield Failure(
            "packages",
            f"{python} lacks {', '.join(missing)}: make the training environment, or name"
            " another one in trainer.python",
        )


def _model(trainer: TrainerSpec) -> Iterator[Failure]:
    if trainer.integration == "command" or trainer.model_path is None:
        return
    path = Path(trainer.model_path)
    if path.is_absolute() and not (path / "config.json").is_file():
        yield Failure("model", f"{path}: no config.json; trainer.model_path must be a model folder")


def _data(attempt: AttemptFile) -> Iterator[Failure]:
    data = attempt.spec.data
    for key, name in (("train_file", data.train_file), ("eval_file", data.eval_file)):
        if name is not None and not Path(name).is_file():
            yield Failure("data", f"data.{key}: {name} does not exist on this node")


def _disk(directory: Path) -> Iterator[Failure]:
    free = shutil.disk_usage(directory).free
    if free < _MIN_FREE_BYTES:
        yield Failure(
            "disk",
            f"{directory}: {free // 2**20} MiB free, at least {_MIN_FREE_BYTES // 2**20} are"
            " needed for checkpoints and reports; make room or move the data folder",
        )
