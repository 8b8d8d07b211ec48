"""Perform effects on the outside world. No database session is open here."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from app.clock import Clock
from app.domain.model import (
    Cancel,
    CancelCopies,
    Effect,
    JobView,
    PrepareAttempt,
    Release,
    RunView,
    Saved,
    Submit,
)
from app.domain.naming import attempt_directory
from app.domain.states import JobState
from app.reconciler import files
from app.reconciler.batch import WorkerCommands, batch_job
from slurm.port import (
    Scheduler,
    SchedulerUnreachable,
    SlurmJobId,
    SubmitAmbiguous,
    SubmitRejected,
)

log = logging.getLogger(__name__)

AGAIN = timedelta(seconds=15)
"""Before a submission that certainly did not happen is repeated."""


@dataclass(frozen=True)
class Workshop:
    """What effects are performed with."""

    scheduler: Scheduler
    clock: Clock
    commands: WorkerCommands
    runs_dir: Path
    control_plane_file: Path
    new_token: Callable[[], str]


def perform(run: RunView, effects: tuple[Effect, ...], with_: Workshop) -> RunView:
    """The run as it is known after the effects. Every effect may be repeated after a crash.

    Raises OSError when the attempt's directory cannot be made.
    """
    for effect in effects:
        match effect:
            case PrepareAttempt():
                run = _prepare(run, with_)
            case Submit(name):
                run = run.with_job(_submit(run, run.job(name), with_))
            case Release(name):
                run = run.with_job(_release(run.job(name), with_))
            case Cancel(name):
                _cancel(run.job(name), with_)
            case CancelCopies(name, job_ids):
                _cancel_copies(name, job_ids, with_)
            case _:
                continue  # written with the intent, nothing to perform
    return run


def _prepare(run: RunView, with_: Workshop) -> RunView:
    run = _resume(run)
    directory, tokens = files.prepare(
        run, with_.runs_dir, with_.control_plane_file, with_.new_token
    )
    assert run.attempt is not None
    attempt = replace(
        run.attempt,
        directory=str(directory),
        prepared_at=with_.clock(),
        runtime_token_hash=tokens.runtime,
        trainer_token_hash=tokens.trainer,
    )
    return replace(run, attempt=attempt)


def _resume(run: RunView) -> RunView:
    """Go on from the newest checkpoint that is still there: people delete large folders."""
    assert run.attempt is not None
    newest: Saved | None = None
    for saved in run.resumable:
        if Path(saved.path).exists():
            newest = saved
            break
        log.warning("run %s: checkpoint %s is gone, an older one is used", run.id, saved.path)
    path, step = (newest.path, newest.step) if newest else (None, 0)
    return replace(run, attempt=replace(run.attempt, resume_checkpoint=path, resume_step=step))


def _submit(run: RunView, job: JobView, with_: Workshop) -> JobView:
    """Accepted, refused, certainly not done, or unknown. The last one stays SUBMITTING: only
    looking it up by name can tell."""
    directory = attempt_directory(with_.runs_dir, run.id, job.attempt)
    batch = batch_job(run, job, directory, with_.commands)
    try:
        job_id = with_.scheduler.submit(batch)
    except SubmitRejected as error:
        now = with_.clock()
        return replace(job.to(JobState.REJECTED, now), detail=error.text, ended_at=now)
    except SchedulerUnreachable as error:
        log.warning("job %s was not submitted, later again: %s", job.name, error)
        now = with_.clock()
        return replace(job.to(JobState.PLANNED, now), detail=str(error), not_before=now + AGAIN)
    except SubmitAmbiguous as error:
        log.warning("job %s may have been submitted: %s", job.name, error)
        return job
    return _accepted(job, job_id, with_.clock())


def _accepted(job: JobView, job_id: SlurmJobId, now: datetime) -> JobView:
    return replace(job.to(JobState.HELD, now), scheduler_id=job_id, submitted_at=now)


def _release(job: JobView, with_: Workshop) -> JobView:
    assert job.scheduler_id is not None
    try:
        with_.scheduler.release(SlurmJobId(job.scheduler_id))
    except SchedulerUnreachable as error:
        log.warning("job %s was not released, later again: %s", job.name, error)
        return job
    return job.to(JobState.QUEUED, with_.clock())


def _cancel(job: JobView, with_: Workshop) -> None:
    ids = [job.scheduler_id] if job.scheduler_id is not None else []
    _ask_cancel(job.name, (*ids, *job.duplicates), with_)


def _cancel_copies(name: str, job_ids: tuple[str, ...], with_: Workshop) -> None:
    # The port also cancels by name, and the recorded job has the same one. Nobody has this name.
    _ask_cancel(f"{name}-copies", job_ids, with_)


def _ask_cancel(name: str, job_ids: tuple[str, ...], with_: Workshop) -> None:
    try:
        with_.scheduler.cancel(name, [SlurmJobId(job_id) for job_id in job_ids])
    except SchedulerUnreachable as error:
        log.warning("job %s was not cancelled, later again: %s", name, error)
