"""Shapes of what belongs to the installation: tokens, webhooks, health."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from app.api.schemas import In, Out


class TokenIn(In):
    name: str = Field(min_length=1, max_length=100)
    expires_at: AwareDatetime | None = None


class TokenOut(Out):
    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewTokenOut(TokenOut):
    token: str
    """In clear, this once."""


class EndpointIn(In):
    url: str = Field(max_length=2000)
    events: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default=["run.failed"], min_length=1, max_length=50
    )
    """Kinds of events; ``*`` for all."""


class EndpointChangeIn(In):
    enabled: bool


class EndpointOut(Out):
    id: str
    url: str
    events: list[str]
    enabled: bool
    created_at: datetime


class NewEndpointOut(EndpointOut):
    secret: str
    """To check signatures with; shown this once."""


class DeliveryOut(Out):
    id: int
    endpoint_id: str
    event_id: int
    message_id: str
    state: Literal["waiting", "delivered", "given_up"]
    tries: int
    next_try_at: datetime | None
    created_at: datetime
    done_at: datetime | None


class TryOut(Out):
    at: datetime
    status_code: int | None
    answer: str
    seconds: float


class DeliveryDetailOut(DeliveryOut):
    payload: str
    history: list[TryOut]


class ReconcilerHealth(Out):
    ok: bool
    last_tick_age_s: float | None


class SchedulerHealth(Out):
    kind: Literal["slurm", "local"]
    why: str
    """Why this one was chosen, for example because ``auto`` found no ``sbatch``."""
    ok: bool
    last_answer_age_s: float | None


class HealthOut(Out):
    ok: bool
    version: str
    database_at_head: bool
    reconciler: ReconcilerHealth
    scheduler: SchedulerHealth
