"""One rollout with everything that was recorded of it, and its neighbours in the group."""

import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import select

from app.db.engine import ReadSession
from app.db.tables import Rollout, RolloutBody
from app.errors import NotFound
from workers.contract.reports import CallCounts, Grade, Turn

MAX_BODY = 64 * 1024 * 1024


class Body(BaseModel):
    """The stored large part. Keys that a newer contract adds are passed over."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    turns: tuple[Turn, ...] = ()
    patch: str = ""
    grade: Grade | None = None
    calls: CallCounts = CallCounts()
    phase_s: dict[str, float] = {}


@dataclass(frozen=True)
class RolloutView:
    rollout: Rollout
    body: Body
    unreadable: str = ""
    """Why the stored transcript could not be read; empty when it could."""
    siblings: tuple[Rollout, ...] = field(default_factory=tuple)
    """All rollouts of the group, this one among them."""
    previous: Rollout | None = None
    following: Rollout | None = None


def show(session: ReadSession, rollout_id: str, run_id: str | None = None) -> RolloutView:
    """Raises NotFound, also when the rollout belongs to another run."""
    rollout = session.get(Rollout, rollout_id)
    if rollout is None or (run_id is not None and rollout.run_id != run_id):
        raise NotFound(f"there is no rollout {rollout_id}")
    stored = session.get(RolloutBody, rollout_id)
    body, trouble = decode(stored.body) if stored else (Body(), "no transcript was stored")
    siblings = _siblings(session, rollout)
    at = [sibling.id for sibling in siblings].index(rollout.id)
    return RolloutView(
        rollout,
        body,
        trouble,
        tuple(siblings),
        siblings[at - 1] if at else None,
        siblings[at + 1] if at + 1 < len(siblings) else None,
    )


def decode(packed: bytes) -> tuple[Body, str]:
    """The body, or an empty one with the reason. A packed bomb is cut off at MAX_BODY."""
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(packed, MAX_BODY)
        if unpacker.unconsumed_tail:
            return Body(), f"the stored transcript unpacks to more than {MAX_BODY} bytes"
        loaded: Any = json.loads(text)
        return Body.model_validate(loaded), ""
    except (zlib.error, ValueError, ValidationError) as error:
        return Body(), f"the stored transcript cannot be read: {type(error).__name__}"


def _siblings(session: ReadSession, rollout: Rollout) -> list[Rollout]:
    query = (
        select(Rollout)
        .where(
            Rollout.run_id == rollout.run_id,
            Rollout.attempt == rollout.attempt,
            Rollout.step == rollout.step,
            Rollout.group == rollout.group,
            Rollout.validation == rollout.validation,
        )
        .order_by(Rollout.sample, Rollout.try_number, Rollout.id)
    )
    return list(session.scalars(query))
