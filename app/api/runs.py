"""Runs: launch, list, show, cancel."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import JSONResponse

from app.api import present
from app.api.deps import Here, Key, Limit, Reader, Signed, WriteSession
from app.api.responses import errors
from app.api.schemas import DryRunOut, LaunchIn, Page, RunDetailOut, RunOut
from app.domain.states import RunState
from app.services import cancel as cancel_service
from app.services import experiments, launch, views_overview
from app.services.specs import draft

router = APIRouter(prefix="/runs", tags=["runs"])


@router.post(
    "",
    status_code=201,
    response_model=RunOut,
    responses={
        **errors(409),
        200: {"model": RunOut | DryRunOut, "description": "Launched before, or a dry run"},
    },
)
def create(
    body: LaunchIn,
    session: WriteSession,
    here: Here,
    user: Signed,
    response: Response,
    key: Key = None,
    dry_run: bool = False,
) -> Any:
    """Launch a run. ``dry_run=true`` shows what would happen and writes nothing."""
    made = draft(body.spec, layers=here.layers, sets=body.sets, preset=body.preset)
    if dry_run:
        scripts = here.render_scripts(made.spec)
        shown = DryRunOut.model_validate({**vars(made), "scripts": scripts})
        return JSONResponse(shown.model_dump(mode="json"))
    hashed = launch.request_hash(body.spec, body.sets, body.preset)
    run, new = launch.launch(
        session, made, key=key, hashed=hashed, by=user.name, at=here.clock(), ids=here.ids
    )
    response.status_code = 201 if new else 200
    return present.run_by_id(session, run.id)


@router.get("", response_model=Page[RunOut], responses=errors(404))
def index(
    session: Reader,
    state: RunState | None = None,
    active: Annotated[bool, Query(description="Only runs that have not ended")] = False,
    experiment: Annotated[str | None, Query(description="Id or name")] = None,
    sweep: str | None = None,
    text: Annotated[str, Query(description="Part of a name or id")] = "",
    cursor: str | None = None,
    limit: Limit = 50,
) -> dict[str, object]:
    """Newest first."""
    wanted = views_overview.RunFilter(
        state=state,
        active=active,
        experiment=experiments.id_of(session, experiment) if experiment else None,
        sweep=sweep,
        text=text,
        before=cursor,
    )
    page = views_overview.list_outlines(session, wanted, limit)
    return {"items": [present.run(row) for row in page.rows], "next_cursor": page.next_cursor}


@router.get("/{run_id}", response_model=RunDetailOut, responses=errors(404))
def show(run_id: str, session: Reader) -> RunDetailOut:
    return present.run_detail(session, run_id)


@router.post("/{run_id}/cancel", response_model=RunOut, responses=errors(404))
def cancel(run_id: str, session: WriteSession, here: Here, user: Signed) -> RunOut:
    """Ask for the end of the run. Repeating it, or asking after the end, changes nothing."""
    cancel_service.cancel(session, run_id, by=user.name, at=here.clock())
    return present.run_by_id(session, run_id)
