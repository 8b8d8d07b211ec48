"""The control plane knows this runtime: registration, then heartbeats."""

import asyncio
import logging

from workers.contract.exit_record import ExitResult
from workers.contract.registration import RegisterRuntime
from workers.contract.version import CONTRACT_VERSION
from workers.control_plane import AsyncControlPlane, Unavailable
from workers.runtime.ending import Ending, Stop
from workers.runtime.service import RuntimeService

log = logging.getLogger(__name__)

SILENT_PAUSE_S = 5.0


async def keep_known(
    control_plane: AsyncControlPlane, service: RuntimeService, url: str, stop: Stop
) -> None:
    """Registers, then sends heartbeats. A silent control plane changes nothing here: running
    rollouts need none. Superseded and Conflict end the job."""
    while True:
        try:
            pause = (await control_plane.register_runtime(_registration(service, url))).heartbeat_s
            break
        except Unavailable as error:
            log.warning("registration: %s", error)
            await asyncio.sleep(SILENT_PAUSE_S)
    service.not_ready = ""
    log.info("registered")
    while True:
        await _heartbeat(control_plane, service, stop)
        await asyncio.sleep(pause)


async def _heartbeat(control_plane: AsyncControlPlane, service: RuntimeService, stop: Stop) -> None:
    message = service.heartbeat()
    try:
        answer = await control_plane.runtime_heartbeat(message)
    except Unavailable as error:
        log.warning("heartbeat: %s", error)
        return
    service.sandboxes.acknowledge(message.sandboxes)
    if answer.drain:
        service.sandboxes.close_door()
    drained = service.sandboxes.draining and service.sandboxes.slots.used == 0
    if answer.stop or drained:
        stop(Ending(ExitResult.DRAINED, "the control plane said stop"))


def _registration(service: RuntimeService, url: str) -> RegisterRuntime:
    identity = service.identity
    return RegisterRuntime(
        contract_version=CONTRACT_VERSION,
        run_id=identity.attempt.run_id,
        attempt=identity.attempt.attempt,
        index=identity.index,
        generation=identity.generation,
        job_name=identity.job_name,
        scheduler_job_id=identity.scheduler_job_id,
        hostname=identity.hostname,
        pid=identity.pid,
        url=url,
        slots=service.sandboxes.slots.total,
        engine=service.engine,
        limits=service.limits,
    )
