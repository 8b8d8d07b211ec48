"""The dashboard in a real Chromium: live without a reload, and nothing in the console."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.db import events
from app.db.engine import make_engine, make_sessions
from app.db.migrate import upgrade
from app.db.tables import Attempt, Checkpoint, Run
from app.domain.states import Reason, RunState
from app.ids import new_id
from app.main import create_app
from app.services import tokens
from app.settings import Settings
from tests.factories import demo_data
from tests.factories.browser import Chromium, chromium, installed
from tests.factories.databases import Database
from tests.factories.serving import serving

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not installed(), reason="needs Debian's chromium and chromium-driver packages"
    ),
]
RUN = f"/runs/{demo_data.RUNNING}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Database]]:
    folder = tmp_path_factory.mktemp("site")
    url = f"sqlite:///{folder / 'skydeck.db'}"
    engine = make_engine(url)
    upgrade(engine)
    sessions = make_sessions(engine)
    now = datetime.now(UTC)
    with sessions.begin() as session:
        demo_data.fill(session, now, folder / "runs", steps=10)
        _, token = tokens.create(session, "ada", at=now, ids=new_id)
    with serving(create_app(Settings(data_dir=folder), sessions=sessions)) as address:
        yield address, token, Database(url, engine, sessions)
    engine.dispose()


@pytest.fixture(scope="module")
def window() -> Iterator[Chromium]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(window: Chromium, site: tuple[str, str, Database]) -> Iterator[Chromium]:
    """Logged in; whatever the browser complains about fails the test."""
    window.open(f"{site[0]}/login?token={site[1]}")
    window.console()
    yield window
    assert window.console() == []


def test_every_page_is_quiet(page: Chromium, site: tuple[str, str, Database]) -> None:
    hostile = f"{RUN}/rollouts/{demo_data.HOSTILE_ROLLOUT}"
    for path in ("/", RUN, hostile, "/launch?start=demo", "/runtimes", "/webhooks", "/health"):
        page.open(site[0] + path)
        assert page.console() == [], path
        assert page.run("return document.title") != "owned"
        wide = page.run("return document.documentElement.scrollWidth - window.innerWidth")
        assert wide <= 0, f"{path} is wider than the window"


def test_a_checkpoint_appears_without_a_reload(
    page: Chromium, site: tuple[str, str, Database]
) -> None:
    page.open(site[0] + RUN)
    page.run("window.loadedOnce = true")
    assert "global_step_777" not in page.text("#checkpoints")
    _save_checkpoint(site[2], 777)
    page.wait_for(lambda: "global_step_777" in page.text("#checkpoints"), "the checkpoint")
    assert page.run("return window.loadedOnce") is True


def test_the_run_list_follows_a_run_to_its_end(
    page: Chromium, site: tuple[str, str, Database]
) -> None:
    page.open(f"{site[0]}/?q=next+in+line")
    assert "STARTING_RUNTIME" in page.text("#runs")
    _end(site[2], demo_data.QUEUED)
    page.wait_for(lambda: "FAILED" in page.text("#runs"), "the new state")


def test_a_run_that_ends_stops_asking(page: Chromium, site: tuple[str, str, Database]) -> None:
    page.open(f"{site[0]}/runs/sweeprun02")
    assert page.run("return document.querySelectorAll('main [hx-trigger]').length") > 5
    _end(site[2], "sweeprun02")
    page.wait_for(
        lambda: page.run("return document.querySelectorAll('main [hx-trigger]').length") == 0,
        "no fragment with a trigger",
        limit_s=40,
    )
    assert "FAILED" in page.text("#head")


def test_a_run_is_launched_and_cancelled_by_hand(
    page: Chromium, site: tuple[str, str, Database]
) -> None:
    page.open(f"{site[0]}/launch")
    page.type(
        "textarea", "name: by hand\ntrainer:\n  integration: command\n  command: [/bin/true]\n"
    )
    page.click('button[value="check"]')
    assert "This can be launched" in page.text("#result")
    page.click('button[value="launch"]')
    page.wait_for(lambda: "/runs/" in page.run("return location.pathname"), "the run's page")
    assert "by hand" in page.text("h1")
    page.click("a.danger")
    page.click("button.danger")
    assert "CANCEL ASKED" in page.text("#head").upper()


def _save_checkpoint(database: Database, step: int) -> None:
    now = datetime.now(UTC)
    with database.sessions.begin() as session:
        attempt = session.get(Attempt, (demo_data.RUNNING, 1))
        assert attempt is not None
        path = Path(attempt.directory) / f"global_step_{step}"
        session.add(
            Checkpoint(
                run_id=demo_data.RUNNING,
                attempt=1,
                step=step,
                path=str(path),
                complete=True,
                bytes=1,
                parts={},
                at=now,
            )
        )
        events.append(
            session, kind="checkpoint.reported", text="saved", at=now, run_id=demo_data.RUNNING
        )


def _end(database: Database, run_id: str) -> None:
    now = datetime.now(UTC)
    with database.sessions.begin() as session:
        run = session.get(Run, run_id)
        assert run is not None
        run.state, run.reason, run.ended_at = RunState.FAILED, Reason.QUEUE_TIMEOUT, now
        events.append(session, kind="run.state", text="ended", at=now, run_id=run_id)
