"""What belongs to a run: events, steps, rollouts, checkpoints, jobs, logs."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api import present
from app.api.deps import Limit, Reader
from app.api.responses import errors
from app.api.schemas import (
    CheckpointOut,
    EventOut,
    FindingOut,
    JobOut,
    LogOut,
    MetricsOut,
    Page,
    RolloutDetailOut,
    RolloutOut,
    RuntimeOut,
    SandboxOut,
    StepOut,
)
from app.db import events as event_rows
from app.db import facts
from app.db.types import BIGGEST
from app.domain.states import Role
from app.services import logs, views_learning, views_run
from workers.contract.reports import InvalidReason, RolloutEnd, RolloutState

router = APIRouter(prefix="/runs/{run_id}", tags=["runs"])
Answer = dict[str, object]
Number = Annotated[int | None, Query(ge=0, le=BIGGEST)]


def _page(items: object, next_cursor: str | None = None) -> Answer:
    return {"items": items, "next_cursor": next_cursor}


@router.get("/events", response_model=Page[EventOut], responses=errors(404))
def events(
    run_id: str,
    session: Reader,
    cursor: Annotated[int, Query(ge=0, le=BIGGEST, description="Id of the last event seen")] = 0,
    limit: Limit = 100,
) -> Answer:
    """Oldest first. ``next_cursor`` always leads on: ask again with it for what comes later."""
    views_run.get_run(session, run_id)
    found = event_rows.tail(session, cursor, limit, run_id=run_id)
    return _page(found, str(found[-1].id if found else cursor))


@router.get("/steps", response_model=Page[StepOut], responses=errors(404))
def steps(run_id: str, session: Reader) -> Answer:
    """One row per optimiser step: reward over scored training rollouts, and the counts."""
    views_run.get_run(session, run_id)
    return _page(views_learning.steps_with_metrics(session, run_id))


@router.get("/metrics", response_model=Page[MetricsOut], responses=errors(404))
def metrics(run_id: str, session: Reader) -> Answer:
    """The trainer's own numbers; where attempts repeated a step, the latest attempt's."""
    views_run.get_run(session, run_id)
    return _page(facts.metrics(session, run_id))


@router.get("/rollouts", response_model=Page[RolloutOut], responses=errors(404))
def rollouts(
    run_id: str,
    session: Reader,
    step: Number = None,
    state: RolloutState | None = None,
    end: RolloutEnd | None = None,
    invalid: InvalidReason | None = None,
    passed: Annotated[bool | None, Query(description="Reward above zero")] = None,
    validation: bool | None = None,
    task: Annotated[str, Query(description="Part of a task's id")] = "",
    cursor: str | None = None,
    limit: Limit = 50,
) -> Answer:
    views_run.get_run(session, run_id)
    wanted = views_run.RolloutFilter(step, state, end, invalid, passed, validation, task, cursor)
    page = views_run.rollouts(session, run_id, wanted, limit)
    return _page(page.rows, page.next_cursor)


@router.get("/rollouts/{rollout_id}", response_model=RolloutDetailOut, responses=errors(404))
def rollout(run_id: str, rollout_id: str, session: Reader) -> RolloutDetailOut:
    """With transcript, patch and grade."""
    return present.rollout_detail(session, run_id, rollout_id)


@router.get("/checkpoints", response_model=Page[CheckpointOut], responses=errors(404))
def checkpoints(run_id: str, session: Reader) -> Answer:
    views_run.get_run(session, run_id)
    return _page(views_run.checkpoints(session, run_id))


@router.get("/findings", response_model=Page[FindingOut], responses=errors(404))
def findings(run_id: str, session: Reader) -> Answer:
    views_run.get_run(session, run_id)
    return _page(views_run.findings(session, run_id))


@router.get("/sandboxes", response_model=Page[SandboxOut], responses=errors(404))
def sandboxes(
    run_id: str, session: Reader, cursor: str | None = None, limit: Limit = 100
) -> Answer:
    """Newest first."""
    views_run.get_run(session, run_id)
    page = views_run.sandboxes(session, run_id, limit, cursor)
    return _page(page.rows, page.next_cursor)


@router.get("/runtimes", response_model=Page[RuntimeOut], responses=errors(404))
def runtimes(run_id: str, session: Reader) -> Answer:
    views_run.get_run(session, run_id)
    return _page(views_run.runtimes(session, run_id))


@router.get("/jobs", response_model=Page[JobOut], responses=errors(404))
def jobs(run_id: str, session: Reader) -> Answer:
    views_run.get_run(session, run_id)
    return _page(views_run.jobs(session, run_id))


@router.get("/logs/{role}", response_model=LogOut, responses=errors(404))
def log(
    run_id: str,
    role: Role,
    session: Reader,
    index: Annotated[int, Query(ge=0, le=BIGGEST)] = 0,
    attempt: Number = None,
    generation: Number = None,
    offset: Number = None,
    limit: Annotated[int, Query(ge=1, le=logs.MAX_BYTES)] = logs.DEFAULT_BYTES,
) -> logs.LogTail:
    """From ``offset``, or the end. Works after the job is gone."""
    return logs.tail(
        session,
        run_id,
        role,
        attempt=attempt,
        index=index,
        generation=generation,
        offset=offset,
        limit=limit,
    )
