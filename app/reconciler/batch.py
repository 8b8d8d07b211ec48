"""What is submitted for a job: the worker's command and environment. No secrets."""

from dataclasses import dataclass
from pathlib import Path

from app.domain.model import JobView, RunView
from app.domain.states import Role
from slurm.port import BatchJob, Resources
from workers.contract import env
from workers.contract.spec import JobResources
from workers.contract.version import CONTRACT_VERSION


@dataclass(frozen=True)
class WorkerCommands:
    """Which interpreters start the workers, as compute nodes see them."""

    runtime_python: str
    trainer_python: str
    """For specs that name none."""
    pythonpath: str | None = None
    """Where `workers` is found if it is not installed in those interpreters."""


def batch_job(run: RunView, job: JobView, directory: Path, commands: WorkerCommands) -> BatchJob:
    place = (directory, job.role.value, job.index, job.generation)
    return BatchJob(
        name=job.name,
        command=_command(run, job, commands),
        workdir=directory,
        log_path=env.log_path(*place),
        exit_record=env.exit_record_path(*place),
        environment=_environment(job, directory, commands),
        resources=_resources(run, job),
        comment=f"skydeck {run.id}",
        exit_record_fields={
            "contract_version": CONTRACT_VERSION,
            "run_id": run.id,
            "attempt": job.attempt,
            "role": job.role.value,
            "index": job.index,
            "generation": job.generation,
        },
    )


def _command(run: RunView, job: JobView, commands: WorkerCommands) -> tuple[str, ...]:
    if job.role is Role.RUNTIME:
        return commands.runtime_python, "-m", "workers.runtime"
    return run.spec.trainer.python or commands.trainer_python, "-m", "workers.training"


def _environment(job: JobView, directory: Path, commands: WorkerCommands) -> dict[str, str]:
    values = {
        env.ATTEMPT_FILE: str(directory / env.ATTEMPT_FILE_NAME),
        env.ROLE: job.role.value,
        env.INDEX: str(job.index),
        env.GENERATION: str(job.generation),
        env.JOB_NAME: job.name,
        "PYTHONUNBUFFERED": "1",
    }
    if commands.pythonpath is not None:
        values["PYTHONPATH"] = commands.pythonpath
    return values


def _resources(run: RunView, job: JobView) -> Resources:
    spec = run.spec.runtime if job.role is Role.RUNTIME else run.spec.trainer
    asked: JobResources = spec.resources
    return Resources(
        partition=asked.partition,
        account=asked.account,
        qos=asked.qos,
        nodes=asked.nodes,
        cpus=asked.cpus,
        memory_mb=asked.memory_mb,
        gres=asked.gres,
        time_limit_s=asked.time_limit_s,
        exclude_nodes=(*asked.exclude_nodes, *run.avoid_nodes),
        constraint=asked.constraint,
    )
