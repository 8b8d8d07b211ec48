"""Experiments and sweeps."""

from fastapi import APIRouter, Response

from app.domain.states import RUN_FINAL
from app.services import views_groups
from app.web.shell import Shell, Ui

router = APIRouter()


@router.get("/experiments")
def experiments(ui: Ui) -> Response:
    found = views_groups.experiments(ui.session)
    return ui.page("experiments/index.html", current="/experiments", experiments=found)


@router.get("/sweeps")
def sweeps(ui: Ui) -> Response:
    return ui.page("sweeps/index.html", current="/sweeps", sweeps=views_groups.sweeps(ui.session))


@router.get("/sweeps/{sweep_id}")
def sweep(ui: Ui, sweep_id: str) -> Response:
    return ui.page(
        "sweeps/detail.html", current="/sweeps", stream="/events", **_sweep(ui, sweep_id)
    )


@router.get("/sweeps/{sweep_id}/fragments/grid")
def grid(ui: Ui, sweep_id: str) -> Response:
    return ui.fragment("sweeps/_grid.html", **_sweep(ui, sweep_id))


def _sweep(ui: Shell, sweep_id: str) -> dict[str, object]:
    view = views_groups.sweep(ui.session, sweep_id)
    return {"view": view, "live": not set(view.summary.by_state) <= RUN_FINAL}
