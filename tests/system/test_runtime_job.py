"""``python -m workers.runtime`` with a real podman against a small real control plane."""

import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from workers import ownership, preflight
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitRecord, ExitResult
from workers.contract.registration import RegisterRuntime, RuntimeHeartbeat
from workers.contract.spec import RunKind, RunSpec, RuntimeSpec
from workers.contract.version import CONTRACT_VERSION
from workers.runtime import processes
from workers.runtime.images import archive_name, build_task_image, read_recipe
from workers.runtime.podman_home import home_for
from workers.runtime.settings import SYSTEM_PATH

ROOT = Path(__file__).parents[2]
CACHE = Path("/tmp/skydeck-test-cache")
IMAGE = "localhost/skydeck-task:1"
READY_S = 120.0
END_S = 90.0

pytestmark = pytest.mark.skipif(
    shutil.which("podman") is None, reason="podman is not installed: apt-get install podman"
)


@dataclass
class ControlPlane:
    """What the runtime said, and what it is told next."""

    registered: list[RegisterRuntime] = field(default_factory=list)
    heartbeats: list[RuntimeHeartbeat] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    answer: dict[str, bool] = field(default_factory=dict)
    status: int = 200
    url: str = ""

    def sandboxes(self) -> set[str]:
        """All that were ever reported."""
        return {s.sandbox_id for h in self.heartbeats for s in h.sandboxes}

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.post("/api/internal/runtimes/register")
        async def register(request: Request) -> JSONResponse:
            self.tokens.add(request.headers["Authorization"])
            if self.status != 200:
                return JSONResponse({"error": "superseded", "detail": "old"}, self.status)
            self.registered.append(RegisterRuntime.model_validate_json(await request.body()))
            return JSONResponse({"heartbeat_s": 0.2})

        @app.post("/api/internal/runtimes/heartbeat")
        async def heartbeat(request: Request) -> JSONResponse:
            if self.status != 200:
                return JSONResponse({"error": "superseded", "detail": "old"}, self.status)
            self.heartbeats.append(RuntimeHeartbeat.model_validate_json(await request.body()))
            return JSONResponse(self.answer)

        return app


@asynccontextmanager
async def control_plane() -> AsyncIterator[ControlPlane]:
    plane = ControlPlane()
    server = uvicorn.Server(uvicorn.Config(plane.app(), port=0, log_level="warning"))
    task = asyncio.ensure_future(server.serve())
    await until(lambda: server.started, READY_S)
    port = server.servers[0].sockets[0].getsockname()[1]
    plane.url = f"http://127.0.0.1:{port}"
    try:
        yield plane
    finally:
        server.should_exit = True
        await task


@dataclass
class Job:
    """One runtime job: its process, folder and names."""

    folder: Path
    name: str
    process: asyncio.subprocess.Process

    @property
    def home(self) -> Path:
        return home_for(self.name, Path("/tmp"))

    def server(self) -> int:
        """The serving process; the one that we started is its warden."""
        return int((self.home / ownership.OWNER_FILE).read_text().split("\n")[0])

    async def kill_all(self) -> None:
        """As the kernel or a scheduler does it: nobody of the job is left to clean up."""
        server = self.server()
        self.process.send_signal(signal.SIGSTOP)
        os.kill(server, signal.SIGKILL)
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()
        await processes.wait_dead({server}, END_S)

    def log(self) -> str:
        return (self.folder / "job.log").read_text()

    def url(self) -> str | None:
        found = re.search(r"serving at (http://\S+)", self.log())
        return found.group(1) if found else None

    def client(self) -> httpx.AsyncClient:
        token = (self.folder / env.TOKEN_SANDBOX).read_text()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(base_url=self.url() or "", headers=headers, timeout=60)

    async def end(self) -> ExitRecord:
        await asyncio.wait_for(self.process.wait(), END_S)
        path = env.exit_record_path(self.folder, "runtime", 0, 1)
        assert path.exists(), self.log()
        record = ExitRecord.model_validate_json(path.read_text())
        assert record.exit_code == self.process.returncode, self.log()
        return record

    def leftovers(self) -> list[str]:
        found = [str(self.home)] if self.home.exists() else []
        found += [f"process {pid}" for pid in processes.using(self.home)]
        mounts = Path("/proc/self/mountinfo").read_text()
        found += ["mount"] if str(self.home) in mounts else []
        groups = Path("/sys/fs/cgroup").glob(f"*/skydeck-{self.home.name}")
        return found + [str(group) for group in groups]


