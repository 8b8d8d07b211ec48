"""Whether Skydeck itself is well."""

from fastapi import APIRouter, Response
from sqlalchemy import Engine

from app.schedulers import choose
from app.services.health import late
from app.web.shell import Ui

router = APIRouter()


@router.get("/health")
def show(ui: Ui) -> Response:
    engine: Engine = ui.here.sessions.kw["bind"]
    settings = ui.here.settings
    return ui.page(
        "health/index.html",
        current="/health",
        settings=settings,
        chosen=choose(settings),
        dialect=engine.dialect.name,
        late_s=late(settings).total_seconds(),
    )


@router.get("/health-strip")
def strip(ui: Ui) -> Response:
    return ui.fragment("health/_strip.html", health=ui.health())
