"""Permission to use one runtime generation until a time."""

from workers.contract.base import Message


class LeaseRequest(Message):
    """``POST /api/internal/leases`` with the trainer token: one lease per live runtime.

    503 ``no_runtime`` with Retry-After while no runtime is fresh; 410 when the attempt is over.
    """

    run_id: str
    attempt: int
    held: tuple[str, ...] = ()
    """Ids of leases to renew; the answer holds those that still stand, and new ones."""


class LeaseOut(Message):
    lease_id: str
    runtime_index: int
    generation: int
    url: str
    slots: int
    expires_at: str
    """ISO 8601, UTC."""
    expires_in_s: float


class LeaseAnswer(Message):
    leases: tuple[LeaseOut, ...]
