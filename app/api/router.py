"""All routes of ``/api/v1``; every one but health asks for a person's token."""

from fastapi import APIRouter

from app.api import experiments, fleet, health, run_parts, runs, sweeps, tokens, webhooks
from app.api.deps import needs_user

_signed = APIRouter(dependencies=list(needs_user))
for _module in (experiments, runs, run_parts, sweeps, webhooks, tokens, fleet):
    _signed.include_router(_module.router)

router = APIRouter(prefix="/api/v1")
router.include_router(_signed)
router.include_router(health.router)
