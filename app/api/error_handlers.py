"""The one place where errors become answers: ``{"error": code, "detail": text}``."""

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from app.errors import AppError, Invalid, NotFound, Unavailable

log = logging.getLogger(__name__)


Page = Callable[[Request, AppError], Response]


def install(app: FastAPI, page: Page) -> None:
    """``page`` shows an error to people; below ``/api/`` it is JSON."""

    def handle(request: Request, error: Exception) -> Response:
        known = translate(error)
        if known.status >= 500 and not isinstance(known, Unavailable):
            log.error("request failed", exc_info=error, extra={"path": request.url.path})
        show = as_json if request.url.path.startswith("/api/") else page
        return show(request, known)

    for kind in (AppError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def as_json(request: Request, known: AppError) -> Response:
    return JSONResponse(
        {"error": known.code, "detail": known.detail},
        status_code=known.status,
        headers=_headers(known),
    )


def translate(error: Exception) -> AppError:
    """Any exception as one of ours; an unexpected one keeps its text to itself."""
    match error:
        case AppError():
            return error
        case RequestValidationError():
            return Invalid("\n".join(_lines(error)))
        case HTTPException(status_code=404):
            return NotFound()
        case HTTPException():
            answer = AppError(str(error.detail), code="http_error")
            answer.status = error.status_code
            return answer
        case _:
            return AppError("Skydeck failed; its log says why.", code="internal")


def _lines(error: RequestValidationError) -> list[str]:
    return [
        f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
        for problem in error.errors()
    ]


def _headers(error: AppError) -> dict[str, str]:
    if isinstance(error, Unavailable):
        return {"Retry-After": str(error.retry_after_s)}
    return {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
