"""The dashboard: pages for people, rendered here, useful without JavaScript."""

from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.staticfiles import StaticFiles

from app.web import pages, stream
from app.web.errors import render_error

STATIC = Path(__file__).resolve().parent / "static"

router = APIRouter(include_in_schema=False)
for _page in pages.routers():
    router.include_router(_page)
router.include_router(stream.router)


def mount_static(app: FastAPI) -> None:
    app.mount("/static", StaticFiles(directory=STATIC), name="static")


__all__ = ["mount_static", "render_error", "router"]