@asynccontextmanager
async def job(folder: Path, plane_url: str | None, **spec: object) -> AsyncIterator[Job]:
    folder.chmod(0o700)
    for token in (env.TOKEN_SANDBOX, env.TOKEN_RUNTIME):
        (folder / token).touch(mode=0o600)
        (folder / token).write_text(secrets.token_hex(16))
    address = folder / env.CONTROL_PLANE_FILE
    if plane_url is not None:
        address.write_text(json.dumps({"url": plane_url}))
    recipe = read_recipe()
    archive = build_task_image(CACHE / archive_name(recipe), recipe, lambda _: None)
    runtime = {"slots": 3, "warm": 1, "image_archives": (str(archive),), **spec}
    attempt = AttemptFile(
        contract_version=CONTRACT_VERSION,
        installation="t",
        run_id="run1",
        attempt=1,
        attempt_dir=str(folder),
        control_plane_file=str(address),
        spec=RunSpec(
            name="t", kind=RunKind.RUNTIME_ONLY, runtime=RuntimeSpec.model_validate(runtime)
        ),
    )
    (folder / env.ATTEMPT_FILE_NAME).write_text(attempt.model_dump_json())
    name = f"sd-t-run1-a1-runtime0-g1-{secrets.token_hex(4)}"
    with (folder / "job.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workers.runtime"),
            env=environment(folder, name),
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    made = Job(folder, name, process)
    try:
        yield made
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), END_S)


def environment(folder: Path, name: str) -> dict[str, str]:
    return {
        "PATH": SYSTEM_PATH,
        "HOME": str(folder),
        "XDG_CACHE_HOME": str(CACHE),
        "SLURM_JOB_ID": "4711",
        "PMI_RANK": "0",
        env.ATTEMPT_FILE: str(folder / env.ATTEMPT_FILE_NAME),
        env.ROLE: "runtime",
        env.INDEX: "0",
        env.GENERATION: "1",
        env.JOB_NAME: name,
    }


async def until(condition, deadline_s: float) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.05)


async def created(client: httpx.AsyncClient, key: str) -> str:
    answer = await client.post("/v1/sandboxes", json={"client_key": key, "image": IMAGE})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["sandbox_id"])


async def output(client: httpx.AsyncClient, sandbox: str, command: str) -> str:
    answer = await client.post(f"/v1/sandboxes/{sandbox}/exec", json={"command": command})
    return base64.b64decode(answer.json()["stdout_b64"]).decode()


async def test_a_runtime_serves_reports_and_leaves_nothing_when_told_to_stop(
    tmp_path: Path,
) -> None:
    async with control_plane() as plane, job(tmp_path, plane.url) as runtime:
        await until(lambda: plane.registered, READY_S)
        first = plane.registered[0]
        assert first.url == runtime.url()
        assert first.slots == 3
        assert first.scheduler_job_id == "4711"
        assert {x.name for x in first.limits if x.enforced} >= {"network", "no_new_privileges"}
        assert plane.tokens == {f"Bearer {(tmp_path / env.TOKEN_RUNTIME).read_text()}"}
        async with runtime.client() as client:
            await until(lambda: plane.heartbeats, READY_S)
            assert (await client.get("/health")).json()["ready"]
            sandbox = await created(client, "k")
            assert (await output(client, sandbox, "hostname")).strip() == sandbox
            seen = await output(client, sandbox, "env; cat /proc/1/environ | tr '\\0' '\\n'")
            assert "SLURM" not in seen
            assert "PMI" not in seen
            mark = f"mark-{secrets.token_hex(8)}"
            assert await output(client, sandbox, f"echo x > /testbed/{mark} && echo ok") == "ok\n"
            assert not Path("/testbed", mark).exists()
            await until(lambda: sandbox in plane.sandboxes(), READY_S)
            assert plane.sandboxes() == {sandbox}
        runtime.process.send_signal(signal.SIGTERM)
        record = await runtime.end()
        assert record.result is ExitResult.DRAINED
        assert plane.heartbeats[-1].draining
        assert runtime.leftovers() == []


