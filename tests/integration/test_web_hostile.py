"""Agent output may hold anything. None of it becomes markup, none of it hides or floods."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from app.clock import Clock
from app.web.text import bounded, diff, visible
from tests.factories import demo_data
from tests.factories.client import TestClient
from tests.factories.databases import Database, sqlite_copy

PAGES = (
    f"/runs/{demo_data.RUNNING}/rollouts/{demo_data.HOSTILE_ROLLOUT}",
    f"/runs/{demo_data.RUNNING}/rollouts",
    f"/runs/{demo_data.RUNNING}",
)


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite only: nothing here depends on the database; the pages' queries run on both."""
    with sqlite_copy(sqlite_template, tmp_path) as opened:
        yield opened


@pytest.fixture
def pages(client: TestClient, database: Database, clock: Clock, tmp_path: Path) -> dict[str, str]:
    with database.sessions.begin() as session:
        demo_data.fill(session, clock(), tmp_path / "runs", steps=1)
    return {path: client.get(path).text for path in PAGES}


def test_nothing_that_an_agent_wrote_becomes_markup(pages: dict[str, str]) -> None:
    for path, html in pages.items():
        page = BeautifulSoup(html, "html.parser")
        assert [s.get("src") for s in page.find_all("script")] == [
            *("/static/vendor/htmx.min.js", "/static/vendor/sse.min.js")
        ], path
        assert not page.find_all(["img", "iframe", "b", "style", "object", "embed"]), path
        handlers = [a for tag in page.find_all(True) for a in tag.attrs if a.startswith("on")]
        assert handlers == [], path
        links = [tag["href"] for tag in page.find_all(href=True)]
        assert all(re.match(r"[/?#]", link) for link in links), path


def test_hostile_text_is_shown_as_what_it_is(pages: dict[str, str]) -> None:
    shown = BeautifulSoup(pages[PAGES[0]], "html.parser").get_text()
    assert "<script>document.title='owned'</script>" in shown
    assert "\"><img src=x onerror=alert(1)>' onmouseover='alert(2)" in shown
    assert "{{ 7*7 }} {% raw %} &lt;b&gt; </pre></textarea></title>" in shown
    assert "[U+0000]nul" in shown
    assert "safe [U+202E]txt.exe[U+202C]" in shown
    assert "hidden[U+200B]space [U+FEFF]bom [U+2066]iso[U+2069]" in shown


def test_no_control_or_direction_character_reaches_the_reader(pages: dict[str, str]) -> None:
    for html in pages.values():
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]", html
        )


def test_a_megabyte_of_output_is_cut_and_its_end_is_kept(pages: dict[str, str]) -> None:
    html = pages[PAGES[0]]
    assert len(html) < 200_000
    assert "characters left out" in html
    assert "END-OF-OUTPUT" in html


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;evil title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x1b", "a[U+001B]"),
        ("one\r\ntwo\rthree", "one\ntwo[U+000D]three"),
        ("\ud800", "[U+D800]"),
        ("plain\ttext\n", "plain\ttext\n"),
        ("grüße 東京 🙂", "grüße 東京 🙂"),
    ],
)
def test_visible_text(given: str, shown: str) -> None:
    assert visible(given) == shown


def test_bounded_keeps_head_and_tail() -> None:
    cut = bounded("a" * 100 + "z" * 100, 40)
    assert (cut.head, cut.omitted, cut.tail) == ("a" * 30, 160, "z" * 10)
    assert bounded("short", 40).omitted == 0


def test_a_diff_knows_what_each_line_does() -> None:
    lines = diff("diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n same\n-old\n+new\n")
    assert [line.kind for line in lines] == ["file", "file", "file", "hunk", "same", "del", "add"]
    assert diff("") == []


def test_a_diff_of_a_million_lines_is_bounded() -> None:
    assert len(diff("+x\n" * 1_000_000)) == 2_001
