"""From an event to a real receiver, over failures."""

import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest

from app.db import deliveries, events
from app.db.tables import WebhookEndpoint
from app.settings import Settings
from app.webhooks import sign
from app.webhooks.deliver import BACK_OFF, Deliverer
from tests.factories.client import TestClient, make_client, sign_in
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database
from tests.factories.receiver import Receiver, free_port, receiver

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return Settings(data_dir=tmp_path, webhook_allow=LOOPBACK)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture
def deliverer(
    database: Database, clock: ManualClock, http: httpx.Client, settings: Settings
) -> Deliverer:
    return Deliverer(database.sessions, clock, http, random.Random(1), settings)


def _endpoint(client: TestClient, url: str, *wanted: str) -> dict[str, Any]:
    answer = client.post("/api/v1/webhooks", json={"url": url, "events": wanted or ("run.failed",)})
    assert answer.status_code == 201, answer.text
    return answer.json()


def _fail(database: Database, clock: ManualClock) -> None:
    with database.sessions.begin() as session:
        data = {"from": "STOPPING", "to": "FAILED", "reason": "out_of_memory"}
        events.append(session, kind="run.state", text="it failed", at=clock(), data=data)


def _only(client: TestClient) -> dict[str, Any]:
    listed = client.get("/api/v1/webhooks/deliveries").json()["items"]
    assert len(listed) == 1
    return client.get(f"/api/v1/webhooks/deliveries/{listed[0]['id']}").json()


def test_receiver_that_is_down_at_first_gets_the_event_later(
    client: TestClient, database: Database, clock: ManualClock, deliverer: Deliverer
) -> None:
    port = free_port()
    endpoint = _endpoint(client, f"http://127.0.0.1:{port}/hook")
    _fail(database, clock)
    assert deliverer.tick() == 1
    assert deliverer.tick() == 0  # not due yet
    waiting = _only(client)
    assert (waiting["state"], waiting["tries"]) == ("waiting", 1)
    assert waiting["history"][0]["status_code"] is None
    assert "ConnectError" in waiting["history"][0]["answer"]

    clock.advance(10)
    with receiver(port) as listening:
        assert deliverer.tick() == 1
    (got,) = listening.received
    assert sign.verify(endpoint["secret"], got.headers, got.body, now=clock())
    assert not sign.verify(endpoint["secret"], got.headers, got.body + b" ", now=clock())
    assert got.headers["webhook-id"] == waiting["message_id"]
    assert got.body.decode() == waiting["payload"]
    done = _only(client)
    assert (done["state"], done["tries"], done["next_try_at"]) == ("delivered", 2, None)
    assert [one["status_code"] for one in done["history"]] == [None, 200]
    assert done["history"][1]["answer"] == "thanks"


def test_every_try_has_the_same_id_and_a_new_time(
    client: TestClient, database: Database, clock: ManualClock, deliverer: Deliverer
) -> None:
    with receiver() as listening:
        listening.status = 500
        _endpoint(client, listening.url)
        _fail(database, clock)
        deliverer.tick()
        clock.advance(10)
        deliverer.tick()
    first, second = listening.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]


def test_giving_up_follows_the_schedule_and_is_visible(
    client: TestClient, database: Database, clock: ManualClock, deliverer: Deliverer
) -> None:
    with receiver() as listening:
        listening.status = 503
        _endpoint(client, listening.url)
        _fail(database, clock)
        for wait in (timedelta(0), *BACK_OFF):
            clock.advance(wait.total_seconds() * 0.79)
            assert deliverer.tick() == (0 if wait else 1)
            if wait:
                clock.advance(wait.total_seconds() * 0.42)
                assert deliverer.tick() == 1
    last = _only(client)
    assert last["state"] == "given_up"
    assert len(last["history"]) == last["tries"] == len(BACK_OFF) + 1
    clock.advance(10**7)
    assert deliverer.tick() == 0


def test_redirect_is_not_followed(
    client: TestClient, database: Database, clock: ManualClock, deliverer: Deliverer
) -> None:
    with receiver() as secret, receiver() as listening:
        listening.status, listening.location = 302, secret.url
        _endpoint(client, listening.url)
        _fail(database, clock)
        deliverer.tick()
    assert secret.received == []
    assert _only(client)["history"][0]["status_code"] == 302


def test_gone_disables_the_endpoint_and_gives_up_what_waits(
    client: TestClient, database: Database, clock: ManualClock, deliverer: Deliverer
) -> None:
    with receiver() as listening:
        listening.status = 410
        endpoint = _endpoint(client, listening.url)
        _fail(database, clock)
        _fail(database, clock)
        assert deliverer.tick() == 1
    assert client.get(f"/api/v1/webhooks/{endpoint['id']}").json()["enabled"] is False
    listed = client.get("/api/v1/webhooks/deliveries").json()["items"]
    assert [one["state"] for one in listed] == ["given_up", "given_up"]
    _fail(database, clock)
    assert len(client.get("/api/v1/webhooks/deliveries").json()["items"]) == 2


