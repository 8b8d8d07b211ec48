"""Webhook endpoints and what became of each delivery."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from app.db.engine import ReadSession
from app.db.tables import Delivery, DeliveryTry, Event, WebhookEndpoint


@dataclass(frozen=True)
class DeliveryRow:
    delivery: Delivery
    endpoint_url: str
    event: Event
    tries: tuple[DeliveryTry, ...]


@dataclass(frozen=True)
class Webhooks:
    endpoints: tuple[WebhookEndpoint, ...]
    deliveries: tuple[DeliveryRow, ...]


def webhooks(session: ReadSession, limit: int = 50) -> Webhooks:
    """All endpoints, and the newest deliveries with every try."""
    endpoints = tuple(
        session.scalars(select(WebhookEndpoint).order_by(WebhookEndpoint.created_at.desc()))
    )
    rows = list(
        session.execute(
            select(Delivery, WebhookEndpoint.url, Event)
            .join(WebhookEndpoint, WebhookEndpoint.id == Delivery.endpoint_id)
            .join(Event, Event.id == Delivery.event_id)
            .order_by(Delivery.id.desc())
            .limit(limit)
        )
    )
    tries = _tries(session, [delivery.id for delivery, _, _ in rows])
    return Webhooks(
        endpoints,
        tuple(
            DeliveryRow(delivery, url, event, tuple(tries[delivery.id]))
            for delivery, url, event in rows
        ),
    )


def _tries(session: ReadSession, delivery_ids: Sequence[int]) -> dict[int, list[DeliveryTry]]:
    by_delivery: dict[int, list[DeliveryTry]] = defaultdict(list)
    query = select(DeliveryTry).where(DeliveryTry.delivery_id.in_(delivery_ids))
    for one in session.scalars(query.order_by(DeliveryTry.id)):
        by_delivery[one.delivery_id].append(one)
    return by_delivery
