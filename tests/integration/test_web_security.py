"""Who may see and do what; what every answer carries; what is served from where."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from app.clock import Clock
from app.db.tables import Run, WebhookEndpoint
from app.domain.states import Desired
from app.ids import new_id
from app.services import tokens
from app.web import STATIC, pages, stream
from tests.factories import demo_data
from tests.factories.client import TestClient
from tests.factories.databases import Database, sqlite_copy

OWN = {"Origin": "http://testserver"}
FOREIGN = (
    {},
    {"Origin": "http://testserver:8081"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Referer": "http://testserver.evil.example/"},
)


@pytest.fixture
def database(sqlite_template: Path, tmp_path: Path) -> Iterator[Database]:
    """SQLite only: nothing here depends on the database; the pages' queries run on both."""
    with sqlite_copy(sqlite_template, tmp_path) as opened:
        yield opened


@pytest.fixture
def token(database: Database, clock: Clock, tmp_path: Path) -> str:
    with database.sessions.begin() as session:
        demo_data.fill(session, clock(), tmp_path / "runs", steps=1)
        return tokens.create(session, "ada", at=clock(), ids=new_id)[1]


@pytest.fixture
def signed(visitor: TestClient, token: str) -> TestClient:
    visitor.cookies.set("skydeck_token", token)
    return visitor


def routes(method: str) -> Iterator[str]:
    for router in (*pages.routers(), stream.router):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            if method in route.methods and route.path not in ("/login", "/logout"):
                yield route.path.format_map(_Ids())


class _Ids(dict[str, str]):
    def __missing__(self, key: str) -> str:
        known = {"section": "head", "sweep_id": "sweep00001", "endpoint_id": "hook000001"}
        return known.get(key, "1" if key == "job_id" else demo_data.RUNNING)


def test_no_page_and_no_fragment_is_anonymous(visitor: TestClient, token: str) -> None:
    found = list(routes("GET"))
    assert len(found) >= 20
    for path in found:
        answer = visitor.get(path, follow_redirects=False)
        assert answer.status_code == 303, path
        assert answer.headers["location"].startswith("/login"), path
        assert token not in answer.text


def test_no_form_is_anonymous(visitor: TestClient) -> None:
    for path in routes("POST"):
        answer = visitor.post(path, headers=OWN, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_form_from_elsewhere_changes_nothing(
    signed: TestClient, database: Database, headers: dict[str, str]
) -> None:
    for path in [*routes("POST"), "/login", "/logout"]:
        answer = signed.post(path, headers=headers, data={"token": "x", "url": "https://x.example"})
        assert answer.status_code == 403, path
    with database.sessions() as session:
        run = session.get(Run, demo_data.RUNNING)
        hook = session.get(WebhookEndpoint, "hook000001")
        assert run is not None
        assert run.desired is Desired.RUNNING
        assert hook is not None
        assert hook.enabled


def test_the_link_of_skydeck_up_logs_in_and_hides_the_token(
    visitor: TestClient, token: str
) -> None:
    answer = visitor.get("/login", params={"token": token}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert visitor.get("/").status_code == 200


def test_who_is_sent_to_log_in_comes_back(visitor: TestClient, token: str) -> None:
    asked = visitor.get("/runs/running001?job=1", follow_redirects=False)
    assert asked.headers["location"] == "/login?next=%2Fruns%2Frunning001%3Fjob%3D1"
    form = {"token": f" {token}\n", "next": "/runs/running001?job=1"}
    answer = visitor.post("/login", data=form, headers=OWN, follow_redirects=False)
    assert answer.headers["location"] == "/runs/running001?job=1"


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", ""])
def test_login_leads_nowhere_else(visitor: TestClient, token: str, path: str) -> None:
    query = {"token": token, "next": path}
    answer = visitor.get("/login", params=query, follow_redirects=False)
    assert answer.headers["location"] == "/"


def test_a_wrong_token_sets_no_cookie(visitor: TestClient) -> None:
    answer = visitor.post("/login", data={"token": "wrong"}, headers=OWN)
    assert answer.status_code == 401
    assert "unknown, expired or revoked" in answer.text
    assert "set-cookie" not in answer.headers


def test_logging_out_forgets_the_cookie(visitor: TestClient, token: str) -> None:
    visitor.get("/login", params={"token": token})
    visitor.post("/logout", headers=OWN)
    assert visitor.get("/", follow_redirects=False).status_code == 303


def test_every_answer_has_a_strict_policy(signed: TestClient) -> None:
    for path in ("/", "/login", "/runs/running001", "/runs/running001/fragments/jobs", "/nowhere"):
        headers = signed.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';"), path
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["referrer-policy"] == "same-origin"


def test_a_fragment_whose_person_is_logged_out_sends_the_page_to_log_in(
    visitor: TestClient,
) -> None:
    answer = visitor.get("/runs-list", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")


def test_cancelling_asks_first_and_then_only_states_the_wish(
    signed: TestClient, database: Database
) -> None:
    assert "This cannot be undone" in signed.get("/runs/running001/cancel").text
    answer = signed.post("/runs/running001/cancel", headers=OWN, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs/running001")
    with database.sessions() as session:
        run = session.get(Run, demo_data.RUNNING)
        assert run is not None
        assert run.desired is Desired.CANCELLED
    assert "cancel asked" in signed.get("/runs/running001").text


def test_a_webhook_secret_is_shown_once(signed: TestClient) -> None:
    form = {"url": "https://1.1.1.1/in", "events": "run.failed, run.succeeded"}
    made = signed.post("/webhooks", data=form, headers=OWN)
    assert made.status_code == 201, made.text
    assert made.text.count("whsec_") == 1
    assert "whsec_" not in signed.get("/webhooks").text


def test_a_webhook_to_this_machine_is_refused_with_the_mend(signed: TestClient) -> None:
    made = signed.post("/webhooks", data={"url": "http://127.0.0.1:9/"}, headers=OWN)
    assert made.status_code == 422
    assert "127.0.0.1" in made.text
    assert "whsec_" not in made.text


def test_a_webhook_is_tested_and_disabled(signed: TestClient) -> None:
    signed.post("/webhooks/hook000001/test", headers=OWN)
    assert "A test of this webhook" in signed.get("/webhooks").text
    signed.post("/webhooks/hook000001/disable", headers=OWN)
    assert "disabled" in signed.get("/webhooks").text
    assert signed.post("/webhooks/hook000001/test", headers=OWN).status_code == 409


def test_vendored_files_are_the_pinned_ones() -> None:
    lines = (STATIC / "vendor" / "VERSIONS").read_text().splitlines()[1:]
    pinned = {name: digest for name, _, _, _, digest in map(str.split, lines)}
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (STATIC / "vendor").glob("*.js")
    }
    assert found == pinned


def test_static_files_are_served_from_here(visitor: TestClient) -> None:
    for name in ("skydeck.css", "skydeck.svg", "vendor/htmx.min.js", "vendor/sse.min.js"):
        assert visitor.get(f"/static/{name}").status_code == 200
    for file in STATIC.glob("*.css"):
        assert "://" not in file.read_text()
