"""Experiments: groups of runs that belong to one question."""

from fastapi import APIRouter, Response

from app.api.deps import Here, Reader, WriteSession
from app.api.responses import errors
from app.api.schemas import ExperimentIn, ExperimentOut, Page
from app.services import experiments

router = APIRouter(prefix="/experiments", tags=["experiments"])


@router.post("", status_code=201, response_model=ExperimentOut, responses=errors())
def create(
    body: ExperimentIn, session: WriteSession, here: Here, response: Response
) -> experiments.ExperimentView:
    """Make one, or get the one of this name (then 200)."""
    shown, made = experiments.create(
        session, body.name, description=body.description, at=here.clock(), ids=here.ids
    )
    response.status_code = 201 if made else 200
    return shown


@router.get("", response_model=Page[ExperimentOut], responses=errors())
def index(session: Reader) -> dict[str, object]:
    return {"items": experiments.every(session), "next_cursor": None}


@router.get("/{experiment}", response_model=ExperimentOut, responses=errors(404))
def show(experiment: str, session: Reader) -> experiments.ExperimentView:
    """By id or by name."""
    return experiments.get(session, experiment)
