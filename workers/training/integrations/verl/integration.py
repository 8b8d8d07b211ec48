"""The verl integration: files, command and environment of one attempt."""

import hashlib
import os
import secrets
import shutil
import sys
from pathlib import Path

from workers import ownership
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.spec import Device
from workers.training.integrations.base import (
    Command,
    Completeness,
    IntegrationError,
    ProgressReader,
)
from workers.training.integrations.metrics_file import MetricsTail
from workers.training.integrations.verl.checkpoints import checkpoint_folders, completeness
from workers.training.integrations.verl.config import (
    AGENT_NAME,
    CPU_PLUGIN,
    Places,
    RowCounts,
    arguments,
    overrides,
)
from workers.training.integrations.verl.progress import VerlProgress
from workers.training.integrations.verl.rows import write_rows

AGENT_LOOP = "workers.training.integrations.verl.agent_loop.SkydeckAgentLoop"
ROUTER = "workers.training.integrations.verl.router.RouterActor"
DRIVER_FACTORY = "workers.training.core.build:open_driver"
SCRATCHES = "sdr-??????????"


class VerlIntegration:
    """Stock ``python -m verl.trainer.main_ppo``.

    ``driver_factory`` (``module:function``) makes the rollout driver inside the trainer's
    agent-loop process from the attempt file's path.
    """

    def __init__(
        self,
        python: str = sys.executable,
        scratch: Path = Path("/tmp"),  # noqa: S108 - short by need: it holds Unix sockets
        driver_factory: str = DRIVER_FACTORY,
        cores: int | None = None,
    ) -> None:
        self._python = python
        self._scratch = scratch
        self._driver_factory = driver_factory
        self._cores = cores or len(os.sched_getaffinity(0))

    def prepare(self, attempt: AttemptFile) -> Command:
        spec, places = attempt.spec, places_of(attempt)
        _check_model(spec.trainer.model_path)
        rows = _write_data(attempt, places)
        made = overrides(spec.trainer, places, rows, attempt.resume_from)
        if attempt.resume_from is not None:
            _check_resume(Path(attempt.resume_from))
        places.checkpoints.mkdir(parents=True, exist_ok=True)
        places.agent_loops.write_text(_agent_loops(self._driver_factory), encoding="utf-8")
        places.router.write_text(f"router_class: {ROUTER}\n", encoding="utf-8")
        scratch = self._make_scratch(attempt)
        return Command(
            argv=(self._python, "-m", "verl.trainer.main_ppo", *arguments(made)),
            environment=environment(attempt, places, scratch, self._cores),
            directory=places.work,
            scratch=(scratch,),
        )

    def progress(self, attempt: AttemptFile) -> ProgressReader:
        return VerlProgress(
            tail=MetricsTail(places_of(attempt).work / "metrics.jsonl"),
            expect_resume=attempt.resume_from is not None,
            on_cpu=attempt.spec.trainer.device is Device.CPU,
        )

    def checkpoints(self, attempt: AttemptFile) -> tuple[Path, ...]:
        return checkpoint_folders(places_of(attempt).checkpoints)

    def complete(self, checkpoint: Path) -> Completeness:
        return completeness(checkpoint)

    def _make_scratch(self, attempt: AttemptFile) -> Path:
        """Ray's directory: node-local, private, and short because socket names are limited."""
        identity = (
            f"{attempt.installation}/{attempt.run_id}/{attempt.attempt}/{secrets.token_hex(4)}"
        )
        scratch = self._scratch / f"sdr-{hashlib.sha256(identity.encode()).hexdigest()[:10]}"
        self.remove_abandoned()
        scratch.mkdir(mode=0o700, parents=True)
        ownership.mark(scratch)
        token = scratch / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        return scratch

    def remove_abandoned(self) -> None:
        """A trainer job that was killed outright could not remove its own."""
        for left in ownership.abandoned(self._scratch, SCRATCHES):
            shutil.rmtree(left, ignore_errors=True)


def places_of(attempt: AttemptFile) -> Places:
    root = Path(attempt.attempt_dir)
    work = root / "verl"
    return Places(
        train_rows=work / "train.jsonl",
        eval_rows=work / "eval.jsonl",
        checkpoints=root / env.CHECKPOINTS_DIR,
        agent_loops=work / "agent_loops.yaml",
        router=work / "router.yaml",
        work=work,
    )


def environment(attempt: AttemptFile, places: Places, scratch: Path, cores: int) -> dict[str, str]:
    """Variables to add. A local Ray hands the driver's environment to every worker process."""
    trainer = attempt.spec.trainer
    made = {
        env.ATTEMPT_FILE: str(Path(attempt.attempt_dir) / env.ATTEMPT_FILE_NAME),
        "PYTHONPATH": str(Path(__file__).resolve().parents[4]),
        "PYTHONHASHSEED": str(trainer.seed),
        "VERL_FILE_LOGGER_PATH": str(places.work / "metrics.jsonl"),
        "RAY_TMPDIR": str(scratch),
        "RAY_AUTH_TOKEN_PATH": str(scratch / "token"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        # Ray starts workers at nice 15, behind everything else on a small machine.
        "RAY_worker_niceness": "0",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(scratch / "datasets"),
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "disabled",
        # Eight by default; on fewer cores each transfer would log a warning.
        "TQ_NUM_THREADS": "1",
    }
    if trainer.device is Device.CPU:
        made |= {
            "VERL_PLATFORM": "cpu",
            # Looks up the FSDP engine, which is registered for cuda only; nothing else reads it.
            "VERL_ENGINE_DEVICE": "cuda",
            "VERL_USE_EXTERNAL_MODULES": CPU_PLUGIN,
            # Here, because the transfer queue resets torch to the count that it was imported
            # with, and Ray sets one thread unless this is set.
            "OMP_NUM_THREADS": str(cores),
            # Threads that spin while they wait fight with sandboxes for the cores: measured
            # twenty times slower decoding on two busy cores.
            "OMP_WAIT_POLICY": "PASSIVE",
        }
    return made | dict(trainer.environment)


def _agent_loops(driver_factory: str) -> str:
    return f"- name: {AGENT_NAME}\n  _target_: {AGENT_LOOP}\n  driver_factory: {driver_factory}\n"


def _write_data(attempt: AttemptFile, places: Places) -> RowCounts:
    data = attempt.spec.data
    if data.train_file is None:
        raise IntegrationError("data.train_file is empty: name a JSON-lines file of tasks")
    train, evaluation = Path(data.train_file), Path(data.eval_file or data.train_file)
    return RowCounts(
        train=write_rows(train, places.train_rows, validation=False),
        evaluation=write_rows(evaluation, places.eval_rows, validation=True),
    )


def _check_model(path: str | None) -> None:
    """An unreadable file costs a minute of start-up and is then told as one that is missing."""
    if path is None or not path.startswith("/"):
        return
    folder = Path(path)
    if not (folder / "config.json").is_file():
        raise IntegrationError(f"trainer.model_path {path}: no config.json is readable there")
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    if not weights:
        raise IntegrationError(f"trainer.model_path {path}: no weights (*.safetensors) are there")
    for file in (folder / "config.json", *weights):
        if not os.access(file, os.R_OK):
            raise IntegrationError(f"{file}: not readable for the job's user; chmod a+r it")


def _check_resume(checkpoint: Path) -> None:
    found = completeness(checkpoint)
    if not found.complete:
        missing = "it was pruned" if found.pruned else "missing: " + ", ".join(found.missing)
        raise IntegrationError(f"{checkpoint}: not a complete checkpoint ({missing})")
