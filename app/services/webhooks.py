"""Webhook endpoints: made, changed, tested. Sending is the Deliverer's loop."""

import base64
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime

from sqlalchemy.orm import Session

from app.db import deliveries, events
from app.db.engine import ReadSession
from app.db.tables import Delivery, WebhookEndpoint
from app.errors import Conflict, NotFound
from app.ids import IdFactory


def new_secret() -> str:
    """As Standard Webhooks writes it: 256 random bits behind ``whsec_``."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def create(
    session: Session,
    url: str,
    wanted: Sequence[str],
    *,
    at: datetime,
    ids: IdFactory,
    check: Callable[[str], None],
    make_secret: Callable[[], str] = new_secret,
) -> WebhookEndpoint:
    """``check`` raises Invalid for a target that may not be reached."""
    check(url)
    endpoint = WebhookEndpoint(
        id=ids(), url=url, secret=make_secret(), events=list(wanted), enabled=True, created_at=at
    )
    deliveries.add_endpoint(session, endpoint)
    return endpoint


def get(session: ReadSession, endpoint_id: str) -> WebhookEndpoint:
    endpoint = session.get(WebhookEndpoint, endpoint_id)
    if endpoint is None:
        raise NotFound(f"there is no webhook endpoint {endpoint_id!r}")
    return endpoint


def set_enabled(
    session: Session, endpoint_id: str, enabled: bool, *, at: datetime
) -> WebhookEndpoint:
    """Disabling gives up what still waits; enabling sends what happens from then on."""
    endpoint = get(session, endpoint_id)
    deliveries.set_enabled(session, endpoint_id, enabled)
    if not enabled:
        deliveries.give_up_all(session, endpoint_id, at)
    session.refresh(endpoint)
    return endpoint


def send_test(session: Session, endpoint_id: str, *, by: str, at: datetime) -> Delivery:
    """Queue an event that goes to this endpoint only, whatever it subscribed to."""
    endpoint = get(session, endpoint_id)
    if not endpoint.enabled:
        raise Conflict("the endpoint is disabled: enable it first", code="endpoint_disabled")
    event = events.append(
        session,
        kind=events.TEST_KIND,
        text="A test of this webhook",
        at=at,
        data={"endpoint_id": endpoint_id},
        actor=by,
    )
    return events.queue(session, endpoint, event)


def get_delivery(session: ReadSession, delivery_id: int) -> Delivery:
    delivery = session.get(Delivery, delivery_id)
    if delivery is None:
        raise NotFound(f"there is no delivery {delivery_id}")
    return delivery
