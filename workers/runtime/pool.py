"""Boxes: started containers, made on demand or kept warm, and taken away in the background.

A box gets its name, which is its host name and later the sandbox's id, when it is made; whoever
claims it keeps the client's key and labels in our own records.
"""

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.contract.spec import RuntimeSpec
from workers.runtime.engine import ContainerId, ContainerPlan, Engine, EngineError
from workers.runtime.toolclient import ToolClient, ToolServerLost

log = logging.getLogger(__name__)

READY_DEADLINE_S = 30.0
REMOVE_TRIES = 3
REFILL_PAUSE_S = 5.0


@dataclass(frozen=True)
class Box:
    name: str
    image: str
    container: ContainerId
    control_dir: Path
    tools: ToolClient


class Pool:
    def __init__(
        self,
        engine: Engine,
        spec: RuntimeSpec,
        control: Path,
        new_name: Callable[[], str],
        labels: Mapping[str, str],
        parallel: int,
    ) -> None:
        self._engine = engine
        self._spec = spec
        self._control = control
        self._new_name = new_name
        self._labels = dict(labels)
        self._starting = asyncio.Semaphore(parallel)
        self._removing = asyncio.Semaphore(parallel)
        self._refilling = max(1, parallel // 2)
        self._warm: list[Box] = []
        self._refills: set[asyncio.Task[None]] = set()
        self._removals: set[asyncio.Task[None]] = set()
        self._closed = False

    @property
    def warm(self) -> int:
        return len(self._warm)

    def claim(self, image: str) -> Box | None:
        """A warm box, started and answering; None when there is none of this image."""
        for box in self._warm:
            if box.image == image:
                self._warm.remove(box)
                if self.alive(box):
                    return box
                self.discard(box)
                return self.claim(image)
        return None

    async def make(self, image: str, started: Callable[[str], None] | None = None) -> Box:
        """A new box, ready for commands. ``started`` hears its name before the engine does.

        Raises EngineError, or ToolServerLost if the container came up and its server did not.
        """
        await self._wait_for_removals()
        async with self._starting:
            return await self._make(image, started)

    async def _make(self, image: str, started: Callable[[str], None] | None) -> Box:
        name = self._new_name()
        if started is not None:
            started(name)
        control_dir = self._control / name
        control_dir.mkdir(mode=0o700)
        control_dir.chmod(0o777)  # the sandbox's user is another; the folder above is closed
        try:
            container = await self._engine.create(self._plan(name, image, control_dir))
        except BaseException:
            _forget_folder(control_dir)
            raise
        box = Box(name, image, container, control_dir, ToolClient(control_dir))
        try:
            await self._engine.start(container)
            await box.tools.wait_ready(READY_DEADLINE_S)
        except BaseException:
            self.discard(box)
            raise
        return box

    def _plan(self, name: str, image: str, control_dir: Path) -> ContainerPlan:
        return ContainerPlan(
            name=name,
            image=image,
            control_dir=control_dir,
            labels={**self._labels, "skydeck.sandbox": name},
            network=self._spec.network,
            memory_mb=self._spec.sandbox_memory_mb,
            pids=self._spec.sandbox_pids,
        )

    async def _wait_for_removals(self) -> None:
        """Removal must keep up: containers whose storage is not yet gone are bounded too."""
        while len(self._removals) > self._spec.slots:
            await asyncio.wait(self._removals, return_when=asyncio.FIRST_COMPLETED)

    def alive(self, box: Box) -> bool:
        return self._engine.alive(box.container)

    async def stop(self, box: Box) -> None:
        """Returns when nothing runs in the box any more; its storage goes in the background."""
        try:
            await self._engine.kill(box.container)
        finally:
            self.discard(box)

    def discard(self, box: Box) -> None:
        self._in_background(self._remove(box), self._removals)

    def _in_background(
        self, work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]
    ) -> None:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _remove(self, box: Box) -> None:
        async with self._removing:
            for left in reversed(range(REMOVE_TRIES)):
                try:
                    await self._engine.remove(box.container)
                    break
                except EngineError as error:
                    log.warning("removing %s failed, %d tries left: %s", box.name, left, error)
        _forget_folder(box.control_dir)

    def refill(self, room: int) -> None:
        """Starts as many warm boxes as are wanted and fit into ``room`` free slots."""
        if self._closed:
            return
        while len(self._warm) > max(room, 0):
            self.discard(self._warm.pop(0))
        wanted = min(self._spec.warm, room) - len(self._warm) - len(self._refills)
        for _ in range(min(wanted, self._refilling - len(self._refills))):
            self._in_background(self._refill_one(), self._refills)

    async def _refill_one(self) -> None:
        try:
            box = await self.make(self._spec.image)
        except (EngineError, ToolServerLost, OSError) as error:
            log.warning("a warm sandbox could not be started: %s", error)
            await asyncio.sleep(REFILL_PAUSE_S)
            return
        if self._closed:
            self.discard(box)
        else:
            self._warm.append(box)

    async def close(self) -> None:
        """Ends refills and removes the warm boxes; waits until every removal is through."""
        self._closed = True
        for task in tuple(self._refills):
            task.cancel()
        if self._refills:
            await asyncio.wait(self._refills)
        while self._warm:
            self.discard(self._warm.pop())
        while self._removals:
            await asyncio.wait(self._removals)


def _forget_folder(folder: Path) -> None:
    """What the sandbox left there may belong to a subordinate id; then the end of the job's own
    podman deletes it."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)
