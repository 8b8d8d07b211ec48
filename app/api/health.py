"""Whether Skydeck itself is well: the only route that asks for no token, and it tells no secret."""

from fastapi import APIRouter

from app.api.deps import Here
from app.api.responses import errors
from app.api.schemas_installation import HealthOut
from app.services import health

router = APIRouter(tags=["health"])


@router.get("/health", response_model=HealthOut, responses=errors())
def show(here: Here) -> health.Health:
    """``ok`` is false while the reconciler is silent, the scheduler does not answer, or the
    database is not at this program's revision."""
    return health.look(here.sessions, here.settings, now=here.clock())
