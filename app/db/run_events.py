"""The events of transitions: what people, the live stream and webhooks are told."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db import events
from app.domain.model import JobView, RuntimeView, RunView
from app.domain.states import RUN_FINAL, JobState, RunState


def report_run(session: Session, before: RunView, after: RunView, now: datetime) -> None:
    if before.state is after.state:
        return
    stopping = after.state is RunState.STOPPING
    why = f": {after.reason_detail}" if after.reason_detail and stopping else ""
    if after.state in RUN_FINAL and after.reason is not None:
        why = f": {after.reason_detail or after.reason}"
    data = {
        "from": before.state,
        "to": after.state,
        "attempt": after.attempt_number,
        "reason": after.reason,
        "detail": after.reason_detail,
    }
    _append(session, after, "run.state", f"{before.state} -> {after.state}{why}", data, now)
    if before.attempt_number != after.attempt_number:
        text = f"attempt {after.attempt_number} follows: attempt {before.attempt_number} ended by "
        data = {"attempt": after.attempt_number, "reason": before.reason}
        _append(session, after, "run.attempt", f"{text}{before.reason}", data, now)


def report_job(
    session: Session, run: RunView, old: JobView | None, new: JobView, now: datetime
) -> None:
    data = {
        "job": new.name,
        "role": new.role,
        "index": new.index,
        "attempt": new.attempt,
        "generation": new.generation,
        "scheduler_id": new.scheduler_id,
        "from": old.state if old else None,
        "to": new.state,
    }
    text = f"{new.role} job {new.index}: {f'{old.state} -> ' if old else ''}{new.state}"
    if new.state is JobState.REJECTED and new.detail:
        text = f"{text}: {new.detail}"
    _append(session, run, "job.state", text, data, now)


def report_runtime(
    session: Session, run: RunView, old: RuntimeView | None, new: RuntimeView, now: datetime
) -> None:
    data = {
        "index": new.index,
        "generation": new.generation,
        "attempt": run.attempt_number,
        "from": old.state if old else None,
        "to": new.state,
        "close_reason": new.close_reason,
    }
    why = f" ({new.close_reason})" if new.close_reason else ""
    text = f"runtime {new.index} generation {new.generation}: {new.state}{why}"
    _append(session, run, "runtime.state", text, data, now)


def _append(
    session: Session, run: RunView, kind: str, text: str, data: dict[str, Any], now: datetime
) -> None:
    events.append(session, kind=kind, text=text, at=now, run_id=run.id, data=data)
