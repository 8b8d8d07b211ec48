"""Launch a run: write down what is wanted. Nothing outside the database is touched."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import events, experiments, facts, intents
from app.db.engine import ReadSession
from app.db.tables import Experiment, Finding, Run
from app.domain.states import Desired, RunState
from app.errors import Conflict, NotFound
from app.ids import IdFactory
from app.services.specs import Draft, Preset, require_possible


def request_hash(
    document: Mapping[str, Any], sets: Sequence[str] = (), preset: Preset | None = None
) -> str:
    """Two requests with one idempotency key must agree in this."""
    body = json.dumps([document, list(sets), preset], sort_keys=True, default=str)
    return hashlib.sha256(body.encode()).hexdigest()


def launch(
    session: Session,
    made: Draft,
    *,
    key: str | None,
    hashed: str,
    by: str,
    at: datetime,
    ids: IdFactory,
) -> tuple[Run, bool]:
    """The run, and whether this call made it.

    1. The same key and body again: the run that the first call made. Another body: Conflict.
    2. Refuse what can never run.
    3. Insert the run PENDING with its event; the reconciler does the rest.
    """
    if key is not None and (known := repeated(session, key, hashed)) is not None:
        return known, False
    require_possible(made)
    run = new_run(session, made, key=key, hashed=hashed, by=by, at=at, ids=ids)
    try:
        with session.begin_nested():
            intents.insert_run(session, run)
    except IntegrityError:  # the same key won in another transaction, which has committed
        known = repeated(session, key, hashed) if key is not None else None
        if known is None:
            raise
        return known, False
    announce(session, run, by=by, at=at)
    warn(session, run, made, at=at)
    return run, True


def repeated(session: ReadSession, key: str, hashed: str) -> Run | None:
    """The run that this key made; raises Conflict if it was asked for with another body."""
    known = intents.run_by_key(session, key)
    if known is not None and known.request_hash != hashed:
        raise Conflict(
            f"the idempotency key {key!r} was used for run {known.id} with another body: "
            "send a new key for a new run",
            code="idempotency_key_reused",
        )
    return known


def new_run(
    session: Session,
    made: Draft,
    *,
    key: str | None,
    hashed: str,
    by: str,
    at: datetime,
    ids: IdFactory,
    sweep_id: str | None = None,
    sweep_index: int | None = None,
) -> Run:
    """A PENDING run that is not in the database yet; its experiment is."""
    experiment = ensure_experiment(session, made.spec.experiment, at=at, ids=ids)
    return Run(
        id=ids(),
        experiment_id=experiment.id,
        sweep_id=sweep_id,
        sweep_index=sweep_index,
        name=made.spec.name,
        kind=made.spec.kind,
        spec=made.spec.model_dump(mode="json"),
        origins=made.origins,
        desired=Desired.RUNNING,
        state=RunState.PENDING,
        attempt=1,
        version=1,
        idempotency_key=key,
        request_hash=hashed,
        created_by=by,
        created_at=at,
        state_since=at,
        next_check_at=at,
    )


def announce(session: Session, run: Run, *, by: str, at: datetime) -> None:
    events.append(
        session,
        kind="run.created",
        text=f"Run {run.name} was launched",
        at=at,
        run_id=run.id,
        data={"kind": run.kind.value, "sweep_id": run.sweep_id},
        actor=by,
    )


def warn(session: Session, run: Run, made: Draft, *, at: datetime) -> None:
    """Keep what the plan warned of with the run: who looks at it later did not see the dry run."""
    for number, text in enumerate(made.plan.warnings, start=1):
        facts.add_finding(
            session,
            Finding(
                run_id=run.id,
                attempt=run.attempt,
                code=f"plan.{number}",
                severity="warning",
                text=text,
                step=None,
                at=at,
            ),
        )


def ensure_experiment(
    session: Session, name: str, *, at: datetime, ids: IdFactory, description: str = ""
) -> Experiment:
    return experiments.ensure(
        session, Experiment(id=ids(), name=name, description=description, created_at=at)
    )


def get_run(session: ReadSession, run_id: str) -> Run:
    run = session.get(Run, run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id!r}")
    return run
