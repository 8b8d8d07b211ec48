"""Webhook endpoints, what was sent to them, and how each try went."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query

from app.api.deps import Here, Limit, Reader, Signed, WriteSession
from app.api.responses import errors
from app.api.schemas import Page
from app.api.schemas_installation import (
    DeliveryDetailOut,
    DeliveryOut,
    EndpointChangeIn,
    EndpointIn,
    EndpointOut,
    NewEndpointOut,
    TryOut,
)
from app.db import deliveries
from app.db.tables import Delivery, WebhookEndpoint
from app.db.types import BIGGEST
from app.services import webhooks

router = APIRouter(prefix="/webhooks", tags=["webhooks"])


@router.post("", status_code=201, response_model=NewEndpointOut, responses=errors())
def create(body: EndpointIn, session: WriteSession, here: Here) -> WebhookEndpoint:
    """The answer holds the secret to check signatures with; it is never shown again."""
    return webhooks.create(
        session, body.url, body.events, at=here.clock(), ids=here.ids, check=here.check_target
    )


@router.get("", response_model=Page[EndpointOut], responses=errors())
def index(session: Reader) -> dict[str, object]:
    return {"items": deliveries.endpoints(session), "next_cursor": None}


@router.get("/deliveries", response_model=Page[DeliveryOut], responses=errors())
def sent(
    session: Reader,
    endpoint: str | None = None,
    state: Literal["waiting", "delivered", "given_up"] | None = None,
    cursor: Annotated[int | None, Query(ge=1, le=BIGGEST)] = None,
    limit: Limit = 50,
) -> dict[str, object]:
    """Newest first."""
    found = deliveries.page(
        session, endpoint_id=endpoint, state=state, after_id=cursor, limit=limit
    )
    more = str(found[-1].id) if len(found) == limit else None
    return {"items": found, "next_cursor": more}


@router.get("/deliveries/{delivery_id}", response_model=DeliveryDetailOut, responses=errors(404))
def delivery(delivery_id: Annotated[int, Path(le=BIGGEST)], session: Reader) -> DeliveryDetailOut:
    row = webhooks.get_delivery(session, delivery_id)
    history = [TryOut.model_validate(one) for one in deliveries.tries(session, delivery_id)]
    shown = DeliveryOut.model_validate(row).model_dump()
    return DeliveryDetailOut(**shown, payload=row.payload, history=history)


@router.get("/{endpoint_id}", response_model=EndpointOut, responses=errors(404))
def show(endpoint_id: str, session: Reader) -> WebhookEndpoint:
    return webhooks.get(session, endpoint_id)


@router.patch("/{endpoint_id}", response_model=EndpointOut, responses=errors(404))
def change(
    endpoint_id: str, body: EndpointChangeIn, session: WriteSession, here: Here
) -> WebhookEndpoint:
    """Disabling gives up what still waits; enabling sends what happens from then on."""
    return webhooks.set_enabled(session, endpoint_id, body.enabled, at=here.clock())


@router.post(
    "/{endpoint_id}/test", status_code=202, response_model=DeliveryOut, responses=errors(404, 409)
)
def test(endpoint_id: str, session: WriteSession, here: Here, user: Signed) -> Delivery:
    """Queue an event for this endpoint only."""
    return webhooks.send_test(session, endpoint_id, by=user.name, at=here.clock())
