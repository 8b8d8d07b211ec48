"""The doorbell: names what changed, resumes where it was, holds nothing while it waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.api.deps import Context
from app.clock import Clock
from app.db import events
from app.db.tables import Event
from app.settings import Settings
from app.web import stream
from tests.factories.client import TestClient
from tests.factories.databases import Database
from tests.factories.demo_data import FAILED, RUNNING, fill


@pytest.fixture
def here(database: Database, settings: Settings, clock: Clock) -> Context:
    with database.sessions.begin() as session:
        fill(session, clock(), settings.home, steps=1)
    return Context(settings, database.sessions, clock, lambda: "id")


def happen(here: Context, kind: str, run_id: str | None) -> int:
    with here.sessions.begin() as session:
        return events.append(session, kind=kind, text="", at=here.clock(), run_id=run_id).id


def newest(here: Context) -> int:
    with here.sessions() as session:
        return events.last_id(session)


async def heard(bells: AsyncIterator[str]) -> str:
    return await asyncio.wait_for(anext(bells), 20)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "POLL_S", 0.01)


@pytest.mark.usefixtures("quick")
async def test_what_happens_is_rung_with_its_cursor(here: Context) -> None:
    bells = stream.ring(here, newest(here), None)
    assert await heard(bells) == "retry: 2000\n\n"
    happen(here, "run.state", RUNNING)
    happen(here, "job.state", RUNNING)
    last = happen(here, "rollouts.reported", FAILED)
    rung = ""
    while f"id: {last}\n" not in rung:
        rung += await heard(bells)
    assert f"event: run.changed\ndata: {RUNNING}\n\n" in rung
    assert f"event: progress.changed\ndata: {FAILED}\n\n" in rung


@pytest.mark.usefixtures("quick")
async def test_one_run_hears_only_its_own_bells(here: Context) -> None:
    bells = stream.ring(here, newest(here), RUNNING)
    await heard(bells)
    happen(here, "run.state", FAILED)
    mine = happen(here, "checkpoint.reported", RUNNING)
    assert await heard(bells) == f"id: {mine}\nevent: progress.changed\ndata: {RUNNING}\n\n"


@pytest.mark.usefixtures("quick")
async def test_a_cursor_brings_what_was_missed(here: Context) -> None:
    before = newest(here)
    happen(here, "run.state", RUNNING)
    bells = stream.ring(here, before, RUNNING)
    await heard(bells)
    assert "run.changed" in await heard(bells)


async def test_a_stream_ends(here: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "LONGEST_S", 0.05)
    monkeypatch.setattr(stream, "POLL_S", 0.01)
    ended = [part async for part in stream.ring(here, newest(here), None)]
    assert ended == ["retry: 2000\n\n"]


@pytest.mark.usefixtures("quick")
async def test_no_connection_is_held_while_waiting(here: Context, database: Database) -> None:
    bells = stream.ring(here, newest(here), None)
    await heard(bells)
    waiting = asyncio.ensure_future(heard(bells))
    seen: list[int] = []
    for _ in range(30):
        await asyncio.sleep(0.005)
        seen.append(database.engine.pool.checkedout())  # type: ignore[attr-defined]
    assert min(seen) == 0
    happen(here, "run.state", RUNNING)
    assert "run.changed" in await waiting
    assert database.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_many_events_of_a_run_are_one_bell() -> None:
    many = [Event(id=number, kind="run.state", run_id="r") for number in range(1, 400)]
    assert stream.bells(many) == "id: 399\nevent: run.changed\ndata: r\n\n"


def test_the_doorbell_needs_a_person(visitor: TestClient) -> None:
    assert visitor.get("/events", follow_redirects=False).status_code == 303


def test_last_event_id_goes_before_the_address(
    client: TestClient, here: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LONGEST_S", 0.05)
    monkeypatch.setattr(stream, "POLL_S", 0.01)
    last = happen(here, "run.state", RUNNING)
    answer = client.get("/events?after=0", headers={"Last-Event-ID": str(last)})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text == "retry: 2000\n\n"
    assert f"id: {last}\n" in client.get(f"/events?after={last - 1}").text
