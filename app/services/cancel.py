"""Cancel a run: say that it is no longer wanted. The reconciler brings it about."""

from datetime import datetime

from sqlalchemy.orm import Session

from app.db import events, intents
from app.db.tables import Run
from app.services.launch import get_run


def cancel(session: Session, run_id: str, *, by: str, at: datetime) -> Run:
    """Repeating it, or cancelling what has ended, changes nothing and is no error."""
    run = get_run(session, run_id)
    if intents.set_cancelled(session, run_id, at):
        events.append(
            session,
            kind="run.cancel_requested",
            text=f"{by or 'Somebody'} asked to cancel the run",
            at=at,
            run_id=run_id,
            actor=by,
        )
    session.refresh(run)
    return run
