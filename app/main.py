"""The web process: routes, pages, the one error handler, and what lives as long as it."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from app import web
from app.api import error_handlers, internal
from app.api.deps import Context
from app.api.router import router as api_router
from app.clock import Clock, system_clock
from app.db.engine import Sessions, make_engine, make_sessions
from app.db.migrate import require_head
from app.ids import IdFactory, new_id
from app.services.specs import RenderScripts, SpecLayers, render_nothing
from app.settings import Settings
from app.specfile import presets, read_document
from app.webhooks import targets

PRESETS = Path(__file__).resolve().parent / "presets"


def create_app(
    settings: Settings,
    *,
    sessions: Sessions | None = None,
    clock: Clock = system_clock,
    ids: IdFactory = new_id,
    render_script: RenderScripts | None = None,
) -> FastAPI:
    """The application. Without ``sessions`` it opens the configured database when it starts, and
    refuses to start when that is not at this program's revision."""

    def context(use: Sessions) -> Context:
        return Context(
            settings=settings,
            sessions=use,
            clock=clock,
            ids=ids,
            render_scripts=render_script or render_nothing,
            layers=load_layers(settings),
            check_target=lambda url: _check(settings, url),
        )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        if sessions is not None:
            yield
            return
        engine = make_engine(settings.resolved_database_url)
        require_head(engine)
        app.state.context = context(make_sessions(engine))
        yield
        engine.dispose()

    app = FastAPI(
        title="Skydeck",
        version=version("skydeck"),
        lifespan=lifespan,
        docs_url="/api/docs",
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    if sessions is not None:
        app.state.context = context(sessions)
    app.include_router(api_router)
    app.include_router(internal.router)
    app.include_router(web.router)
    web.mount_static(app)
    error_handlers.install(app, web.render_error)
    return app


def load_layers(settings: Settings) -> SpecLayers:
    """Site profile and presets, read once: a change needs a restart."""
    profile: Mapping[str, Any] = (
        read_document(settings.site_profile) if settings.site_profile else {}
    )
    return SpecLayers(
        profile=profile,
        presets={name: read_document(path) for name, path in presets(PRESETS).items()},
    )


def _check(settings: Settings, url: str) -> None:
    targets.choose(url, settings.webhook_allow)
