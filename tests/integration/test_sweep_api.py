"""A grid becomes runs, once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import func, select

from app.db.tables import Run, Sweep
from app.settings import Settings
from tests.factories.builders import document
from tests.factories.client import TestClient, make_client, sign_in
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database

GRID = {"trainer.learning_rate": [0.001, 0.01], "trainer.seed": [1, 2, 3]}


def _create(client: TestClient, key: str | None = "s1", **keys: Any) -> Any:
    body = {"spec": document(), "grid": GRID, "parallel": 2, **keys}
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/v1/sweeps", json=body, headers=headers)


def _count(database: Database, table: type) -> int:
    with database.sessions() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_grid_becomes_runs_in_a_fixed_order(client: TestClient) -> None:
    answer = _create(client)
    assert answer.status_code == 201
    points = answer.json()["points"]
    assert [point["index"] for point in points] == list(range(6))
    assert points[0]["values"] == {"trainer.learning_rate": 0.001, "trainer.seed": 1}
    assert points[1]["values"] == {"trainer.learning_rate": 0.001, "trainer.seed": 2}
    run = client.get(f"/api/v1/runs/{points[5]['run_id']}").json()
    assert run["spec"]["trainer"]["learning_rate"] == 0.01
    assert run["spec"]["trainer"]["seed"] == 3
    assert run["sweep_index"] == 5


def test_same_key_twice_makes_nothing_twice(client: TestClient, database: Database) -> None:
    first, second = _create(client), _create(client)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert (_count(database, Sweep), _count(database, Run)) == (1, 6)


def test_same_key_with_another_grid_is_a_conflict(client: TestClient, database: Database) -> None:
    _create(client)
    answer = _create(client, grid={"trainer.seed": [1]})
    assert answer.status_code == 409
    assert _count(database, Run) == 6


def test_identical_sweeps_at_once_make_one(
    database: Database, settings: Settings, clock: ManualClock
) -> None:
    client = make_client(database, settings, clock)
    sign_in(client, database, clock)
    app: Any = client.app
    headers = dict(client.headers)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: _create(TestClient(app, headers=headers)), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert (_count(database, Sweep), _count(database, Run)) == (1, 6)


def test_one_impossible_point_refuses_the_whole_sweep(
    client: TestClient, database: Database
) -> None:
    answer = _create(client, grid={"trainer.max_prompt_tokens": [128, 5000]})
    assert answer.status_code == 422
    assert "point 1" in answer.json()["detail"]
    assert (_count(database, Sweep), _count(database, Run)) == (0, 0)


def test_unknown_key_of_a_grid_is_named(client: TestClient) -> None:
    answer = _create(client, grid={"trainer.sed": [1]})
    assert answer.status_code == 422
    assert "trainer.sed" in answer.json()["detail"]


def test_sweeps_are_listed_with_the_states_of_their_runs(client: TestClient) -> None:
    made = _create(client).json()
    listed = client.get("/api/v1/sweeps").json()["items"]
    assert [(one["id"], one["runs"]) for one in listed] == [(made["id"], {"PENDING": 6})]
    runs = client.get("/api/v1/runs", params={"sweep": made["id"]}).json()["items"]
    assert len(runs) == 6
    assert client.get("/api/v1/sweeps/nobody").status_code == 404
