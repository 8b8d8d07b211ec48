"""What routes depend on: who asks, and one transaction per request."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Header, Query, Request
from fastapi.security import HTTPBearer
from sqlalchemy.orm import Session

from app.clock import Clock
from app.db import tokens as token_rows
from app.db.engine import ReadSession, Sessions, open_read
from app.domain.states import Role
from app.errors import Forbidden, Unauthenticated, Unavailable
from app.ids import IdFactory
from app.services import tokens, workers
from app.services.specs import RenderScripts, SpecLayers, render_nothing
from app.services.tokens import User
from app.services.workers import Worker
from app.settings import Settings

COOKIE = "skydeck_token"
"""Set by the sign-in page: HttpOnly, SameSite=Strict."""
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True)
class Context:
    """What the application was made of; lives at ``app.state.context``."""

    settings: Settings
    sessions: Sessions
    clock: Clock
    ids: IdFactory
    render_scripts: RenderScripts = render_nothing
    layers: SpecLayers = field(default_factory=SpecLayers)
    check_target: Callable[[str], None] = lambda url: None


def get_context(request: Request) -> Context:
    return request.app.state.context


Here = Annotated[Context, Depends(get_context)]


def write_session(context: Here) -> Iterator[Session]:
    """One transaction: committed when the route returns, before the answer is sent."""
    with context.sessions.begin() as session:
        yield session


def read_session(context: Here) -> Iterator[Session]:
    with open_read(context.sessions) as session:
        yield session


# Scope "function": with the default, the commit would come after the client has its answer.
WriteSession = Annotated[Session, Depends(write_session, scope="function")]
Reader = Annotated[ReadSession, Depends(read_session, scope="function")]


def current_user(request: Request) -> User:
    """The person behind the Authorization header or the cookie.

    Raises Unauthenticated; Forbidden when a cookie comes with a write from another site.
    """
    context = get_context(request)
    clear = _bearer(request)
    if clear is None:
        clear = request.cookies.get(COOKIE)
        if clear is not None:
            _require_same_origin(request)
    if not clear:
        raise Unauthenticated()
    now = context.clock()
    with open_read(context.sessions) as session:
        user = tokens.authenticate(session, clear, now=now)
    if tokens.needs_touch(user, now):
        # A full disk or a busy writer must not keep people from looking.
        with suppress(Unavailable), context.sessions.begin() as session:
            token_rows.touch(session, user.token_id, now)
    return user


def _bearer(request: Request) -> str | None:
    kind, _, value = request.headers.get("Authorization", "").partition(" ")
    return value.strip() if kind.lower() == "bearer" else None


def _require_same_origin(request: Request) -> None:
    """SameSite ignores ports: on a shared login node another user's server is the same site."""
    origin = request.headers.get("Origin")
    if request.method in _SAFE or origin is None:
        return
    if urlsplit(origin).netloc != request.headers.get("Host"):
        raise Forbidden("this request comes from another site")


_scheme = HTTPBearer(auto_error=False, description="A token made with `skydeck token create`")
Signed = Annotated[User, Depends(current_user)]


def _worker(role: Role) -> Callable[[Request], Worker]:
    def find(request: Request) -> Worker:
        clear = _bearer(request)
        if not clear:
            raise Unauthenticated()
        with open_read(get_context(request).sessions) as session:
            return workers.authenticate(session, clear, role)

    return find


RuntimeWorker = Annotated[Worker, Depends(_worker(Role.RUNTIME))]
TrainerWorker = Annotated[Worker, Depends(_worker(Role.TRAINER))]

needs_user = (Depends(_scheme), Depends(current_user))
shows_bearer = (Depends(_scheme),)

Limit = Annotated[int, Query(ge=1, le=500)]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="The same key and body again: the same answer, nothing is made twice.",
    ),
]
