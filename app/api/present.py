"""Read models as the shapes of the API."""

from typing import Any

from app.api.schemas import (
    AttemptOut,
    Body,
    JobOut,
    RolloutDetailOut,
    RolloutOut,
    RunDetailOut,
    RunOut,
    SweepDetailOut,
    SweepOut,
    SweepRunOut,
    TotalsOut,
    TruthOut,
)
from app.db.engine import ReadSession
from app.db.tables import Attempt, Run
from app.services import views_groups, views_overview, views_rollout, views_run
from app.services.views_groups import SweepPoint, SweepRow, SweepView
from app.services.views_overview import RunOutline


def run(row: RunOutline) -> RunOut:
    return RunOut.model_validate(_run(row.run, row.experiment, row.attempt))


def run_by_id(session: ReadSession, run_id: str) -> RunOut:
    found = views_run.get_run(session, run_id)
    return run(views_overview.outlines(session, [found])[0])


def run_detail(session: ReadSession, run_id: str) -> RunDetailOut:
    head = views_run.head(session, run_id)
    learning = views_run.learning(session, head.run)
    experiment = head.experiment.name if head.experiment else ""
    return RunDetailOut.model_validate(
        {
            **_run(head.run, experiment, head.attempt),
            "spec": head.run.spec,
            "origins": head.run.origins,
            "truths": {truth.key: TruthOut.model_validate(truth) for truth in learning.truths},
            "totals": TotalsOut.model_validate(learning.totals),
            "jobs": [JobOut.model_validate(job) for job in views_run.jobs(session, run_id)],
            "attempts": [
                AttemptOut.model_validate(one) for one in views_run.attempts(session, run_id)
            ],
        }
    )


def _run(row: Run, experiment: str, attempt: Attempt | None) -> dict[str, Any]:
    own = {name: getattr(row, name) for name in RunOut.model_fields if hasattr(row, name)}
    return {
        **own,
        "experiment": experiment,
        "phase": attempt.phase if attempt else "",
        "step": attempt.step if attempt else 0,
        "steps_total": attempt.steps_total if attempt else 0,
    }


def rollout_detail(session: ReadSession, run_id: str, rollout_id: str) -> RolloutDetailOut:
    view = views_rollout.show(session, rollout_id, run_id)
    body = {name: getattr(view.body, name) for name in Body.model_fields}
    outline = RolloutOut.model_validate(view.rollout).model_dump()
    return RolloutDetailOut.model_validate({**outline, **body, "unreadable": view.unreadable})


def sweep(row: SweepRow) -> SweepOut:
    return SweepOut.model_validate(_sweep(row))


def sweep_detail(session: ReadSession, sweep_id: str) -> SweepDetailOut:
    view = views_groups.sweep(session, sweep_id)
    points = [_point(view, point) for point in view.points]
    return SweepDetailOut.model_validate({**_sweep(view.summary), "points": points})


def _sweep(row: SweepRow) -> dict[str, Any]:
    own = ("id", "name", "parallel", "grid", "created_at")
    shown = {name: getattr(row.sweep, name) for name in own}
    return {**shown, "experiment": row.experiment, "runs": row.by_state}


def _point(view: SweepView, point: SweepPoint) -> SweepRunOut:
    row = point.row.run
    first, last = point.row.reward or (None, None)
    return SweepRunOut(
        run_id=row.id,
        index=row.sweep_index,
        name=row.name,
        values=dict(zip(view.axes, point.values, strict=True)),
        state=row.state,
        reason=row.reason,
        first_reward=first,
        final_reward=last,
    )
