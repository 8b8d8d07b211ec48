"""From where a next attempt may resume."""

from app.db import facts
from app.db.engine import ReadSession
from app.db.tables import Checkpoint


def newest_complete(session: ReadSession, run_id: str) -> Checkpoint | None:
    """Of any attempt. Partial checkpoints do not exist for us."""
    return facts.newest_complete(session, run_id)
