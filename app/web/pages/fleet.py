"""Runtimes and sandboxes of all runs."""

from fastapi import APIRouter, Response

from app.services import views_fleet
from app.web.shell import Shell, Ui

router = APIRouter()


@router.get("/runtimes")
def show(ui: Ui, closed: bool = False) -> Response:
    parts = _fleet(ui, closed)
    return ui.page(
        "fleet/index.html", current="/runtimes", stream="/events", closed=closed, **parts
    )


@router.get("/runtimes-list")
def fragment(ui: Ui, closed: bool = False) -> Response:
    return ui.fragment("fleet/_fleet.html", **_fleet(ui, closed))


def _fleet(ui: Shell, closed: bool) -> dict[str, object]:
    stale_after = ui.here.settings.stale_after
    found = views_fleet.fleet(ui.session, ui.here.clock(), stale_after, closed=closed)
    return {"fleet": found, "live": not closed}
