"""A runtime on the fake engine: real tool servers as host processes, a clock moved by hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx

from workers.contract.attempt import AttemptFile
from workers.contract.sandbox_api import SandboxCreate
from workers.contract.spec import RunKind, RunSpec, RuntimeSpec
from workers.contract.version import CONTRACT_VERSION
from workers.runtime.auth import TokenCheck
from workers.runtime.clock import Clock
from workers.runtime.fake_engine import FakeEngine
from workers.runtime.pool import Pool
from workers.runtime.sandboxes import Sandboxes
from workers.runtime.server import create_app
from workers.runtime.service import Identity, RuntimeService
from workers.runtime.slots import Slots
from workers.runtime.toolserver.build import build

IMAGE = "localhost/skydeck-task:1"
TOKEN = "t" * 32
CACHE = Path("/tmp/skydeck-test-cache")


@dataclass
class World:
    engine: FakeEngine
    pool: Pool
    sandboxes: Sandboxes
    service: RuntimeService
    time: list[float] = field(default_factory=lambda: [1000.0])

    def client(self, token: str | None = TOKEN) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        transport = httpx.ASGITransport(create_app(self.service))
        return httpx.AsyncClient(transport=transport, base_url="http://runtime", headers=headers)


def request(key: str, **changes: object) -> SandboxCreate:
    return SandboxCreate.model_validate({"client_key": key, "image": IMAGE, **changes})


@asynccontextmanager
async def runtime_world(folder: Path, slots: int = 2, warm: int = 0) -> AsyncIterator[World]:
    engine = FakeEngine(build(CACHE), images=[IMAGE])
    spec = RuntimeSpec(slots=slots, warm=warm)
    numbers = count(1)
    pool = Pool(engine, spec, folder, lambda: f"sb-{next(numbers)}", {}, parallel=4)
    time = [1000.0]
    clock = Clock(monotonic=lambda: time[0], iso=lambda: f"at {time[0]:.0f}")
    sandboxes = Sandboxes(Slots(slots), pool, clock)
    attempt = AttemptFile(
        contract_version=CONTRACT_VERSION,
        installation="i",
        run_id="run1",
        attempt=1,
        attempt_dir=str(folder),
        control_plane_file=str(folder / "control-plane.json"),
        spec=RunSpec(name="r", kind=RunKind.RUNTIME_ONLY, runtime=spec),
    )
    identity = Identity(attempt, 0, 1, "sd-i-run1-a1-runtime0-g1", None, "node1", 42)
    service = RuntimeService(identity, sandboxes, TokenCheck(TOKEN), engine.description)
    service.not_ready = ""
    try:
        yield World(engine, pool, sandboxes, service, time)
    finally:
        await pool.close()
        await engine.close()
