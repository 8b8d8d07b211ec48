"""A runtime job from its start to its exit record."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import replace
from pathlib import Path

from workers import ownership, preflight
from workers.contract import env
from workers.contract.exit_record import ExitResult
from workers.contract.sandbox_api import Limit, StopReason
from workers.control_plane import (
    AsyncControlPlane,
    Conflict,
    ControlPlaneError,
    Superseded,
    Unavailable,
    read_address,
)
from workers.runtime import limits
from workers.runtime.auth import TokenCheck, read_token
from workers.runtime.clock import Clock
from workers.runtime.ending import (
    Ending,
    Stop,
    Stopped,
    record_path,
    until_stopped,
    write_exit_record,
)
from workers.runtime.engine import Engine, EngineError, LimitNotEnforced, SandboxRuntimeError
from workers.runtime.podman import PodmanEngine
from workers.runtime.podman_home import HOMES, PodmanHome, PodmanService, home_for
from workers.runtime.pool import Pool
from workers.runtime.presence import keep_known
from workers.runtime.sandboxes import Sandboxes
from workers.runtime.server import create_app, listen, own_address, serving
from workers.runtime.service import Identity, RuntimeService
from workers.runtime.settings import RuntimeSettings
from workers.runtime.slots import Slots
from workers.runtime.toolserver.build import ToolServerBuildError, build

log = logging.getLogger(__name__)

TICK_S = 1.0
DRAIN_S = 4.0
LAST_HEARTBEAT_S = 2.0


async def run(settings: RuntimeSettings) -> Ending:
    """Serves until told to stop. Never raises for anything that a node or engine can do."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        ending = Ending(ExitResult.DRAINED, f"told to stop by {number.name}")
        loop.add_signal_handler(number, stop, ending)
    try:
        return await _guarded(settings, stop)
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def _guarded(settings: RuntimeSettings, stop: Stop) -> Ending:
    try:
        return await _work(settings, stop)
    except Stopped as stopped:
        ending = stopped.ending
    except (ToolServerBuildError, LimitNotEnforced) as error:
        ending = Ending(ExitResult.PREFLIGHT_FAILED, str(error))
    except (SandboxRuntimeError, ControlPlaneError, OSError, ValueError) as error:
        log.exception("the runtime failed")
        ending = Ending(ExitResult.FAILED, f"{type(error).__name__}: {error}")
    write_exit_record(settings, ending)
    return ending


async def _work(settings: RuntimeSettings, stop: Stop) -> Ending:
    _preflight(settings)
    token = read_token(settings.attempt_dir / env.TOKEN_SANDBOX)
    async with _engine(settings, stop) as (engine, home):
        spec = settings.attempt.spec.runtime
        await until_stopped(stop, _load_images(engine, settings))
        pool = _pool(engine, home, settings)
        clock = Clock()
        sandboxes = Sandboxes(Slots(spec.slots), pool, clock)
        service = RuntimeService(
            identity=_identity(settings),
            sandboxes=sandboxes,
            check_token=TokenCheck(token),
            engine=engine.description,
        )
        service.limits = await until_stopped(stop, _probe(engine, pool, settings))
        for limit in service.limits:
            log.info("limit %s: enforced=%s (%s)", limit.name, limit.enforced, limit.evidence)
        return await _serve(settings, service, pool, stop)


def _preflight(settings: RuntimeSettings) -> None:
    archives = map(Path, settings.attempt.spec.runtime.image_archives)
    checks = preflight.check_runtime(
        preflight.this_node(settings.path), settings.temporary, archives
    )
    bad = preflight.failed(checks)
    if bad:
        text = "; ".join(check.text() for check in bad)
        raise Stopped(Ending(ExitResult.PREFLIGHT_FAILED, text))


@contextlib.asynccontextmanager
async def _engine(
    settings: RuntimeSettings, stop: Stop
) -> AsyncGenerator[tuple[Engine, PodmanHome], None]:
    tool_server = await asyncio.to_thread(build, settings.cache)
    home = _home(settings)
    await until_stopped(stop, _remove_abandoned(home, settings, spare=home.root))
    opening = PodmanEngine.open(home, settings.path, tool_server)
    engine = await until_stopped(stop, opening)
    log.info("%s in %s", engine.description, home.root)
    try:
        yield engine, home
    finally:
        await engine.close()


def _home(settings: RuntimeSettings) -> PodmanHome:
    node = preflight.this_node(settings.path)
    return PodmanHome(
        root=home_for(settings.job_name, settings.temporary),
        rootless=node.rootless,
        cgroups=preflight.can_limit(node),
        hidden_hierarchy=preflight.UNIFIED if preflight.hybrid_cgroups(node) else None,
    )


