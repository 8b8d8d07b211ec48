"""An Engine without containers, for tests of everything above the engine.

Each "container" is the real tool server as a process of this host: commands run for real, but
nothing is isolated. It passes the same suite as podman, except for what only isolation can give.
"""

import asyncio
import json
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from workers.runtime import processes
from workers.runtime.engine import (
    ContainerId,
    ContainerPlan,
    ContainerView,
    EngineError,
    Hardening,
    ImageUnavailable,
    NameTaken,
    NoSuchContainer,
)
from workers.runtime.toolclient import SOCKET_NAME

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp", "LANG": "C.UTF-8"}  # noqa: S108


@dataclass
class _Container:
    plan: ContainerPlan
    process: asyncio.subprocess.Process | None = None


class FakeEngine:
    def __init__(self, tool_server: Path, images: Iterable[str] = ()) -> None:
        self._tool_server = tool_server
        self._images = set(images)
        self._containers: dict[ContainerId, _Container] = {}
        self._numbers = count(1)

    @property
    def description(self) -> str:
        return "fake: host processes, nothing is isolated"

    async def load_image(self, archive: Path) -> tuple[str, ...]:
        try:
            with tarfile.open(archive) as tar:
                file = tar.extractfile("manifest.json")
                assert file is not None
                names = tuple(n for m in json.load(file) for n in m["RepoTags"])
        except (OSError, tarfile.TarError, KeyError, ValueError) as error:
            raise ImageUnavailable(f"{archive} is no image archive: {error}") from error
        self._images.update(names)
        return names

    async def has_image(self, name: str) -> bool:
        return name in self._images

    async def create(self, plan: ContainerPlan) -> ContainerId:
        if plan.image not in self._images:
            raise ImageUnavailable(f"image {plan.image} is not on this node")
        if any(c.plan.name == plan.name for c in self._containers.values()):
            raise NameTaken(f"{plan.name} is already in use")
        container = ContainerId(f"fake{next(self._numbers):08d}")
        self._containers[container] = _Container(plan)
        return container

    async def start(self, container: ContainerId) -> None:
        found = self._known(container)
        found.process = await asyncio.create_subprocess_exec(
            self._tool_server,
            found.plan.control_dir / SOCKET_NAME,
            env=_ENVIRONMENT,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    def _known(self, container: ContainerId) -> _Container:
        try:
            return self._containers[container]
        except KeyError:
            raise NoSuchContainer(f"no container {container}") from None

    def alive(self, container: ContainerId) -> bool:
        found = self._containers.get(container)
        return found is not None and _running(found)

    async def kill(self, container: ContainerId) -> None:
        found = self._containers.get(container)
        if found is None or found.process is None or not _running(found):
            return
        await processes.kill_trees({found.process.pid})
        await found.process.wait()

    async def remove(self, container: ContainerId) -> None:
        await self.kill(container)
        self._containers.pop(container, None)

    async def hardening(self, container: ContainerId) -> Hardening:
        raise EngineError(f"{self._known(container).plan.name}: a fake hardens nothing")

    async def list_containers(self) -> tuple[ContainerView, ...]:
        return tuple(
            ContainerView(container, found.plan.name, found.plan.labels, _running(found))
            for container, found in self._containers.items()
        )

    async def close(self) -> None:
        for container in tuple(self._containers):
            await self.remove(container)


def _running(container: _Container) -> bool:
    process = container.process
    return process is not None and processes.alive(process.pid)
