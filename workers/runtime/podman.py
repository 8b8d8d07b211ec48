"""The Engine on a real podman: its REST API for the life of containers, podman-py for the rest.

What the traps below cost was measured with podman 4.3.1; each is named where it is avoided.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import podman

from workers.runtime import processes, toolclient
from workers.runtime.engine import (
    SANDBOX_UID,
    ContainerId,
    ContainerPlan,
    ContainerView,
    EngineBroken,
    EngineError,
    EngineUnreachable,
    Hardening,
    ImageUnavailable,
    NameTaken,
    NoSuchContainer,
)
from workers.runtime.podman_home import PodmanHome, PodmanService

API = "http://podman/v4.0.0/libpod"
CALL_DEADLINE_S = 60.0
LOAD_DEADLINE_S = 600.0
KILL_DEADLINE_S = 10.0
SANDBOX_USER = f"{SANDBOX_UID}:{SANDBOX_UID}"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class PodmanLimits:
    """What every container gets on this node."""

    tmp_mb: int = 256
    open_files: int = 4096
    file_bytes: int = 1_000_000_000
    processes: int = 4096
    """RLIMIT_NPROC counts all sandboxes together (they share one host uid): a fence for the node,
    not for one sandbox. Rootful podman without CAP_SYS_RESOURCE needs it set on each container."""


class PodmanEngine:
    """Made by :meth:`open`; whoever opened it must ``close`` it."""

    def __init__(
        self,
        home: PodmanHome,
        service: PodmanService,
        tool_server: Path,
        limits: PodmanLimits,
        client: httpx.AsyncClient,
    ) -> None:
        self._home = home
        self._service = service
        self._tool_server = tool_server
        self._limits = limits
        self._client = client
        self._pids: dict[ContainerId, tuple[int, int]] = {}
        self._description = "podman"

    @staticmethod
    async def open(
        home: PodmanHome, path: str, tool_server: Path, limits: PodmanLimits | None = None
    ) -> "PodmanEngine":
        """Starts the job's own podman and makes sure that it stores where it was told to."""
        service = PodmanService(home, path)
        try:
            await service.start()
            # A copy of its own: the sandbox's user need not be able to read the cache's folder.
            tool_server = Path(shutil.copy(tool_server, home.root / "toolserver"))
            tool_server.chmod(0o755)
        except BaseException:
            await service.remove()
            raise
        transport = httpx.AsyncHTTPTransport(
            uds=str(home.socket), limits=httpx.Limits(max_connections=64)
        )
        client = httpx.AsyncClient(
            transport=transport, base_url=API, timeout=CALL_DEADLINE_S, trust_env=False
        )
        engine = PodmanEngine(home, service, tool_server, limits or PodmanLimits(), client)
        try:
            await engine._verify()
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def description(self) -> str:
        return self._description

    async def _verify(self) -> None:
        info = await asyncio.to_thread(self._info)
        store = info["store"]
        wanted = (str(self._home.graphroot), str(self._home.runroot))
        found = (store["graphRoot"], store["runRoot"])
        if found != wanted:
            raise EngineBroken(f"podman stores in {found}, not in this job's {wanted}")
        host = info["host"]
        kind = "rootless" if host["security"]["rootless"] else "rootful"
        self._description = (
            f"podman {info['version']['Version']} {kind}, {host['ociRuntime']['name']}, "
            f"{store['graphDriverName']}, cgroups {host['cgroupVersion']}"
            f"{'' if self._home.cgroups else ' not used'}"
        )

    def _info(self) -> Mapping[str, Any]:
        with podman.PodmanClient(base_url=f"http+unix://{self._home.socket}", timeout=60) as client:
            return cast(Any, client).info()

    async def load_image(self, archive: Path) -> tuple[str, ...]:
        if not archive.is_file():
            raise ImageUnavailable(f"image archive {archive} does not exist on this node")
        answer = await self._call(
            "POST",
            "/images/load",
            content=_read_file(archive),
            headers={"Content-Type": "application/x-tar"},
            timeout=LOAD_DEADLINE_S,
        )
        if answer.status_code != 200:
            raise ImageUnavailable(f"podman cannot load {archive}: {_cause(answer)}")
        return tuple(answer.json()["Names"])

    async def has_image(self, name: str) -> bool:
        answer = await self._call("GET", f"/images/{name}/exists")
        return answer.status_code == 204

    async def create(self, plan: ContainerPlan) -> ContainerId:
        answer = await self._call("POST", "/containers/create", json=self._specification(plan))
        if answer.status_code == 201:
            return ContainerId(answer.json()["Id"])
        text = _cause(answer)
        if answer.status_code == 404 or "image not known" in text:
            raise ImageUnavailable(f"image {plan.image} is not on this node: {text}")
        if "already in use" in text:  # a 500, not a 409
            raise NameTaken(text)
        raise EngineError(f"podman refused to create {plan.name}: {text}")

    def _specification(self, plan: ContainerPlan) -> dict[str, Any]:
        specification: dict[str, Any] = {
            "name": plan.name,
            "hostname": plan.name,
            "image": plan.image,
            "command": [
                toolclient.SERVER_INSIDE,
                f"{toolclient.CONTROL_DIR_INSIDE}/{toolclient.SOCKET_NAME}",
            ],
            "entrypoint": [],
            "labels": dict(plan.labels),
            # Any other directory makes podman run itself once more to look up the user.
            "work_dir": "/",
            "user": SANDBOX_USER,
            "netns": {"nsmode": "slirp4netns" if plan.network == "slirp4netns" else plan.network},
            "httpproxy": False,
            "use_image_resolve_conf": plan.network == "none",
            "no_new_privileges": True,
            "cap_drop": ["ALL"],
            "seccomp_profile_path": str(self._home.seccomp),
            "image_volume_mode": "ignore",
            # Removal would wait ten seconds for a first process that ignores SIGTERM.
            "stop_timeout": 0,
            "r_limits": self._ulimits(plan),
            "mounts": self._mounts(plan),
        }
        if self._home.cgroups:
            specification["cgroups_mode"] = "enabled"
            specification["cgroup_parent"] = self._home.cgroup_parent
            specification["resource_limits"] = {
                "memory": {"limit": plan.memory_mb << 20, "swap": plan.memory_mb << 20},
                "pids": {"limit": plan.pids},
            }
        return specification

    def _ulimits(self, plan: ContainerPlan) -> list[dict[str, Any]]:
        wanted = {
            "nofile": self._limits.open_files,
            "nproc": self._limits.processes,
            "fsize": self._limits.file_bytes,
            "core": 0,
        }
        if not self._home.cgroups:
            wanted["data"] = plan.memory_mb << 20
        return [{"type": name, "soft": value, "hard": value} for name, value in wanted.items()]

    def _mounts(self, plan: ContainerPlan) -> list[dict[str, Any]]:
        tmp = [f"size={self._limits.tmp_mb}m", "mode=1777", "nosuid", "nodev"]
        return [
            {"type": "tmpfs", "destination": "/tmp", "options": tmp},  # noqa: S108
            {
                "type": "bind",
                "source": str(self._tool_server),
                "destination": toolclient.SERVER_INSIDE,
                "options": ["ro", "nosuid", "nodev"],
            },
            {
                "type": "bind",
                "source": str(plan.control_dir),
                "destination": toolclient.CONTROL_DIR_INSIDE,
                "options": ["rw", "nosuid", "nodev", "noexec"],
            },
        ]

    async def start(self, container: ContainerId) -> None:
        answer = await self._call("POST", f"/containers/{container}/start")
        if answer.status_code not in (204, 304):
            self._raise_unknown(container, answer)
            raise EngineError(f"podman cannot start {container[:12]}: {_cause(answer)}")
        self._pids[container] = await self._read_pids(container)

    async def _read_pids(self, container: ContainerId) -> tuple[int, int]:
        """First process and monitor; from podman's own files, which spares it a whole inspect."""
        folder = self._home.runroot / "overlay-containers" / container / "userdata"
        try:
            return int((folder / "pidfile").read_text()), int((folder / "conmon.pid").read_text())
        except (OSError, ValueError):
            answer = await self._call("GET", f"/containers/{container}/json")
            self._raise_unknown(container, answer)
            state = answer.json()["State"]
            return int(state["Pid"]), int(state["ConmonPid"])

    def alive(self, container: ContainerId) -> bool:
        return self._payload(container) is not None

    def _payload(self, container: ContainerId) -> tuple[int, int] | None:
        """Pids of the first process and of its monitor; None unless both are certainly ours, so
        that a number used again by a stranger is never killed."""
        pids = self._pids.get(container)
        if pids is None:
            return None
        payload, monitor = pids
        parent = processes.parent_and_state(payload)
        if parent is None or parent[0] != monitor or not processes.alive(payload):
            return None
        return pids if container.encode() in processes.argv(monitor) else None

    async def kill(self, container: ContainerId) -> None:
        """Monitor first, then the payload, then the exit code in the monitor's place.

        A monitor that sees its payload end starts a whole podman to clean up, which costs more
        than the container did. Without an exit file podman would wait five seconds for one.
        """
        pids = self._payload(container)
        if pids is None:
            return
        payload, monitor = pids
        for pid in (monitor, payload):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not await processes.wait_dead({payload, monitor}, KILL_DEADLINE_S):
            raise EngineError(f"processes of container {container[:12]} survive SIGKILL")
        (self._home.exits / container).write_text(str(128 + signal.SIGKILL))

    async def remove(self, container: ContainerId) -> None:
        await self.kill(container)
        answer = await self._call(
            "DELETE", f"/containers/{container}", params={"force": "true", "timeout": "0"}
        )
        if answer.status_code not in (200, 204, 404):
            raise EngineError(f"podman cannot remove {container[:12]}: {_cause(answer)}")
        self._pids.pop(container, None)
        (self._home.exits / container).unlink(missing_ok=True)

    async def hardening(self, container: ContainerId) -> Hardening:
        answer = await self._call("GET", f"/containers/{container}/json")
        self._raise_unknown(container, answer)
        found = answer.json()
        host = found["HostConfig"]
        return Hardening(
            network_none=host["NetworkMode"] == "none",
            no_new_privileges="no-new-privileges" in (host.get("SecurityOpt") or ()),
            capabilities=tuple(found.get("EffectiveCaps") or ()),
            user=found["Config"]["User"],
        )

    async def list_containers(self) -> tuple[ContainerView, ...]:
        answer = await self._call("GET", "/containers/json", params={"all": "true"})
        if answer.status_code != 200:
            raise EngineError(f"podman cannot list: {_cause(answer)}")
        return tuple(
            ContainerView(
                container_id=ContainerId(item["Id"]),
                name=item["Names"][0],
                labels=item.get("Labels") or {},
                running=item["State"] == "running",
            )
            for item in answer.json()
        )

    async def close(self) -> None:
        await self._client.aclose()
        await self._service.remove()

    def _raise_unknown(self, container: ContainerId, answer: httpx.Response) -> None:
        if answer.status_code == 404:
            raise NoSuchContainer(f"podman knows no container {container[:12]}")

    async def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Once more if the service died under it: every call of ours may be repeated (a second
        create meets its own name, and fails)."""
        launches = self._service.launches
        try:
            return await self._client.request(method, path, **options)
        except httpx.TransportError as error:
            await self._service.ensure_running()
            if self._service.launches == launches or "content" in options:
                raise self._unreachable(method, path, error) from error
        try:
            return await self._client.request(method, path, **options)
        except httpx.TransportError as error:
            raise self._unreachable(method, path, error) from error

    def _unreachable(self, method: str, path: str, error: httpx.HTTPError) -> EngineUnreachable:
        return EngineUnreachable(
            f"podman did not answer {method} {path}: {type(error).__name__}; "
            f"the end of its log: {self._service.log_tail()}"
        )


def _cause(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status_code} {answer.text[:300]}"


async def _read_file(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
