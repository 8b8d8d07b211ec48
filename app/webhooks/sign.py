"""Standard Webhooks signatures: https://www.standardwebhooks.com. Pure."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime, timedelta

from app.errors import Invalid

PREFIX = "whsec_"
TOLERANCE = timedelta(minutes=5)


def headers(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The three headers of one try. The id stays the same over tries, the time does not."""
    timestamp = str(int(at.timestamp()))
    return {
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{_signature(secret, message_id, timestamp, body)}",
    }


def verify(secret: str, received: Mapping[str, str], body: bytes, *, now: datetime) -> bool:
    """What a receiver does: one of the signatures fits, and the message is not old."""
    try:
        message_id, timestamp = received["webhook-id"], received["webhook-timestamp"]
        given = received["webhook-signature"].split()
        age = abs(now.timestamp() - int(timestamp))
    except (KeyError, ValueError):
        return False
    wanted = f"v1,{_signature(secret, message_id, timestamp, body)}"
    fits = any(hmac.compare_digest(wanted.encode(), one.encode()) for one in given)
    return fits and age <= TOLERANCE.total_seconds()


def _signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    signed = f"{message_id}.{timestamp}.".encode() + body
    return base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()


def _key(secret: str) -> bytes:
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise Invalid(f"a webhook secret is {PREFIX} and base64") from None
