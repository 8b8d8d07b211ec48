"""Errors as pages."""

from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse, RedirectResponse

from app.errors import AppError, Unavailable
from app.web import render
from app.web.security import HEADERS

TITLES = {
    401: "Please log in",
    403: "Not allowed",
    404: "Not found",
    405: "Not possible this way",
    409: "This contradicts what was accepted before",
    422: "That cannot be done as asked",
    503: "Not now",
}


def render_error(request: Request, error: AppError) -> Response:
    """Who is not logged in goes to the login page and comes back afterwards."""
    if error.status == 401 and request.url.path != "/login":
        return _to_login(request)
    if "HX-Request" in request.headers:
        # htmx leaves the old fragment in place when an answer is an error.
        answer: Response = PlainTextResponse(error.detail, error.status, HEADERS)
    else:
        answer = render.page(
            request,
            "error.html",
            error.status,
            title=TITLES.get(error.status, "Something went wrong"),
            detail=error.detail,
            code=error.code,
            http_status=error.status,
        )
    if isinstance(error, Unavailable):
        answer.headers["Retry-After"] = str(error.retry_after_s)
    return answer


def _to_login(request: Request) -> Response:
    if "HX-Request" in request.headers:
        return Response(status_code=401, headers={**HEADERS, "HX-Redirect": "/login"})
    query = f"?{request.url.query}" if request.url.query else ""
    back = request.url.path + query if request.method == "GET" else "/"
    target = "/login" if back == "/" else f"/login?next={quote(back, safe='')}"
    return RedirectResponse(target, 303, HEADERS)
