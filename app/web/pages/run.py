"""A run's page and its fragments, its logs, and cancelling it."""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from app.db.tables import Job
from app.domain.states import JobState
from app.errors import NotFound
from app.services import cancel, logs, views_fleet, views_run
from app.services.views_learning import Step
from app.services.views_run import RolloutFilter, RunHead
from app.web import charts
from app.web.shell import Shell, Ui, Writer, needs_own_form, see_other

router = APIRouter(prefix="/runs/{run_id}")

RunId = Annotated[str, Path(max_length=64)]
TAIL_BYTES = 16 * 1024
PAGE_BYTES = 128 * 1024
RECENT_ROLLOUTS = 12
NO_LOG = frozenset({JobState.PLANNED, JobState.REJECTED, JobState.NOT_SUBMITTED})


@router.get("")
def show(ui: Ui, run_id: RunId, job: int | None = None) -> Response:
    head = views_run.head(ui.session, run_id)
    stream = None if head.final else f"/events?run={run_id}&after={head.last_event}"
    parts: dict[str, Any] = {}
    for section in SECTIONS.values():
        parts |= section(ui, head)
    parts |= _logs(ui, head, job)
    spec_lines = views_run.spec_lines(head.run.spec, head.run.origins)
    return ui.page(
        "runs/detail.html", current="/", stream=stream, head=head, spec_lines=spec_lines, **parts
    )


@router.get("/fragments/{section}")
def fragment(ui: Ui, run_id: RunId, section: str, job: int | None = None) -> Response:
    head = views_run.head(ui.session, run_id)
    if section not in SECTIONS:
        raise NotFound(f"a run has no section {section}")
    parts = _logs(ui, head, job) if section == "logs" else SECTIONS[section](ui, head)
    return ui.fragment(f"runs/_{section}.html", head=head, **parts)


@router.get("/logs/{job_id}")
def log(
    ui: Ui, run_id: RunId, job_id: int, offset: Annotated[int | None, Query(ge=0)] = None
) -> Response:
    head = views_run.head(ui.session, run_id)
    job = next((one for one in views_run.jobs(ui.session, run_id) if one.id == job_id), None)
    if job is None:
        raise NotFound(f"run {run_id} has no job {job_id}")
    found = _tail(ui, job, PAGE_BYTES, offset)
    earlier = max(0, found.offset - PAGE_BYTES)
    return ui.page("runs/log.html", current="/", head=head, job=job, log=found, earlier=earlier)


@router.get("/cancel")
def ask_cancel(ui: Ui, run_id: RunId) -> Response:
    return ui.page("runs/cancel.html", current="/", head=views_run.head(ui.session, run_id))


@router.post("/cancel", dependencies=[needs_own_form])
def do_cancel(ui: Ui, run_id: RunId, writer: Writer) -> Response:
    cancel.cancel(writer, run_id, by=ui.user.name, at=ui.here.clock())
    return see_other(f"/runs/{run_id}")


def _head(ui: Shell, head: RunHead) -> dict[str, Any]:
    return {"many_attempts": head.run.attempt > 1}


def _learning(ui: Shell, head: RunHead) -> dict[str, Any]:
    learning = views_run.learning(ui.session, head.run)
    steps = learning.steps
    return {
        "learning": learning,
        "reward_chart": charts.reward_chart(
            [step.number for step in steps],
            [step.reward for step in steps],
            head.attempt.steps_total if head.attempt else 0,
        ),
        "sparks": _sparks(steps),
        **_head(ui, head),
    }


def _sparks(steps: Sequence[Step]) -> list[charts.Spark]:
    spark = charts.spark
    return [
        spark("Gradient norm", "", [step.grad_norm for step in steps]),
        spark("Trainable tokens", "", [step.trainable_tokens for step in steps]),
        spark("Groups with advantage", "", [step.groups_with_advantage for step in steps]),
        spark("Infrastructure failures", "", [step.invalid for step in steps]),
        spark("Step time", " s", [step.seconds for step in steps]),
    ]


def _jobs(ui: Shell, head: RunHead) -> dict[str, Any]:
    now, stale_after = ui.here.clock(), ui.here.settings.stale_after
    found = views_run.runtimes(ui.session, head.run.id)
    return {
        "jobs": views_run.jobs(ui.session, head.run.id),
        "runtimes": [views_fleet.runtime_row(one, "", now, stale_after) for one in found],
        "attempts": views_run.attempts(ui.session, head.run.id),
        **_head(ui, head),
    }


def _rollouts(ui: Shell, head: RunHead) -> dict[str, Any]:
    found = views_run.rollouts(ui.session, head.run.id, RolloutFilter(), RECENT_ROLLOUTS)
    return {"rollouts": found}


def _sandboxes(ui: Shell, head: RunHead) -> dict[str, Any]:
    found = views_run.sandboxes(ui.session, head.run.id)
    return {
        "sandboxes": [views_fleet.SandboxRow(one, "") for one in found.rows],
        "sandbox_counts": views_run.sandbox_counts(ui.session, head.run.id),
    }


def _checkpoints(ui: Shell, head: RunHead) -> dict[str, Any]:
    return {"checkpoints": views_run.checkpoints(ui.session, head.run.id), **_head(ui, head)}


def _findings(ui: Shell, head: RunHead) -> dict[str, Any]:
    return {"findings": views_run.findings(ui.session, head.run.id)}


def _events(ui: Shell, head: RunHead) -> dict[str, Any]:
    return {"events": views_run.events(ui.session, head.run.id)}


def _logs(ui: Shell, head: RunHead, wanted: int | None = None) -> dict[str, Any]:
    """The end of the wanted job's log, else of the newest trainer's, else of any job's."""
    jobs = [job for job in views_run.jobs(ui.session, head.run.id) if job.state not in NO_LOG]
    ranked = sorted(jobs, key=lambda job: (job.id == wanted, job.attempt, job.role), reverse=True)
    chosen = ranked[0] if ranked else None
    return {
        "log_jobs": jobs,
        "log_job": chosen,
        "log": _tail(ui, chosen, TAIL_BYTES) if chosen else None,
        **_head(ui, head),
    }


def _tail(ui: Shell, job: Job, limit: int, offset: int | None = None) -> logs.LogTail:
    return logs.tail(
        ui.session,
        job.run_id,
        job.role,
        attempt=job.attempt,
        index=job.index,
        generation=job.generation,
        offset=offset,
        limit=limit,
    )


SECTIONS = {
    "head": _head,
    "findings": _findings,
    "learning": _learning,
    "steps": _learning,
    "jobs": _jobs,
    "logs": _logs,
    "rollouts": _rollouts,
    "sandboxes": _sandboxes,
    "checkpoints": _checkpoints,
    "events": _events,
}
