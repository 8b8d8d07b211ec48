"""What a person sees on each page: with runs, without any, and with hostile output."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from app.clock import Clock
from app.ids import new_id
from app.services import tokens
from tests.factories import demo_data
from tests.factories.client import TestClient
from tests.factories.databases import Database

RUN = demo_data.RUNNING
ALWAYS = ("/", "/launch", "/experiments", "/sweeps", "/runtimes", "/webhooks", "/health")
WITH_RUNS = (
    *ALWAYS,
    "/?state=active&q=seed",
    "/runtimes?closed=true",
    "/sweeps/sweep00001",
    f"/runs/{RUN}",
    f"/runs/{demo_data.FAILED}",
    f"/runs/{demo_data.SUCCEEDED}",
    f"/runs/{demo_data.QUEUED}",
    f"/runs/{demo_data.CANCELLED}",
    f"/runs/{RUN}/cancel",
    f"/runs/{RUN}/rollouts?step=10",
    f"/runs/{RUN}/rollouts/{RUN}-s10-0-0",
    f"/runs/{RUN}/rollouts/{demo_data.HOSTILE_ROLLOUT}",
    f"/launch?run={RUN}",
)
SECTIONS = (
    *("head", "findings", "learning", "steps", "jobs", "logs"),
    *("rollouts", "sandboxes", "checkpoints", "events"),
)


@dataclass(frozen=True)
class Browser:
    """A client that is logged in as a browser is: by cookie."""

    client: TestClient

    def see(self, path: str, status: int = 200) -> BeautifulSoup:
        answer = self.client.get(path)
        page = BeautifulSoup(answer.text, "html.parser")
        assert answer.status_code == status, f"{path}: {page.get_text(' ', strip=True)[:500]}"
        return page


@pytest.fixture
def browser(visitor: TestClient, database: Database, clock: Clock) -> Iterator[Browser]:
    with database.sessions.begin() as session:
        _, token = tokens.create(session, "ada", at=clock(), ids=new_id)
    visitor.get("/login", params={"token": token})
    return Browser(visitor)


@pytest.fixture
def filled(database: Database, clock: Clock, tmp_path: Path) -> None:
    with database.sessions.begin() as session:
        demo_data.fill(session, clock(), tmp_path / "runs", steps=10)


def text(found: BeautifulSoup, selector: str) -> str:
    chosen = found.select_one(selector)
    assert chosen is not None, f"nothing matches {selector}"
    return " ".join(chosen.get_text(" ").split())


@pytest.mark.parametrize("path", ALWAYS)
def test_every_page_stands_on_an_empty_database(browser: Browser, path: str) -> None:
    assert browser.see(path).select_one("main h1")


@pytest.mark.usefixtures("filled")
def test_every_page_stands_with_runs_and_runs_nothing_inline(browser: Browser) -> None:
    for path in WITH_RUNS:
        page = browser.see(path)
        assert page.select_one("main h1"), path
        assert all(script.get("src") for script in page.find_all("script")), path
        assert not page.select("[style], style, [onclick], [onload], [onerror]"), path
        assert not page.select('a[href^="javascript"], img, iframe, object'), path


@pytest.mark.usefixtures("filled")
def test_the_run_list_keeps_the_four_truths_apart(browser: Browser) -> None:
    rows = browser.see("/").select("#runs tbody tr")
    by_name = {text(row, "strong"): row for row in rows}
    learning = [mark["aria-label"] for mark in by_name["one-word fixes, seed 2"].select(".mark")]
    assert [label.split(":")[0] for label in learning] == [
        *("Jobs up", "Tools executed", "Tests graded", "Learning signal")
    ]
    assert [label.split(":")[1].split(".")[0].strip() for label in learning] == ["yes"] * 4
    waiting = [mark["class"][1] for mark in by_name["next in line"].select(".mark")]
    assert waiting == ["wait"] * 4


@pytest.mark.usefixtures("filled")
def test_the_run_list_filters_and_says_when_nothing_matches(browser: Browser) -> None:
    active = browser.see("/?state=active").select("#runs .tag")
    assert {tag.get_text() for tag in active} <= {"RUNNING", "STARTING_RUNTIME", "PENDING"}
    assert "No run matches" in text(browser.see("/?q=100%25"), "#runs")
    found = browser.see("/?q=bigger").select("#runs tbody tr")
    assert [text(row, "strong") for row in found] == ["bigger batch"]


@pytest.mark.usefixtures("filled")
def test_a_running_run_says_what_it_does_and_shows_its_reward(browser: Browser) -> None:
    page = browser.see(f"/runs/{RUN}")
    assert "RUNNING" in text(page, "#head")
    assert len(page.select("#learning svg.chart circle.dot")) >= 10
    assert "Mean reward per step" in text(page, "#learning svg title")
    assert len(page.select("#steps tbody tr")) == 10
    assert [name.get_text() for name in page.select("#jobs td strong")] == ["runtime", "trainer"]
    assert "cpu 1: not enforced" in text(page, "#jobs")
    assert "complete" in text(page, "#checkpoints")
    assert "line 399" in text(page, "#logs")
    assert "set" in text(page, "#spec tbody")
    assert "0.0004" in text(page, "#spec tbody")


@pytest.mark.usefixtures("filled")
def test_a_failed_run_says_why_and_what_to_do(browser: Browser) -> None:
    page = browser.see(f"/runs/{demo_data.FAILED}")
    head = text(page, "#head")
    assert "A job used more memory than it asked for" in head
    assert "Slurm says OUT_OF_MEMORY" in head
    assert "What to do: Raise memory_mb" in head
    assert "partial" in text(page, "#checkpoints")
    assert "missing: optimizer" in text(page, "#checkpoints")
    assert not page.select('a[href$="/cancel"]')


@pytest.mark.usefixtures("filled")
def test_only_what_can_change_asks_again(browser: Browser) -> None:
    for section in SECTIONS:
        live = browser.see(f"/runs/{RUN}/fragments/{section}")
        assert live.select_one(f"#{section}[hx-get][hx-trigger]"), section
        final = browser.see(f"/runs/{demo_data.FAILED}/fragments/{section}")
        assert final.select_one(f"#{section}"), section
        assert not final.select("[hx-trigger], [hx-get]"), section
    assert browser.see(f"/runs/{RUN}").select_one("body[sse-connect]")
    page = browser.see(f"/runs/{demo_data.FAILED}")
    assert not page.select("body[sse-connect]")
    assert not page.select("main [hx-trigger]")


@pytest.mark.usefixtures("filled")
def test_a_fragment_is_the_same_as_in_the_page(browser: Browser) -> None:
    page = browser.see(f"/runs/{demo_data.FAILED}")
    for section in SECTIONS:
        part = browser.see(f"/runs/{demo_data.FAILED}/fragments/{section}")
        assert str(part.select_one(f"#{section}")) == str(page.select_one(f"#{section}"))


@pytest.mark.usefixtures("filled")
def test_a_transcript_shows_where_each_command_ran(browser: Browser) -> None:
    page = browser.see(f"/runs/{RUN}/rollouts/{RUN}-s10-0-0")
    turn = text(page, "article.turn.tool")
    assert "sb-" in turn
    assert "exit" in turn
    assert "182 ms" in turn
    assert "test.py" in turn
    assert "trainable" in text(page, "article.turn.assistant")
    assert "+ return width * height" in " ".join(text(page, "pre.diff .add").split())
    assert len(page.select("#grade tbody tr")) == 2
    assert "policy 1.3 s" in text(page, "dl.facts")


@pytest.mark.usefixtures("filled")
def test_a_rollout_is_found_only_below_its_own_run(browser: Browser) -> None:
    browser.see(f"/runs/{demo_data.FAILED}/rollouts/{RUN}-s10-0-0", 404)


@pytest.mark.usefixtures("filled")
def test_logs_page_through_the_whole_file(browser: Browser) -> None:
    link = browser.see(f"/runs/{RUN}").select('#logs a[href*="/logs/"]')[0]["href"]
    page = browser.see(str(link))
    assert "line 0: all quiet" in page.get_text()
    end = browser.see(str(link).replace("offset=0", "offset=99999999"))
    assert "line 0: all quiet" not in end.get_text()
    browser.see(str(link).replace(RUN, demo_data.FAILED), 404)


@pytest.mark.usefixtures("filled")
def test_a_sweep_shows_its_grid(browser: Browser) -> None:
    page = browser.see("/sweeps/sweep00001")
    cells = [text(row, "td:nth-of-type(2)") for row in page.select("#grid tbody tr")]
    assert cells == ["0.0004", "0.0004", "0.001", "0.001"]


@pytest.mark.usefixtures("filled")
def test_deliveries_show_every_try_and_no_secret(browser: Browser) -> None:
    page = browser.see("/webhooks")
    assert text(page, "#deliveries").count("connection refused") == 3
    assert "HTTP 204" in text(page, "#deliveries")
    assert "whsec_" not in str(page)


@pytest.mark.parametrize("path", ["/nothing", "/runs/nothing", "/sweeps/nothing"])
def test_a_person_who_is_lost_gets_a_page(browser: Browser, path: str) -> None:
    assert "Not found" in text(browser.see(path, 404), "h1")


def test_a_silent_reconciler_is_seen_on_every_page(browser: Browser) -> None:
    assert "has never run" in text(browser.see("/launch"), "#strip .bad")
