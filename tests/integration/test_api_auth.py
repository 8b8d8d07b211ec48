"""Who may do what; and that the documentation of the API is complete."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db.tables import ApiToken
from tests.factories.builders import RUN, add_run, register_runtime, runtime_token, trainer_token
from tests.factories.client import TestClient, post, sign_in
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database


def _routes(client: TestClient) -> list[tuple[str, str, dict[str, Any]]]:
    paths = client.get("/api/openapi.json").json()["paths"]
    return [
        (method.upper(), path, operation)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if path.startswith("/api/")
    ]


def test_no_route_but_health_answers_without_a_token(visitor: TestClient) -> None:
    routes = _routes(visitor)
    assert len(routes) > 30
    for method, path, _ in routes:
        if path == "/api/v1/health":
            continue
        answer = visitor.request(method, path.replace("{", "").replace("}", ""), json={})
        assert answer.status_code == 401, (method, path)
        assert answer.json()["error"] == "unauthenticated"


def test_health_names_the_scheduler_that_auto_chose_and_why(
    visitor: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown() -> tuple[str, str]:
        scheduler = visitor.get("/api/v1/health").json()["scheduler"]
        return scheduler["kind"], scheduler["why"]

    monkeypatch.setenv("PATH", str(tmp_path))
    assert shown() == ("local", "auto: sbatch and squeue are not on PATH")
    for command in ("sbatch", "squeue"):
        (tmp_path / command).touch(mode=0o755)
    assert shown() == ("slurm", "auto: sbatch and squeue are on PATH")


def test_health_is_anonymous_and_says_what_is_not_well(visitor: TestClient) -> None:
    answer = visitor.get("/api/v1/health")
    assert answer.status_code == 200
    body = answer.json()
    assert body["database_at_head"] is True
    assert body["reconciler"] == {"ok": False, "last_tick_age_s": None}
    assert body["ok"] is False


def test_every_route_documents_its_answer_and_its_errors(visitor: TestClient) -> None:
    for method, path, operation in _routes(visitor):
        answers = operation["responses"]
        assert {"401", "422", "503"} <= set(answers), (method, path)
        for code, answer in answers.items():
            if code == "204":
                continue
            schema = answer["content"]["application/json"]["schema"]
            assert schema, (method, path, code)
            if code.startswith(("4", "5")):
                assert schema == {"$ref": "#/components/schemas/ErrorOut"}, (method, path, code)


def test_token_is_kept_as_a_hash_and_shown_once(client: TestClient, database: Database) -> None:
    made = client.post("/api/v1/tokens", json={"name": "ci"}).json()
    assert made["token"] not in client.get("/api/v1/tokens").text
    with database.sessions() as session:
        rows = list(session.scalars(select(ApiToken)))
    assert all(made["token"] not in (row.hash, row.id, row.name) for row in rows)


def test_revoked_token_is_refused(client: TestClient) -> None:
    made = client.post("/api/v1/tokens", json={"name": "ci"}).json()
    as_ci = {"Authorization": f"Bearer {made['token']}"}
    assert client.get("/api/v1/runs", headers=as_ci).status_code == 200
    assert client.delete(f"/api/v1/tokens/{made['id']}").status_code == 204
    assert client.get("/api/v1/runs", headers=as_ci).status_code == 401


def test_expired_token_is_refused(client: TestClient, clock: ManualClock) -> None:
    until = (clock() + timedelta(hours=1)).isoformat()
    made = client.post("/api/v1/tokens", json={"name": "ci", "expires_at": until}).json()
    as_ci = {"Authorization": f"Bearer {made['token']}"}
    assert client.get("/api/v1/runs", headers=as_ci).status_code == 200
    clock.advance(3600)
    assert client.get("/api/v1/runs", headers=as_ci).status_code == 401


@pytest.mark.parametrize(
    ("origin", "status"),
    [(None, 201), ("http://testserver", 201), ("http://testserver:9999", 403), ("null", 403)],
)
def test_cookie_signs_in_but_not_from_another_site(
    visitor: TestClient, database: Database, clock: ManualClock, origin: str | None, status: int
) -> None:
    token = sign_in(visitor, database, clock)
    del visitor.headers["Authorization"]
    visitor.cookies.set("skydeck_token", token)
    headers = {"Origin": origin} if origin else {}
    answer = visitor.post("/api/v1/experiments", json={"name": "e"}, headers=headers)
    assert answer.status_code == status


def test_worker_token_opens_only_the_routes_of_its_role(
    visitor: TestClient, database: Database, tmp_path: Any
) -> None:
    with database.sessions.begin() as session:
        add_run(session, tmp_path)
    message = register_runtime()
    assert post(visitor, "/runtimes/register", message, trainer_token()).status_code == 401
    assert post(visitor, "/runtimes/register", message, runtime_token()).status_code == 200
    as_worker = {"Authorization": f"Bearer {runtime_token()}"}
    assert visitor.get(f"/api/v1/runs/{RUN}", headers=as_worker).status_code == 401


def test_persons_token_is_no_worker_token(
    visitor: TestClient, database: Database, clock: ManualClock
) -> None:
    token = sign_in(visitor, database, clock)
    assert post(visitor, "/runtimes/register", register_runtime(), token).status_code == 401


def test_unexpected_failure_tells_nothing_of_its_inside(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("app.services.experiments.every", explode)
    answer = client.get("/api/v1/experiments")
    assert answer.status_code == 500
    assert answer.json()["error"] == "internal"
    assert "secret detail" not in answer.text