def test_long_answer_is_cut_at_two_kilobytes(
    client: TestClient, database: Database, clock: ManualClock, deliverer: Deliverer
) -> None:
    with receiver() as listening:
        listening.answer = b"\x00" + b"x" * 100_000
        _endpoint(client, listening.url)
        _fail(database, clock)
        deliverer.tick()
    assert len(_only(client)["history"][0]["answer"]) == 2048


def test_crash_while_sending_costs_a_wait_and_loses_nothing(
    client: TestClient,
    database: Database,
    clock: ManualClock,
    deliverer: Deliverer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Crash(BaseException):
        pass

    def crash(*_: object) -> None:
        raise Crash

    with receiver() as listening:
        _endpoint(client, listening.url)
        _fail(database, clock)
        with monkeypatch.context() as patch:
            patch.setattr(deliverer, "_record", crash)
            with pytest.raises(Crash):
                deliverer.tick()
        assert deliverer.tick() == 0
        clock.advance(121)
        assert deliverer.tick() == 1
    assert len(listening.received) == 2  # at least once: the id tells the receiver
    assert _only(client)["state"] == "delivered"


def test_loopback_is_refused_unless_it_is_allowed(
    database: Database, clock: ManualClock, tmp_path: Any
) -> None:
    strict = make_client(database, Settings(data_dir=tmp_path), clock)
    sign_in(strict, database, clock)
    answer = strict.post("/api/v1/webhooks", json={"url": "http://127.0.0.1:9/x"})
    assert (answer.status_code, answer.json()["error"]) == (422, "webhook_target")
    assert "SKYDECK_WEBHOOK_ALLOW" in answer.json()["detail"]


def test_name_that_later_points_inside_is_not_called(
    database: Database, clock: ManualClock, http: httpx.Client, tmp_path: Any
) -> None:
    """DNS rebinding: public when the endpoint was made, loopback when it is used."""
    with receiver() as inside:
        _add_endpoint(database, clock, f"http://hooks.example.org:{inside.port}/x")
        _fail(database, clock)
        strict = Settings(data_dir=tmp_path)

        def rebound(host: str, port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        made = Deliverer(database.sessions, clock, http, random.Random(1), strict, rebound)
        assert made.tick() == 1
    assert inside.received == []
    with database.sessions() as session:
        assert [one.state for one in deliveries.page(session)] == ["given_up"]


def test_connection_goes_to_the_checked_address_with_the_name_as_host(
    database: Database,
    clock: ManualClock,
    http: httpx.Client,
    settings: Settings,
) -> None:
    asked: list[str] = []

    def once(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with receiver() as inside:
        _add_endpoint(database, clock, f"http://hooks.invalid:{inside.port}/x")
        _fail(database, clock)
        Deliverer(database.sessions, clock, http, random.Random(1), settings, once).tick()
    assert asked == ["hooks.invalid"]
    assert inside.received[0].headers["host"] == f"hooks.invalid:{inside.port}"


def test_test_event_reaches_only_the_endpoint_that_was_asked_for(
    client: TestClient, deliverer: Deliverer
) -> None:
    with receiver() as one, receiver() as other:
        endpoint = _endpoint(client, one.url, "run.failed")
        _endpoint(client, other.url, "*")
        assert client.post(f"/api/v1/webhooks/{endpoint['id']}/test").status_code == 202
        assert deliverer.tick() == 1
    assert _types(one) == ["webhook.test"]
    assert _types(other) == []


def test_disabled_endpoint_gets_nothing(
    client: TestClient, database: Database, clock: ManualClock, deliverer: Deliverer
) -> None:
    with receiver() as listening:
        endpoint = _endpoint(client, listening.url)
        _fail(database, clock)
        path = f"/api/v1/webhooks/{endpoint['id']}"
        assert client.patch(path, json={"enabled": False}).json()["enabled"] is False
        _fail(database, clock)
        assert client.post(f"{path}/test").json()["error"] == "endpoint_disabled"
        assert deliverer.tick() == 0
    assert listening.received == []


def test_secret_is_shown_once(client: TestClient) -> None:
    made = _endpoint(client, "http://127.0.0.1:1/x")
    assert made["secret"].startswith("whsec_")
    assert made["secret"] not in client.get("/api/v1/webhooks").text
    assert made["secret"] not in client.get(f"/api/v1/webhooks/{made['id']}").text


def _types(one: Receiver) -> list[str]:
    return [httpx.Response(200, content=got.body).json()["type"] for got in one.received]


def _add_endpoint(database: Database, clock: ManualClock, url: str) -> None:
    with database.sessions.begin() as session:
        session.add(
            WebhookEndpoint(
                id="hook1",
                url=url,
                secret="whsec_AAAA",
                events=["*"],
                enabled=True,
                created_at=clock(),
            )
        )
