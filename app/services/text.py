"""What workers send, made fit for every database."""

import math
from datetime import UTC, datetime

from app.errors import Invalid


def clean(text: str, limit: int | None = None) -> str:
    """Without NUL (PostgreSQL refuses it) and not longer than its column."""
    return text.replace("\x00", "\N{REPLACEMENT CHARACTER}")[:limit]


def moment(text: str) -> datetime:
    """An ISO 8601 time; one without a zone is UTC."""
    try:
        value = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid(f"{text[:50]!r} is not an ISO 8601 time") from None
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


def finite(value: float | None) -> float | None:
    """NaN and infinity are no numbers that anybody may add up."""
    return value if value is not None and math.isfinite(value) else None
