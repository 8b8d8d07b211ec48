"""The doorbell: server-sent events that name what changed; pages then fetch their fragments."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse

from app.api.deps import Context, Here, current_user
from app.db import events
from app.db.engine import open_read
from app.db.tables import Event
from app.db.types import BIGGEST
from app.web.security import HEADERS

LONGEST_S = 600.0
POLL_S = 1.0
SILENCE_S = 15.0
"""After so long without a bell a comment is sent, so that proxies keep the stream open."""
BATCH = 500
PROGRESS = frozenset(
    {
        "rollouts.reported",
        "step.reported",
        "checkpoint.reported",
        "finding.reported",
        "trainer.phase",
    }
)

router = APIRouter()


@router.get("/events", dependencies=[Depends(current_user)])
async def doorbell(
    here: Here,
    run: str | None = None,
    after: Annotated[int | None, Query(ge=0, le=BIGGEST)] = None,
    last_event_id: Annotated[int | None, Header(ge=0, le=BIGGEST)] = None,
) -> StreamingResponse:
    """``run`` narrows to one run. Begins behind Last-Event-ID, else ``after``, else now."""
    cursor = last_event_id if last_event_id is not None else after
    if cursor is None:
        cursor = await asyncio.to_thread(_newest, here)
    headers = {**HEADERS, "X-Accel-Buffering": "no"}
    return StreamingResponse(
        ring(here, cursor, run), media_type="text/event-stream", headers=headers
    )


async def ring(here: Context, cursor: int, run: str | None) -> AsyncIterator[str]:
    """Bells behind ``cursor`` until LONGEST_S have passed; the browser then comes back.

    The session lives in a thread for the length of one query; none is held while waiting.
    """
    loop = asyncio.get_running_loop()
    end, heard = loop.time() + LONGEST_S, loop.time()
    yield "retry: 2000\n\n"
    while loop.time() < end:
        found = await asyncio.to_thread(_tail, here, cursor, run)
        if found:
            cursor, heard = found[-1].id, loop.time()
            yield bells(found)
        elif loop.time() - heard > SILENCE_S:
            heard = loop.time()
            yield ": still here\n\n"
        if len(found) < BATCH:
            await asyncio.sleep(POLL_S)


def bells(found: Sequence[Event]) -> str:
    """One bell per (name, run), however many events; the last one carries the cursor."""
    named = dict.fromkeys((name(event.kind), event.run_id or "") for event in found)
    rung = [f"event: {kind}\ndata: {run_id}\n" for kind, run_id in named]
    rung[-1] = f"id: {found[-1].id}\n{rung[-1]}"
    return "".join(f"{bell}\n" for bell in rung)


def name(kind: str) -> str:
    return "progress.changed" if kind in PROGRESS else "run.changed"


def _tail(here: Context, cursor: int, run: str | None) -> list[Event]:
    with open_read(here.sessions) as session:
        return events.tail(session, cursor, BATCH, run_id=run)


def _newest(here: Context) -> int:
    with open_read(here.sessions) as session:
        return events.last_id(session)
