"""A sweep: one document, a grid over its keys, one run per point of the grid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db import events, experiments, intents
from app.db.engine import ReadSession
from app.db.tables import Sweep
from app.domain.spec import merge
from app.domain.sweep import expand, label
from app.errors import Conflict, Invalid
from app.ids import IdFactory
from app.services import launch
from app.services.specs import Draft, Preset, SpecLayers, draft


@dataclass(frozen=True)
class SweepRequest:
    document: Mapping[str, Any]
    grid: Mapping[str, Sequence[Any]]
    parallel: int
    name: str | None = None
    preset: Preset | None = None

    @property
    def hashed(self) -> str:
        grid = list(self.grid.items())  # the order of the keys decides the order of the runs
        asked = {"spec": self.document, "grid": grid, "n": self.parallel, "name": self.name}
        return launch.request_hash(asked, preset=self.preset)


def create(
    session: Session,
    request: SweepRequest,
    *,
    layers: SpecLayers,
    key: str | None,
    by: str,
    at: datetime,
    ids: IdFactory,
) -> tuple[Sweep, bool]:
    """The sweep with all its runs, and whether this call made it: all of them or none.

    Raises Invalid naming each point of the grid that cannot run; Conflict when the key was used
    for another request.
    """
    if key is not None and (known := _repeated(session, key, request)) is not None:
        return known, False
    points = _drafts(request, layers)
    sweep = _new_sweep(session, request, points[0], key=key, at=at, ids=ids)
    try:
        with session.begin_nested():
            session.add(sweep)
    except IntegrityError:  # the same key won in another transaction
        known = _repeated(session, key, request) if key is not None else None
        if known is None:
            raise
        return known, False
    for index, made in enumerate(points):
        run = launch.new_run(
            session,
            made,
            key=None,
            hashed=request.hashed,
            by=by,
            at=at,
            ids=ids,
            sweep_id=sweep.id,
            sweep_index=index,
        )
        intents.insert_run(session, run)
        launch.announce(session, run, by=by, at=at)
        launch.warn(session, run, made, at=at)
    events.append(
        session,
        kind="sweep.created",
        text=f"Sweep {sweep.name} was created with {len(points)} runs",
        at=at,
        data={"sweep_id": sweep.id, "runs": len(points), "parallel": sweep.parallel},
        actor=by,
    )
    return sweep, True


def _drafts(request: SweepRequest, layers: SpecLayers) -> list[Draft]:
    drafts: list[Draft] = []
    problems: list[str] = []
    base = str(request.document.get("name", "sweep"))
    for index, overrides in expand(request.grid):
        point = label(request.grid, overrides)
        document = {**merge(request.document, overrides), "name": f"{base} {point}"[:100]}
        try:
            made = draft(document, layers=layers, preset=request.preset)
        except Invalid as error:
            problems.append(f"point {index} ({point}): {error.detail}")
            continue
        problems += [f"point {index} ({point}): {problem}" for problem in made.plan.problems]
        drafts.append(made)
    if problems:
        raise Invalid("\n".join(problems[:20]), code="invalid_sweep")
    return drafts


def _new_sweep(
    session: Session,
    request: SweepRequest,
    first: Draft,
    *,
    key: str | None,
    at: datetime,
    ids: IdFactory,
) -> Sweep:
    experiment = launch.ensure_experiment(session, first.spec.experiment, at=at, ids=ids)
    return Sweep(
        id=ids(),
        experiment_id=experiment.id,
        name=request.name or str(request.document.get("name", "sweep"))[:100],
        spec=dict(request.document),
        grid={name: list(values) for name, values in request.grid.items()},
        parallel=request.parallel,
        idempotency_key=key,
        request_hash=request.hashed,
        created_at=at,
    )


def _repeated(session: ReadSession, key: str, request: SweepRequest) -> Sweep | None:
    known = experiments.sweep_by_key(session, key)
    if known is not None and known.request_hash != request.hashed:
        raise Conflict(
            f"the idempotency key {key!r} was used for sweep {known.id} with another body: "
            "send a new key for a new sweep",
            code="idempotency_key_reused",
        )
    return known