async def _remove_abandoned(
    home: PodmanHome, settings: RuntimeSettings, spare: Path | None = None
) -> None:
    """A job that was killed outright could not clean up, and its next attempt has another name.
    ``spare``: a predecessor's of the same name is cleared by the engine's start."""
    for root in ownership.abandoned(home.root.parent, HOMES):
        if root != spare:
            log.info("removing %s: its server is dead", root)
            await PodmanService(replace(home, root=root), settings.path).remove()


def clean_up_killed(settings: RuntimeSettings, number: signal.Signals) -> int:
    """Removes what a killed server of this job left, and has its last word. The exit code."""
    ending = Ending(
        ExitResult.FAILED,
        f"the runtime's server was killed by {number.name}; was the job's memory too small?",
    )
    try:
        asyncio.run(_remove_abandoned(_home(settings), settings))
    finally:
        if not record_path(settings).exists():
            write_exit_record(settings, ending)
    return ending.exit_code


async def _load_images(engine: Engine, settings: RuntimeSettings) -> None:
    for archive in settings.attempt.spec.runtime.image_archives:
        log.info("loaded %s from %s", ", ".join(await engine.load_image(Path(archive))), archive)


def _pool(engine: Engine, home: PodmanHome, settings: RuntimeSettings) -> Pool:
    attempt = settings.attempt
    labels = {
        "skydeck.installation": attempt.installation,
        "skydeck.run": attempt.run_id,
        "skydeck.attempt": str(attempt.attempt),
        "skydeck.index": str(settings.index),
        "skydeck.generation": str(settings.generation),
    }
    return Pool(
        engine=engine,
        spec=attempt.spec.runtime,
        control=home.control,
        new_name=lambda: f"sb-{secrets.token_hex(5)}",
        labels=labels,
        parallel=2 * settings.cores,
    )


async def _probe(engine: Engine, pool: Pool, settings: RuntimeSettings) -> tuple[Limit, ...]:
    spec = settings.attempt.spec.runtime
    box = await pool.make(spec.image)
    try:
        return await limits.measure(engine, box, spec)
    finally:
        await pool.stop(box)


def _identity(settings: RuntimeSettings) -> Identity:
    return Identity(
        attempt=settings.attempt,
        index=settings.index,
        generation=settings.generation,
        job_name=settings.job_name,
        scheduler_job_id=settings.scheduler_job_id,
        hostname=socket.gethostname(),
        pid=os.getpid(),
    )


async def _serve(
    settings: RuntimeSettings, service: RuntimeService, pool: Pool, stop: Stop
) -> Ending:
    listener = listen(own_address(_control_plane_url(settings)))
    host, port = listener.getsockname()[:2]
    url = f"http://{host}:{port}"
    control_plane = AsyncControlPlane(
        Path(settings.attempt.control_plane_file), settings.attempt_dir / env.TOKEN_RUNTIME
    )
    try:
        async with serving(create_app(service), listener):
            log.info("serving at %s", url)
            loops = (
                keep_known(control_plane, service, url, stop),
                _keep_tidy(service.sandboxes),
            )
            tasks = [asyncio.ensure_future(_watched(loop, stop)) for loop in loops]
            ending = await stop.wait()
            log.info("ending: %s %s", ending.result, ending.detail)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await _drain(service, pool, control_plane, ending)
            write_exit_record(settings, ending)
            return ending
    finally:
        await control_plane.close()


async def _drain(
    service: RuntimeService, pool: Pool, control_plane: AsyncControlPlane, ending: Ending
) -> None:
    """Bounded, because whoever told us to stop will kill us soon; the engine's end takes away
    whatever is not removed by then."""
    over = ending.result is ExitResult.SUPERSEDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await service.sandboxes.drain(StopReason.LEASE_OVER if over else StopReason.DRAIN)
    if not over:
        with contextlib.suppress(ControlPlaneError, TimeoutError):
            async with asyncio.timeout(LAST_HEARTBEAT_S):
                await control_plane.runtime_heartbeat(service.heartbeat())
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAIN_S):
            await pool.close()


def _control_plane_url(settings: RuntimeSettings) -> str:
    try:
        return read_address(Path(settings.attempt.control_plane_file))
    except Unavailable:
        return "http://127.0.0.1"


async def _watched(work: Awaitable[None], stop: Stop) -> None:
    """A loop that breaks must end the job with its reason, not leave it half alive."""
    try:
        await work
    except (Superseded, Conflict) as error:
        stop(Ending(ExitResult.SUPERSEDED, str(error)))
    except Exception as error:  # the boundary of the job's own loops
        log.exception("a loop of the runtime broke")
        stop(Ending(ExitResult.FAILED, f"{type(error).__name__}: {error}"))


async def _keep_tidy(sandboxes: Sandboxes) -> None:
    while True:
        try:
            await sandboxes.tick()
        except EngineError as error:
            log.warning("tidying: %s", error)
        await asyncio.sleep(TICK_S)
