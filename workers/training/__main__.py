"""The trainer job's program: ``python -m workers.training``."""

import importlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.training.core.build import read_attempt
from workers.training.core.job import JobIdentity, TrainerJob, stop_on_signals
from workers.training.integrations.base import Integration
from workers.warden import guarded

_INTEGRATIONS = {
    "verl": ("workers.training.integrations.verl.integration", "VerlIntegration"),
    "command": ("workers.training.integrations.command", "CommandIntegration"),
}


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # At INFO the client would write a line for every heartbeat.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    environment = dict(os.environ)
    attempt = read_attempt(Path(environment[env.ATTEMPT_FILE]))
    job = TrainerJob(
        attempt,
        _identity(environment),
        lambda: _integration(attempt),
        {**environment, **attempt.spec.trainer.environment},
        echo=_echo,
    )
    return guarded(lambda: _run(job), job.clean_up_killed)


def _run(job: TrainerJob) -> int:
    stop_on_signals(job)
    return job.run()


def _identity(environment: Mapping[str, str]) -> JobIdentity:
    return JobIdentity(
        job_name=environment[env.JOB_NAME],
        index=int(environment.get(env.INDEX, "0")),
        generation=int(environment.get(env.GENERATION, "1")),
        scheduler_job_id=environment.get("SLURM_JOB_ID"),
    )


def _integration(attempt: AttemptFile) -> Integration:
    module, name = _INTEGRATIONS[attempt.spec.trainer.integration]
    made: Integration = getattr(importlib.import_module(module), name)(
        python=attempt.spec.trainer.python or sys.executable
    )
    return made


def _echo(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
