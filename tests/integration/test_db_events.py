import json
from threading import Event as Flag
from threading import Thread

from app.db import deliveries, events
from app.db.engine import open_read
from app.db.tables import WebhookEndpoint
from tests.factories.clocks import START
from tests.factories.databases import Database


def _endpoint(identity: str, *wanted: str, enabled: bool = True) -> WebhookEndpoint:
    return WebhookEndpoint(
        id=identity,
        url="https://example.org/hook",
        secret="whsec_AAAA",
        events=list(wanted),
        enabled=enabled,
        created_at=START,
    )


def test_event_and_its_deliveries_exist_together_or_not_at_all(database: Database) -> None:
    with database.sessions.begin() as session:
        session.add(_endpoint("hook1", "*"))
    session = database.sessions()
    events.append(session, kind="run.created", text="new", at=START)
    session.rollback()
    with open_read(database.sessions) as reader:
        assert events.tail(reader, 0) == []
        assert deliveries.page(reader) == []


def test_only_endpoints_that_want_the_event_get_a_delivery(database: Database) -> None:
    with database.sessions.begin() as session:
        session.add_all(
            [
                _endpoint("all", "*"),
                _endpoint("failed", "run.failed"),
                _endpoint("kind", "run.state"),
                _endpoint("other", "run.succeeded"),
                _endpoint("off", "*", enabled=False),
            ]
        )
        session.flush()
        data = {"from": "STOPPING", "to": "FAILED", "reason": "out_of_memory"}
        events.append(session, kind="run.state", text="it failed", at=START, data=data)
        sent = deliveries.page(session)
    assert {one.endpoint_id for one in sent} == {"all", "failed", "kind"}
    body = json.loads(sent[0].payload)
    assert body["type"] == "run.failed"
    assert body["timestamp"] == START.isoformat()
    assert body["data"]["details"]["reason"] == "out_of_memory"


def test_tail_gives_what_came_after_the_cursor_in_order(database: Database) -> None:
    with database.sessions.begin() as session:
        made = [
            events.append(session, kind="x", text=str(number), at=START).id for number in range(5)
        ]
    with open_read(database.sessions) as reader:
        assert [event.id for event in events.tail(reader, made[1], 2)] == made[2:4]
        assert events.last_id(reader) == made[-1]


def test_a_reader_never_sees_a_later_id_before_an_earlier_one(database: Database) -> None:
    """Two writers: the second may not commit a higher id while the first is still open."""
    first = database.sessions()
    events.append(first, kind="x", text="first", at=START)
    done = Flag()

    def second() -> None:
        with database.sessions.begin() as session:
            events.append(session, kind="x", text="second", at=START)
        done.set()

    thread = Thread(target=second)
    thread.start()
    assert not done.wait(0.3)
    with open_read(database.sessions) as reader:
        assert events.tail(reader, 0) == []
    first.commit()
    first.close()
    thread.join(10)
    with open_read(database.sessions) as reader:
        assert [event.text for event in events.tail(reader, 0)] == ["first", "second"]