async def test_a_runtime_leaves_when_a_heartbeat_says_stop(tmp_path: Path) -> None:
    async with control_plane() as plane, job(tmp_path, plane.url, warm=0) as runtime:
        await until(lambda: plane.heartbeats, READY_S)
        plane.answer = {"stop": True}
        assert (await runtime.end()).result is ExitResult.DRAINED
        assert runtime.leftovers() == []


async def test_a_superseded_runtime_stops_its_sandboxes_and_says_so(tmp_path: Path) -> None:
    async with control_plane() as plane, job(tmp_path, plane.url, warm=0) as runtime:
        await until(lambda: plane.heartbeats, READY_S)
        plane.status = 410
        record = await runtime.end()
        assert record.result is ExitResult.SUPERSEDED
        assert runtime.leftovers() == []


async def test_a_runtime_serves_without_a_control_plane_and_registers_when_there_is_one(
    tmp_path: Path,
) -> None:
    async with control_plane() as plane, job(tmp_path, None, warm=0) as runtime:
        await until(lambda: runtime.url() or runtime.process.returncode, READY_S)
        async with runtime.client() as client:
            health = (await client.get("/health")).json()
            assert not health["ready"]
            assert "not registered" in health["reason"]
            sandbox = await created(client, "k")
            assert await output(client, sandbox, "echo hi") == "hi\n"
            (tmp_path / env.CONTROL_PLANE_FILE).write_text(json.dumps({"url": plane.url}))
            await until(lambda: plane.registered, READY_S)


async def test_a_signal_during_the_start_is_obeyed_in_order(tmp_path: Path) -> None:
    async with job(tmp_path, None) as runtime:
        await until(lambda: runtime.home.exists() or runtime.process.returncode, READY_S)
        runtime.process.send_signal(signal.SIGTERM)
        assert (await runtime.end()).result is ExitResult.DRAINED
        assert runtime.leftovers() == []


async def test_a_node_that_cannot_do_it_is_a_failed_preflight_with_the_mend(
    tmp_path: Path,
) -> None:
    missing = str(tmp_path / "never-built.tar")
    async with job(tmp_path, None, image_archives=(missing,)) as runtime:
        record = await runtime.end()
        assert record.result is ExitResult.PREFLIGHT_FAILED
        assert missing in record.detail
        assert "Mend:" in record.detail
        assert not runtime.home.exists()


async def test_a_killed_server_leaves_nothing_behind_but_its_last_word(tmp_path: Path) -> None:
    async with job(tmp_path, None) as runtime:
        await until(lambda: runtime.url() or runtime.process.returncode, READY_S)
        async with runtime.client() as client:
            await created(client, "k")
        os.kill(runtime.server(), signal.SIGKILL)
        record = await runtime.end()
        assert record.result is ExitResult.FAILED
        assert "killed by SIGKILL" in record.detail
        assert runtime.leftovers() == []


async def test_a_killed_server_s_successor_takes_the_leftovers_away(tmp_path: Path) -> None:
    async with job(tmp_path, None) as runtime:
        await until(lambda: runtime.url() or runtime.process.returncode, READY_S)
        async with runtime.client() as client:
            await created(client, "k")
        await runtime.kill_all()
        assert runtime.leftovers() != []
        again = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "workers.runtime"),
            env=environment(tmp_path, runtime.name),
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        assert again.stderr is not None
        async with asyncio.timeout(READY_S):
            async for line in again.stderr:
                if b"serving at" in line:
                    break
        again.send_signal(signal.SIGTERM)
        await asyncio.wait_for(again.communicate(), END_S)
        assert again.returncode == 0
        assert runtime.leftovers() == []


async def test_the_next_runtime_on_a_node_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    for name in ("killed", "next"):
        (tmp_path / name).mkdir()
    async with job(tmp_path / "killed", None) as killed:
        await until(lambda: killed.url() or killed.process.returncode, READY_S)
        await killed.kill_all()
        assert killed.leftovers() != []
        async with job(tmp_path / "next", None, warm=0) as runtime:
            await until(lambda: runtime.url() or runtime.process.returncode, READY_S)
            assert killed.leftovers() == []


def test_this_node_passes_its_own_preflight() -> None:
    checks = preflight.check_runtime(preflight.this_node(SYSTEM_PATH), Path("/tmp"), ())
    assert [c.text() for c in preflight.failed(checks)] == [], os.uname().release
