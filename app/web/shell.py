"""What every page is given: who asks, a session, the clock, and how to answer."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse

from app.api.deps import Context, Here, Reader, Signed, WriteSession
from app.db.engine import ReadSession
from app.services import health, views_fleet
from app.services.tokens import User
from app.web import render
from app.web.pages.registry import NAVIGATION
from app.web.security import require_same_origin


@dataclass(frozen=True)
class Shell:
    request: Request
    here: Context
    user: User
    session: ReadSession

    def page(self, template: str, *, current: str = "", status: int = 200, **more: Any) -> Response:
        """A whole page, with navigation and the health strip."""
        return render.page(
            self.request,
            template,
            status,
            now=self.here.clock(),
            user=self.user,
            nav=NAVIGATION,
            current=current,
            health=self.health(),
            **more,
        )

    def fragment(self, template: str, **more: Any) -> Response:
        return render.page(self.request, template, now=self.here.clock(), **more)

    def health(self) -> views_fleet.Health:
        late_after = health.late(self.here.settings)
        return views_fleet.health(self.session, self.here.clock(), late_after)


def _shell(request: Request, here: Here, user: Signed, session: Reader) -> Shell:
    return Shell(request, here, user, session)


Ui = Annotated[Shell, Depends(_shell)]
Writer = WriteSession
needs_own_form = Depends(require_same_origin)


def see_other(path: str) -> Response:
    """After a form: the browser fetches ``path``, and a reload sends nothing again."""
    return RedirectResponse(path, 303)
