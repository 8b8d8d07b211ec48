"""What every answer of the dashboard carries, and what every form must prove."""

from urllib.parse import urlsplit

from fastapi import Request, Response

from app.api.deps import COOKIE
from app.errors import Forbidden

COOKIE_SECONDS = 30 * 24 * 3600

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # A login link carries the token in its query: it must not travel on as a referrer.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def set_cookie(request: Request, response: Response, token: str) -> None:
    response.set_cookie(
        COOKIE,
        token,
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
        path="/",
    )


def require_same_origin(request: Request) -> None:
    """Refuse a form that another site sent. Raises Forbidden.

    ``SameSite=Strict`` keeps the cookie from other sites, but a site includes every port of this
    host, and on a shared login node other people own those. Host and Origin are compared whole.
    """
    origin = request.headers.get("origin") or request.headers.get("referer")
    host = request.headers.get("host", "")
    if not origin or urlsplit(origin).netloc != host:
        raise Forbidden("this form was not sent from Skydeck's own page: open the page again")
