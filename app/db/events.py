"""The event table: audit log, cursor of the live stream, and outbox of webhooks."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import Delivery, Event, WebhookEndpoint

TEST_KIND = "webhook.test"
_ORDER_LOCK = 7_253_002


def append(
    session: Session,
    *,
    kind: str,
    text: str,
    at: datetime,
    run_id: str | None = None,
    data: dict[str, Any] | None = None,
    actor: str = "",
) -> Event:
    """Record that something happened, and queue it for every endpoint that wants it.

    Part of the caller's transaction, so that neither the change nor its event exists alone. The
    payload is fixed here: what is told later is what was true now.
    """
    _keep_ids_in_commit_order(session)
    event = Event(at=at, run_id=run_id, kind=kind, text=text, data=data or {}, actor=actor)
    session.add(event)
    session.flush()
    endpoints = session.scalars(select(WebhookEndpoint).where(WebhookEndpoint.enabled.is_(True)))
    for endpoint in endpoints:
        if kind != TEST_KIND and wants(endpoint.events, event):
            queue(session, endpoint, event)
    return event


def queue(session: Session, endpoint: WebhookEndpoint, event: Event) -> Delivery:
    """The delivery row of one event for one endpoint, due at once."""
    delivery = Delivery(
        endpoint_id=endpoint.id,
        event_id=event.id,
        message_id=f"msg_{endpoint.id}_{event.id}",
        payload=payload(event),
        state="waiting",
        tries=0,
        next_try_at=event.at,
        created_at=event.at,
    )
    session.add(delivery)
    session.flush()
    return delivery


def names(event: Event) -> tuple[str, ...]:
    """What an endpoint may call this event, the most specific name first.

    A transition of a run (``run.state``) is also named by its new state, for example
    ``run.failed``.
    """
    state = event.data.get("to") if event.kind == "run.state" else None
    return (f"run.{state}".lower(), event.kind) if isinstance(state, str) else (event.kind,)


def wants(patterns: Sequence[str], event: Event) -> bool:
    return "*" in patterns or any(name in patterns for name in names(event))


def payload(event: Event) -> str:
    """The body of a webhook, as Standard Webhooks shapes it: type, timestamp, data."""
    body = {
        "type": names(event)[0],
        "timestamp": event.at.isoformat(),
        "data": {
            "event_id": event.id,
            "kind": event.kind,
            "run_id": event.run_id,
            "text": event.text,
            "actor": event.actor,
            **({"details": event.data} if event.data else {}),
        },
    }
    return json.dumps(body, separators=(",", ":"))


def tail(
    session: ReadSession, after_id: int, limit: int = 100, *, run_id: str | None = None
) -> list[Event]:
    """Events after a cursor, oldest first."""
    query = select(Event).where(Event.id > after_id).order_by(Event.id).limit(limit)
    if run_id is not None:
        query = query.where(Event.run_id == run_id)
    return list(session.scalars(query))


def latest(session: ReadSession, limit: int, *, run_id: str | None = None) -> list[Event]:
    """The newest events, newest first."""
    query = select(Event).order_by(Event.id.desc()).limit(limit)
    if run_id is not None:
        query = query.where(Event.run_id == run_id)
    return list(session.scalars(query))


def last_id(session: ReadSession) -> int:
    """The cursor of somebody who wants only what happens from now on."""
    return session.scalar(select(func.max(Event.id))) or 0


def _keep_ids_in_commit_order(session: Session) -> None:
    """PostgreSQL hands out ids before commit: a reader at id 8 would miss a 7 that commits later.

    Transactions that append therefore queue here until the one before has committed. SQLite has
    one writer anyway.
    """
    if session.get_bind().dialect.name == "postgresql":
        session.execute(select(func.pg_advisory_xact_lock(_ORDER_LOCK)))
