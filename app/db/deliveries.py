"""Webhook endpoints, deliveries and their tries."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.engine import ReadSession
from app.db.tables import Delivery, DeliveryTry, WebhookEndpoint

WAITING, DELIVERED, GIVEN_UP = "waiting", "delivered", "given_up"


def add_endpoint(session: Session, endpoint: WebhookEndpoint) -> None:
    session.add(endpoint)
    session.flush()


def endpoints(session: ReadSession) -> list[WebhookEndpoint]:
    return list(session.scalars(select(WebhookEndpoint).order_by(WebhookEndpoint.created_at)))


def set_enabled(session: Session, endpoint_id: str, enabled: bool) -> None:
    session.execute(
        update(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id).values(enabled=enabled)
    )


def page(
    session: ReadSession,
    *,
    endpoint_id: str | None = None,
    state: str | None = None,
    after_id: int | None = None,
    limit: int = 50,
) -> list[Delivery]:
    """Deliveries, newest first."""
    query = select(Delivery).order_by(Delivery.id.desc()).limit(limit)
    if endpoint_id is not None:
        query = query.where(Delivery.endpoint_id == endpoint_id)
    if state is not None:
        query = query.where(Delivery.state == state)
    if after_id is not None:
        query = query.where(Delivery.id < after_id)
    return list(session.scalars(query))


def tries(session: ReadSession, delivery_id: int) -> list[DeliveryTry]:
    query = select(DeliveryTry).where(DeliveryTry.delivery_id == delivery_id)
    return list(session.scalars(query.order_by(DeliveryTry.id)))


def claim_due(session: Session, now: datetime, until: datetime, limit: int) -> list[Delivery]:
    """Due deliveries, pushed to ``until`` first: a crash while sending costs a wait, no loop."""
    query = (
        select(Delivery)
        .where(Delivery.state == WAITING, Delivery.next_try_at <= now)
        .order_by(Delivery.next_try_at, Delivery.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    due = list(session.scalars(query))
    for delivery in due:
        delivery.next_try_at = until
    session.flush()
    return due


def record_try(session: Session, entry: DeliveryTry) -> None:
    session.add(entry)
    session.flush()


def finish(session: Session, delivery_id: int, state: str, at: datetime) -> None:
    session.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state == WAITING)
        .values(state=state, done_at=at, next_try_at=None, tries=Delivery.tries + 1)
    )


def postpone(session: Session, delivery_id: int, until: datetime) -> None:
    session.execute(
        update(Delivery)
        .where(Delivery.id == delivery_id, Delivery.state == WAITING)
        .values(next_try_at=until, tries=Delivery.tries + 1)
    )


def give_up_all(session: Session, endpoint_id: str, at: datetime) -> None:
    """What still waits for an endpoint that is gone."""
    session.execute(
        update(Delivery)
        .where(Delivery.endpoint_id == endpoint_id, Delivery.state == WAITING)
        .values(state=GIVEN_UP, done_at=at, next_try_at=None)
    )
