"""Sweeps: a grid over spec keys makes many runs."""

from fastapi import APIRouter, Response

from app.api import present
from app.api.deps import Here, Key, Reader, Signed, WriteSession
from app.api.responses import errors
from app.api.schemas import Page, SweepDetailOut, SweepIn, SweepOut
from app.services import sweep, views_groups
from app.services.sweep import SweepRequest

router = APIRouter(prefix="/sweeps", tags=["sweeps"])


@router.post("", status_code=201, response_model=SweepDetailOut, responses=errors(409))
def create(
    body: SweepIn,
    session: WriteSession,
    here: Here,
    user: Signed,
    response: Response,
    key: Key = None,
) -> SweepDetailOut:
    """All runs of the grid, or none. The same key and body again: 200 and the same sweep."""
    request = SweepRequest(body.spec, body.grid, body.parallel, body.name, body.preset)
    made, new = sweep.create(
        session,
        request,
        layers=here.layers,
        key=key,
        by=user.name,
        at=here.clock(),
        ids=here.ids,
    )
    response.status_code = 201 if new else 200
    return present.sweep_detail(session, made.id)


@router.get("", response_model=Page[SweepOut], responses=errors())
def index(session: Reader) -> dict[str, object]:
    """The newest hundred."""
    rows = views_groups.sweeps(session)
    return {"items": [present.sweep(row) for row in rows], "next_cursor": None}


@router.get("/{sweep_id}", response_model=SweepDetailOut, responses=errors(404))
def show(sweep_id: str, session: Reader) -> SweepDetailOut:
    """With state and reward of each run."""
    return present.sweep_detail(session, sweep_id)
