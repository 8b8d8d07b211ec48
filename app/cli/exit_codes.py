"""Exit codes of ``skydeck``; documented in docs/cli.md."""

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1
    """Something went wrong that has no code of its own."""
    INVALID = 2
    """Wrong arguments or an impossible spec; nothing was done."""
    UNREACHABLE = 3
    """No control plane answered."""
    NOT_FOUND = 4
    FORBIDDEN = 5
    """No token, or one that may not do this."""
    RUN_FAILED = 10
    """``--wait``: the run ended FAILED."""
    RUN_CANCELLED = 11
    """``--wait``: the run ended CANCELLED."""
    UNHEALTHY = 12
    """``doctor`` found something that would make a run fail."""
