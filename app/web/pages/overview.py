"""The run list."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from app.domain.states import RunState
from app.services import views_overview
from app.services.views_overview import RunFilter
from app.web.shell import Shell, Ui

router = APIRouter()


def _wanted(
    state: str = "",
    experiment: str = "",
    sweep: str = "",
    q: str = "",
    before: str = "",
) -> RunFilter:
    """A filter from the query; an unknown state means any, as in an old bookmark."""
    return RunFilter(
        state=RunState(state) if state in set(RunState) else None,
        active=state == "active",
        experiment=experiment or None,
        sweep=sweep or None,
        text=q.strip(),
        before=before or None,
    )


Wanted = Annotated[RunFilter, Depends(_wanted)]


@router.get("/")
def show(ui: Ui, wanted: Wanted) -> Response:
    return ui.page(
        "overview/index.html",
        current="/",
        stream="/events",
        states=list(RunState),
        choices=views_overview.choices(ui.session),
        **_runs(ui, wanted),
    )


@router.get("/runs-list")
def runs(ui: Ui, wanted: Wanted) -> Response:
    return ui.fragment("overview/_runs.html", **_runs(ui, wanted))


def _runs(ui: Shell, wanted: RunFilter) -> dict[str, object]:
    return {
        "page": views_overview.list_runs(ui.session, wanted),
        "wanted": wanted,
        "filtered": wanted != RunFilter(),
        # Older pages do not change under the reader.
        "live": wanted.before is None,
    }
