"""Batch scripts of a run that nobody has launched: for dry runs."""

from collections.abc import Iterator
from pathlib import Path

from app.clock import Clock
from app.domain.model import JobView, RunView
from app.domain.naming import JobKey, attempt_directory, job_name
from app.domain.states import Desired, JobState, Role, RunState
from app.reconciler.batch import WorkerCommands, batch_job
from slurm.script import render
from workers.contract.spec import RunKind, RunSpec

INSTALLATION, RUN = "installation", "run"
"""Stand where the real job names have random ids."""


def scripts(
    spec: RunSpec, *, runs_dir: Path, commands: WorkerCommands, clock: Clock
) -> dict[str, str]:
    """One script per role, exactly as the first attempt would submit it but for the ids.

    Raises SubmitRejected if a field cannot be written into a script.
    """
    now = clock()
    run = RunView(
        id=RUN,
        installation=INSTALLATION,
        kind=spec.kind,
        spec=spec,
        desired=Desired.RUNNING,
        state=RunState.PENDING,
        state_since=now,
        version=1,
        attempt=None,
    )
    directory = attempt_directory(runs_dir, RUN, 1)
    result: dict[str, str] = {}
    for role in _roles(spec.kind):
        key = JobKey(RUN, 1, role, 0, 1)
        name = job_name(INSTALLATION, key)
        job = JobView(name, 1, role, 0, 1, JobState.PLANNED, now)
        result[role.value] = render(batch_job(run, job, directory, commands))
    return result


def _roles(kind: RunKind) -> Iterator[Role]:
    if kind is not RunKind.ATTACHED:
        yield Role.RUNTIME
    if kind is not RunKind.RUNTIME_ONLY:
        yield Role.TRAINER
