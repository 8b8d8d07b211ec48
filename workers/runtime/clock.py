"""Time as the runtime sees it, injected so that tests of deadlines need not wait."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


def _utc_iso() -> str:
    # The clock that is injected everywhere else.
    return datetime.now(UTC).isoformat(timespec="milliseconds")  # noqa: TID251


@dataclass(frozen=True)
class Clock:
    monotonic: Callable[[], float] = time.monotonic
    """Seconds; for durations and deadlines."""
    iso: Callable[[], str] = _utc_iso
    """ISO 8601 in UTC; for people and messages."""
