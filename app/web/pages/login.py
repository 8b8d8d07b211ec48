"""Log in with a token, log out."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from app.api.deps import COOKIE, Here, Reader
from app.errors import Unauthenticated
from app.services import tokens
from app.web import render
from app.web.security import HEADERS, set_cookie
from app.web.shell import needs_own_form, see_other

router = APIRouter()


@router.get("/login")
def show(
    request: Request,
    here: Here,
    session: Reader,
    token: str = "",
    back: Annotated[str, Query(alias="next")] = "/",
) -> Response:
    """With ``token`` (the link that ``skydeck up`` prints): log in at once and hide the token."""
    if token:
        return _log_in(request, here, session, token, back)
    return _form(request, back)


@router.post("/login", dependencies=[needs_own_form])
def log_in(
    request: Request,
    here: Here,
    session: Reader,
    token: Annotated[str, Form()],
    back: Annotated[str, Form(alias="next")] = "/",
) -> Response:
    return _log_in(request, here, session, token.strip(), back)


@router.post("/logout", dependencies=[needs_own_form])
def log_out() -> Response:
    answer = see_other("/login")
    answer.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return answer


def _log_in(request: Request, here: Here, session: Reader, token: str, back: str) -> Response:
    try:
        tokens.authenticate(session, token, now=here.clock())
    except Unauthenticated:
        text = "This token is unknown, expired or revoked. `skydeck token create` makes a new one."
        return _form(request, back, text, 401)
    answer = see_other(local(back))
    answer.headers.update(HEADERS)
    set_cookie(request, answer, token)
    return answer


def _form(request: Request, back: str, problem: str = "", status: int = 200) -> Response:
    return render.page(request, "login/index.html", status, next=local(back), problem=problem)


def local(path: str) -> str:
    """Only a path of this site: ``//host`` and ``/\\host`` would lead elsewhere."""
    inside = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if inside else "/"
