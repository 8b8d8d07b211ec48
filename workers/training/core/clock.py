"""Time as the training core sees it, so that tests need not wait."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def _utc_iso() -> str:
    # The clock that is injected everywhere else.
    return datetime.now(UTC).isoformat(timespec="milliseconds")  # noqa: TID251


@dataclass(frozen=True, slots=True)
class Clock:
    monotonic: Callable[[], float] = time.monotonic
    """Seconds; for durations and deadlines."""
    iso: Callable[[], str] = _utc_iso
    """ISO 8601 in UTC; for people and reports."""
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
