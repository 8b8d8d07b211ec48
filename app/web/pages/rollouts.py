"""Rollouts of a run, and the transcript of one."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.services import views_rollout, views_run
from app.services.views_run import RolloutFilter
from app.web.shell import Ui
from workers.contract.reports import InvalidReason, RolloutEnd, RolloutState

router = APIRouter(prefix="/runs/{run_id}/rollouts")

MAX_TURNS = 200
_YES_NO = {"true": True, "false": False}


def _wanted(
    step: str = "",
    state: str = "",
    end: str = "",
    invalid: str = "",
    passed: str = "",
    validation: str = "",
    task: str = "",
    before: str = "",
) -> RolloutFilter:
    """A filter from the query. Browsers send empty fields; what is no value means any."""
    return RolloutFilter(
        step=int(step) if step.isdecimal() and len(step) < 10 else None,
        state=RolloutState(state) if state in set(RolloutState) else None,
        end=RolloutEnd(end) if end in set(RolloutEnd) else None,
        invalid=InvalidReason(invalid) if invalid in set(InvalidReason) else None,
        passed=_YES_NO.get(passed),
        validation=_YES_NO.get(validation),
        task=task.strip(),
        before=before or None,
    )


@router.get("")
def index(ui: Ui, run_id: str, wanted: Annotated[RolloutFilter, Depends(_wanted)]) -> Response:
    return ui.page(
        "rollouts/index.html",
        current="/",
        head=views_run.head(ui.session, run_id),
        rollouts=views_run.rollouts(ui.session, run_id, wanted),
        wanted=wanted,
        states=(RolloutState.SCORED, RolloutState.INVALID, RolloutState.CANCELLED),
        ends=list(RolloutEnd),
        invalids=list(InvalidReason),
    )


@router.get("/{rollout_id}")
def show(ui: Ui, run_id: str, rollout_id: str) -> Response:
    return ui.page(
        "rollouts/detail.html",
        current="/",
        run=views_run.get_run(ui.session, run_id),
        view=views_rollout.show(ui.session, rollout_id, run_id),
        max_turns=MAX_TURNS,
    )
