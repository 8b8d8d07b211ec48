"""For workers: bodies come from the contract, tokens belong to one attempt and one role."""

from fastapi import APIRouter

from app.api.deps import Here, RuntimeWorker, TrainerWorker, WriteSession, shows_bearer
from app.api.responses import errors
from app.services import broker, ingest
from app.services.broker import Times
from workers.contract.leases import LeaseAnswer, LeaseRequest
from workers.contract.registration import (
    HeartbeatAnswer,
    Registered,
    RegisterRuntime,
    RegisterTrainer,
    RuntimeHeartbeat,
    TrainerHeartbeat,
)
from workers.contract.reports import ReportAnswer, ReportBatch

router = APIRouter(prefix="/api/internal", tags=["workers"], dependencies=list(shows_bearer))
_ERRORS = errors(409, 410)


@router.post("/runtimes/register", response_model=Registered, responses=_ERRORS)
def register_runtime(
    body: RegisterRuntime, session: WriteSession, here: Here, worker: RuntimeWorker
) -> Registered:
    broker.register_runtime(session, worker, body, at=here.clock())
    return Registered(heartbeat_s=here.settings.heartbeat.total_seconds())


@router.post("/runtimes/heartbeat", response_model=HeartbeatAnswer, responses=_ERRORS)
def runtime_heartbeat(
    body: RuntimeHeartbeat, session: WriteSession, here: Here, worker: RuntimeWorker
) -> HeartbeatAnswer:
    return broker.runtime_heartbeat(session, worker, body, at=here.clock())


@router.post("/trainers/register", response_model=Registered, responses=_ERRORS)
def register_trainer(
    body: RegisterTrainer, session: WriteSession, here: Here, worker: TrainerWorker
) -> Registered:
    broker.register_trainer(session, worker, body, at=here.clock())
    return Registered(heartbeat_s=here.settings.heartbeat.total_seconds())


@router.post("/trainers/heartbeat", response_model=HeartbeatAnswer, responses=_ERRORS)
def trainer_heartbeat(
    body: TrainerHeartbeat, session: WriteSession, here: Here, worker: TrainerWorker
) -> HeartbeatAnswer:
    return broker.trainer_heartbeat(session, worker, body, at=here.clock())


@router.post("/leases", response_model=LeaseAnswer, responses=_ERRORS)
def leases(
    body: LeaseRequest, session: WriteSession, here: Here, worker: TrainerWorker
) -> LeaseAnswer:
    times = Times(here.settings.stale_after, here.settings.lease)
    return broker.grant_leases(session, worker, body, at=here.clock(), times=times, ids=here.ids)


@router.post("/reports", response_model=ReportAnswer, responses=_ERRORS)
def reports(
    body: ReportBatch, session: WriteSession, here: Here, worker: TrainerWorker
) -> ReportAnswer:
    return ReportAnswer(accepted=ingest.take(session, worker, body, at=here.clock()))
