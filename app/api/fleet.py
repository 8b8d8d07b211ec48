"""Events, runtimes and sandboxes of all runs."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.api.deps import Here, Limit, Reader
from app.api.responses import errors
from app.api.schemas import EventOut, Page, RuntimeOut, SandboxOut
from app.db import events as event_rows
from app.db.types import BIGGEST
from app.services import views_fleet

router = APIRouter(tags=["fleet"])


@router.get("/events", response_model=Page[EventOut], responses=errors())
def events(
    session: Reader,
    cursor: Annotated[int, Query(ge=0, le=BIGGEST, description="Id of the last event seen")] = 0,
    limit: Limit = 100,
) -> dict[str, object]:
    """Oldest first. ``next_cursor`` always leads on: ask again with it for what comes later."""
    found = event_rows.tail(session, cursor, limit)
    return {"items": found, "next_cursor": str(found[-1].id if found else cursor)}


@router.get("/runtimes", response_model=Page[RuntimeOut], responses=errors())
def runtimes(session: Reader, here: Here, closed: bool = False) -> dict[str, object]:
    """Live ones; with ``closed=true`` the newest of all."""
    found = views_fleet.fleet(session, here.clock(), here.settings.stale_after, closed=closed)
    return {"items": [row.runtime for row in found.runtimes], "next_cursor": None}


@router.get("/sandboxes", response_model=Page[SandboxOut], responses=errors())
def sandboxes(session: Reader, here: Here, ended: bool = False) -> dict[str, object]:
    """Live ones; with ``ended=true`` the newest of all."""
    found = views_fleet.fleet(session, here.clock(), here.settings.stale_after, closed=ended)
    return {"items": [row.sandbox for row in found.sandboxes], "next_cursor": None}
