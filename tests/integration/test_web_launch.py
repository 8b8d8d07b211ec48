"""The launch form: says what is wrong and where, starts nothing by checking, never starts twice."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from sqlalchemy import select

from app.clock import Clock
from app.db.tables import Run
from app.ids import new_id
from app.services import tokens
from app.web.yaml_lines import Problem, located
from tests.factories.client import TestClient
from tests.factories.databases import Database, sqlite_copy

OWN = {"Origin": "http://testserver"}
GOOD = """\
name: tiny
experiment: form
trainer:
  integration: command
  command: [/bin/true]
  steps: 4
"""


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite only: nothing here depends on the database; the pages' queries run on both."""
    with sqlite_copy(sqlite_template, tmp_path) as opened:
        yield opened


@pytest.fixture
def signed(visitor: TestClient, database: Database, clock: Clock) -> TestClient:
    with database.sessions.begin() as session:
        token = tokens.create(session, "ada", at=clock(), ids=new_id)[1]
    visitor.cookies.set("skydeck_token", token)
    return visitor


def runs(database: Database) -> list[Run]:
    with database.sessions() as session:
        return list(session.scalars(select(Run)))


def send(client: TestClient, spec: str, action: str = "check", **fields: str) -> BeautifulSoup:
    form = {"key": "k1", "spec": spec, "action": action, **fields}
    answer = client.post("/launch", data=form, headers=OWN, follow_redirects=False)
    assert answer.status_code in (200, 303, 422), answer.text
    return BeautifulSoup(answer.text, "html.parser")


def test_the_form_starts_from_an_example(signed: TestClient) -> None:
    page = BeautifulSoup(signed.get("/launch?start=demo").text, "html.parser")
    area = page.select_one("textarea")
    assert area is not None
    assert "trainer:" in area.get_text()
    assert page.select_one('option[selected]:-soup-contains("demo")')


def test_checking_shows_plan_and_origins_and_starts_nothing(
    signed: TestClient, database: Database
) -> None:
    page = send(signed, GOOD, **{"trainer.steps": "7"})
    assert "This can be launched" in page.get_text()
    assert "rollouts per step" in page.select("#plan")[0].get_text()
    rows = {row.td.get_text(): row for row in page.select("#spec tbody tr") if row.td}
    assert rows["trainer.steps"].get_text(" ").split() == ["trainer.steps", "7", "set"]
    assert rows["name"].get_text(" ").split() == ["name", "tiny", "spec"]
    assert runs(database) == []


def test_a_problem_names_its_line_and_the_mend(signed: TestClient) -> None:
    page = send(signed, "name: x\ntrainer:\n  steps: 4\n  learnign_rate: 1\n  temperature: warm\n")
    problems = [" ".join(one.get_text(" ").split()) for one in page.select(".problems li")]
    assert any(
        one.startswith("line 4") and "did you mean learning_rate?" in one for one in problems
    )
    assert any(one.startswith("line 5") and "warm" in one for one in problems)
    area = page.select_one("textarea")
    assert area is not None
    assert "learnign_rate" in area.get_text()


def test_broken_yaml_and_impossible_numbers_are_told(signed: TestClient) -> None:
    assert "line 2" in send(signed, "name: x\n  trainer: [\n").select(".problems")[0].get_text()
    page = send(signed, GOOD + "  max_prompt_tokens: 5000\nruntime:\n  warm: 99\n", "launch")
    assert "runtime.warm 99 exceeds" in page.select(".problems")[0].get_text()


def test_a_double_click_makes_one_run(signed: TestClient, database: Database) -> None:
    send(signed, GOOD, "launch")
    send(signed, GOOD, "launch")
    made = runs(database)
    assert [run.name for run in made] == ["tiny"]
    assert made[0].created_by == "ada"


def test_an_edited_form_makes_another_run(signed: TestClient, database: Database) -> None:
    send(signed, GOOD, "launch")
    send(signed, GOOD, "launch", name="second, or 2")
    assert sorted(run.name for run in runs(database)) == ["second, or 2", "tiny"]


def test_hostile_yaml_comes_back_as_text(signed: TestClient) -> None:
    page = send(signed, "name: x\n# </textarea><script>alert(1)</script>\nkind: '<img src=x>'\n")
    assert len(page.find_all("script")) == 2
    assert not page.find_all("img")


def test_an_enormous_or_recursive_spec_is_refused(signed: TestClient) -> None:
    big = {"key": "k", "spec": "x" * 300_000, "action": "check"}
    assert signed.post("/launch", data=big, headers=OWN).status_code == 422
    page = send(signed, "name: &a [*a]\n")
    assert page.select(".problems li")


def test_complaints_are_located_by_their_key() -> None:
    text = "name: x\nruntime:\n  slots: 0\n"
    assert located(text, "runtime.slots (spec): too small") == [
        Problem("runtime.slots (spec): too small", 3)
    ]
    assert located(text, "trainer.steps: missing")[0].line is None
    assert located("a: &x\n  b: *x\n", "nothing here")[0].line is None
