"""Launch, list, show and cancel through HTTP."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import event, func, select

from app.db.tables import Event, Run
from app.domain.states import Desired, RunState
from app.settings import Settings
from tests.factories.builders import document
from tests.factories.client import TestClient, make_client, sign_in
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database


def _launch(client: TestClient, key: str | None = None, **body: Any) -> Any:
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/v1/runs", json={"spec": document(), **body}, headers=headers)


def _count(database: Database, table: type) -> int:
    with database.sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_launch_writes_a_pending_run_and_its_event(client: TestClient, database: Database) -> None:
    answer = _launch(client)
    assert answer.status_code == 201
    with database.sessions() as session:
        run = session.get_one(Run, answer.json()["id"])
        assert (run.state, run.desired, run.attempt) == (RunState.PENDING, Desired.RUNNING, 1)
        assert run.created_by == "ada"
        assert [event.kind for event in session.scalars(select(Event))] == ["run.created"]


def test_same_key_and_body_again_gives_the_same_run(client: TestClient, database: Database) -> None:
    first, second = _launch(client, "k1"), _launch(client, "k1")
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert _count(database, Run) == 1
    assert _count(database, Event) == 1


def test_same_key_with_another_body_is_a_conflict(client: TestClient, database: Database) -> None:
    _launch(client, "k1")
    answer = _launch(client, "k1", sets=["trainer.seed=2"])
    assert answer.status_code == 409
    assert answer.json()["error"] == "idempotency_key_reused"
    assert _count(database, Run) == 1


def test_identical_launches_at_once_make_one_run(
    database: Database, settings: Settings, clock: ManualClock
) -> None:
    client = make_client(database, settings, clock)
    sign_in(client, database, clock)
    app: Any = client.app
    headers = dict(client.headers)

    def one(_: int) -> tuple[int, str]:
        own = TestClient(_plain(app), headers=headers)
        answer = _launch(own, "same")
        return answer.status_code, answer.json()["id"]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(one, range(6)))
    assert sorted(code for code, _ in answers) == [200] * 5 + [201]
    assert len({identity for _, identity in answers}) == 1
    assert _count(database, Run) == 1


def _plain(app: Any) -> FastAPI:
    return app


def test_dry_run_shows_spec_plan_and_origins_and_writes_nothing(
    client: TestClient, database: Database
) -> None:
    body = {"spec": document(), "sets": ["trainer.seed=9"]}
    answer = client.post("/api/v1/runs?dry_run=true", json=body)
    assert answer.status_code == 200
    shown = answer.json()
    assert shown["spec"]["trainer"]["seed"] == 9
    assert shown["origins"]["trainer.seed"] == "set"
    assert shown["plan"]["problems"] == []
    assert _count(database, Run) == 0


def test_unknown_key_of_a_spec_is_named_with_a_suggestion(client: TestClient) -> None:
    answer = client.post("/api/v1/runs", json={"spec": document(runtme={})})
    assert answer.status_code == 422
    assert "runtme" in answer.json()["detail"]
    assert "runtime" in answer.json()["detail"]


def test_run_that_can_never_fit_is_refused_with_the_numbers(
    client: TestClient, database: Database
) -> None:
    answer = _launch(client, sets=["trainer.max_prompt_tokens=5000"])
    assert answer.status_code == 422
    assert answer.json()["error"] == "impossible_plan"
    assert "max_model_len" in answer.json()["detail"]
    assert _count(database, Run) == 0


def test_body_with_an_unknown_key_is_refused_in_the_usual_shape(client: TestClient) -> None:
    answer = client.post("/api/v1/runs", json={"spec": document(), "sett": []})
    assert answer.status_code == 422
    assert set(answer.json()) == {"error", "detail"}
    assert "body.sett" in answer.json()["detail"]


def test_cancel_sets_what_is_wanted_and_repeating_it_changes_nothing(
    client: TestClient, database: Database
) -> None:
    identity = _launch(client).json()["id"]
    for _ in range(2):
        answer = client.post(f"/api/v1/runs/{identity}/cancel")
        assert (answer.json()["desired"], answer.json()["state"]) == ("CANCELLED", "PENDING")
    with database.sessions() as session:
        kinds = list(session.scalars(select(Event.kind).order_by(Event.id)))
    assert kinds == ["run.created", "run.cancel_requested"]


def test_cancel_of_a_final_run_changes_nothing(client: TestClient, database: Database) -> None:
    identity = _launch(client).json()["id"]
    with database.sessions.begin() as session:
        session.get_one(Run, identity).state = RunState.SUCCEEDED
    answer = client.post(f"/api/v1/runs/{identity}/cancel")
    assert (answer.status_code, answer.json()["desired"]) == (200, "RUNNING")


def test_cursor_walks_all_runs_newest_first_and_each_once(
    client: TestClient, clock: ManualClock
) -> None:
    made = [_launch(client).json()["id"] for _ in range(5)]  # all at the same moment
    clock.advance(1)
    made.append(_launch(client).json()["id"])
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2", **({"cursor": cursor} if cursor else {})}
        page = client.get("/api/v1/runs", params=params).json()
        seen += [run["id"] for run in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen[0] == made[-1]
    assert sorted(seen) == sorted(made)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"state": "PENDING"}, 2),
        ({"state": "RUNNING"}, 0),
        ({"experiment": "other"}, 1),
        ({"active": "true", "text": "trial"}, 2),
    ],
)
def test_run_list_is_filtered(client: TestClient, query: dict[str, str], expected: int) -> None:
    _launch(client)
    _launch(client, sets=["experiment=other"])
    assert len(client.get("/api/v1/runs", params=query).json()["items"]) == expected


def test_every_part_of_a_run_answers_and_an_unknown_run_is_not_found(client: TestClient) -> None:
    identity = _launch(client).json()["id"]
    parts = ["", "/events", "/steps", "/metrics", "/rollouts", "/checkpoints", "/sandboxes"]
    for part in [*parts, "/runtimes", "/jobs", "/findings"]:
        assert client.get(f"/api/v1/runs/{identity}{part}").status_code == 200
        assert client.get(f"/api/v1/runs/nobody{part}").json()["error"] == "not_found"


def test_run_list_reads_no_rollout(client: TestClient, database: Database) -> None:
    _launch(client)
    with statements(database) as sent:
        assert len(client.get("/api/v1/runs").json()["items"]) == 1
    assert sent
    assert not [statement for statement in sent if "FROM rollout" in statement]


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Every statement that the database is sent meanwhile."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/events?cursor={big}",
        "/api/v1/runs/{run}/events?cursor={big}",
        "/api/v1/runs/{run}/rollouts?step={big}",
        "/api/v1/runs/{run}/logs/trainer?attempt={big}",
        "/api/v1/webhooks/deliveries?cursor={big}",
        "/api/v1/webhooks/deliveries/{big}",
        "/events?after={big}",
    ],
)
def test_number_that_no_database_holds_is_refused(client: TestClient, path: str) -> None:
    identity = _launch(client).json()["id"]
    answer = client.get(path.format(big=2**63, run=identity))
    assert answer.status_code == 422


@pytest.mark.parametrize("path", ["/api/v1/runs?text=%00", "/api/v1/runs/%00", "/?q=%00"])
def test_text_that_a_database_refuses_is_no_fault_of_the_server(
    client: TestClient, path: str
) -> None:
    assert client.get(path).status_code in (200, 404, 422)


def test_show_keeps_the_four_truths_apart(client: TestClient) -> None:
    identity = _launch(client).json()["id"]
    truths = client.get(f"/api/v1/runs/{identity}").json()["truths"]
    assert set(truths) == {"jobs", "tools", "graded", "signal"}
    assert {truth["verdict"] for truth in truths.values()} == {"wait"}


def test_events_cursor_leads_on(client: TestClient) -> None:
    identity = _launch(client).json()["id"]
    page = client.get(f"/api/v1/runs/{identity}/events").json()
    assert [event["kind"] for event in page["items"]] == ["run.created"]
    client.post(f"/api/v1/runs/{identity}/cancel")
    later = client.get(f"/api/v1/runs/{identity}/events?cursor={page['next_cursor']}").json()
    assert [event["kind"] for event in later["items"]] == ["run.cancel_requested"]
