"""The life of sandboxes: slots, states, deadlines. The only writer of a sandbox's state."""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.contract.sandbox_api import (
    FailureKind,
    SandboxCreate,
    SandboxOut,
    SandboxState,
    StopReason,
)
from workers.runtime.clock import Clock
from workers.runtime.engine import EngineError, EngineUnreachable, ImageUnavailable
from workers.runtime.errors import (
    LeaseOver,
    NoCapacity,
    SandboxFailed,
    SandboxNotFound,
    SandboxNotReady,
)
from workers.runtime.pool import Box, Pool
from workers.runtime.slots import Slots
from workers.runtime.toolclient import Command, Outcome, ToolProtocolError, ToolServerLost

log = logging.getLogger(__name__)

KEPT_ENDED = 2000
"""Ended sandboxes that are still known by id and key."""

S = SandboxState
ALLOWED: Mapping[SandboxState, frozenset[SandboxState]] = {
    S.REQUESTED: frozenset({S.PREPARING, S.READY, S.FAILED, S.STOPPING}),
    S.PREPARING: frozenset({S.STARTING, S.FAILED, S.STOPPING}),
    S.STARTING: frozenset({S.READY, S.FAILED, S.STOPPING}),
    S.READY: frozenset({S.PAUSED, S.STOPPING, S.FAILED}),
    S.PAUSED: frozenset({S.READY, S.STOPPING, S.FAILED}),
    S.STOPPING: frozenset({S.GONE}),
    S.FAILED: frozenset({S.GONE}),
    S.GONE: frozenset(),
}


@dataclass
class Sandbox:
    """Our record of one sandbox. It exists from the moment it has a slot."""

    request: SandboxCreate
    created_at: str
    requested: float
    sandbox_id: str = ""
    state: SandboxState = S.REQUESTED
    box: Box | None = None
    ready_at: str | None = None
    ended_at: str | None = None
    stop_reason: StopReason | None = None
    failure: FailureKind | None = None
    failure_detail: str = ""
    start_s: float | None = None
    ending: asyncio.Lock = field(default_factory=asyncio.Lock)

    def out(self) -> SandboxOut:
        return SandboxOut(
            sandbox_id=self.sandbox_id,
            client_key=self.request.client_key,
            state=self.state,
            image=self.request.image,
            purpose=self.request.purpose,
            hostname=self.sandbox_id,
            created_at=self.created_at,
            ready_at=self.ready_at,
            ended_at=self.ended_at,
            stop_reason=self.stop_reason,
            failure=self.failure,
            failure_detail=self.failure_detail,
            labels=self.request.labels,
            start_s=self.start_s,
        )


class Sandboxes:
    def __init__(self, slots: Slots, pool: Pool, clock: Clock) -> None:
        self.slots = slots
        self._pool = pool
        self._clock = clock
        self._by_id: dict[str, Sandbox] = {}
        self._by_key: dict[str, asyncio.Task[Sandbox]] = {}
        self._changed: dict[str, SandboxOut] = {}
        self._draining = False

    @property
    def draining(self) -> bool:
        return self._draining

    async def create(self, request: SandboxCreate) -> Sandbox:
        """Waits for slot, image and start; the same key again gets the same sandbox.

        Raises NoCapacity, LeaseOver or SandboxFailed. A caller that goes away leaves the start
        running: it can come back with its key, or the sandbox ends at its deadline.
        """
        if self._draining:
            raise LeaseOver("this runtime drains: it takes no new sandboxes")
        task = self._by_key.get(request.client_key)
        if task is None:
            task = asyncio.ensure_future(self._bring_up(request))
            self._by_key[request.client_key] = task
            task.add_done_callback(lambda done: self._brought_up(request.client_key, done))
        return await asyncio.shield(task)

    def _brought_up(self, key: str, task: "asyncio.Task[Sandbox]") -> None:
        """A request that never got a slot left nothing behind: the same key may ask again."""
        if task.cancelled() or isinstance(task.exception(), NoCapacity | LeaseOver):
            self._by_key.pop(key, None)
        self._pool.refill(self.slots.free)

    async def _bring_up(self, request: SandboxCreate) -> Sandbox:
        sandbox = Sandbox(request, self._clock.iso(), self._clock.monotonic())
        await self.slots.acquire(request.wait_s)
        if self._draining:
            self.slots.release()
            raise LeaseOver("this runtime began to drain")
        box = self._pool.claim(request.image)
        if box is not None:
            self._named(sandbox, box.name)
            self._ready(sandbox, box)
            return sandbox
        await self._start(sandbox, request)
        return sandbox

    async def _start(self, sandbox: Sandbox, request: SandboxCreate) -> None:
        def started(name: str) -> None:
            self._named(sandbox, name)
            self._move(sandbox, S.PREPARING)
            self._move(sandbox, S.STARTING)

        self._pool.refill(self.slots.free)  # a warm box of another image may have to make room
        left = request.wait_s - (self._clock.monotonic() - sandbox.requested)
        try:
            async with asyncio.timeout(max(left, 1.0)):
                box = await self._pool.make(request.image, started)
        except TimeoutError:
            kind, text = FailureKind.START, f"not ready within wait_s = {request.wait_s:.0f} s"
        except ImageUnavailable as error:
            kind, text = FailureKind.IMAGE, str(error)
        except EngineUnreachable as error:
            kind, text = FailureKind.ENGINE, str(error)
        except (EngineError, ToolServerLost, OSError) as error:
            kind, text = FailureKind.START, str(error)
        else:
            if sandbox.state is S.STARTING and not self._draining:
                self._ready(sandbox, box)
                return
            await self._pool.stop(box)
            self._end(sandbox, S.STOPPING)
            raise LeaseOver("the sandbox was stopped while it started")
        if not sandbox.sandbox_id:  # the engine was too busy to even begin
            self.slots.release()
            raise NoCapacity(text)
        self._fail(sandbox, kind, text)
        raise SandboxFailed(kind, text)

    def _named(self, sandbox: Sandbox, name: str) -> None:
        sandbox.sandbox_id = name
        self._by_id[name] = sandbox
        self._publish(sandbox)

    def _ready(self, sandbox: Sandbox, box: Box) -> None:
        sandbox.box = box
        sandbox.ready_at = self._clock.iso()
        sandbox.start_s = round(self._clock.monotonic() - sandbox.requested, 4)
        self._move(sandbox, S.READY)

    def _move(self, sandbox: Sandbox, state: SandboxState) -> None:
        if state not in ALLOWED[sandbox.state]:
            raise AssertionError(f"{sandbox.sandbox_id}: {sandbox.state} -> {state}")
        sandbox.state = state
        self._publish(sandbox)

    def _publish(self, sandbox: Sandbox) -> None:
        if sandbox.sandbox_id:
            self._changed[sandbox.sandbox_id] = sandbox.out()

    def _fail(self, sandbox: Sandbox, kind: FailureKind, detail: str) -> None:
        sandbox.failure = kind
        sandbox.failure_detail = detail[:2000]
        self._end(sandbox, S.STOPPING if sandbox.state is S.STOPPING else S.FAILED)

    def _end(self, sandbox: Sandbox, last: SandboxState) -> None:
        """FAILED or STOPPING, then GONE, and the slot is free: nothing of it runs any more."""
        sandbox.ended_at = self._clock.iso()
        if sandbox.state is not last:
            self._move(sandbox, last)
        self._move(sandbox, S.GONE)
        sandbox.box = None
        self.slots.release()
        self._pool.refill(self.slots.free - self.slots.waiting)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._by_id) > KEPT_ENDED + self.slots.total:
            oldest = next((s for s in self._by_id.values() if s.state is S.GONE), None)
            if oldest is None:
                return
            del self._by_id[oldest.sandbox_id]
            self._by_key.pop(oldest.request.client_key, None)

    def get(self, sandbox_id: str) -> Sandbox:
        try:
            return self._by_id[sandbox_id]
        except KeyError:
            raise SandboxNotFound(f"this runtime has no sandbox {sandbox_id}") from None

    def all(self) -> tuple[Sandbox, ...]:
        return tuple(self._by_id.values())

    async def run(self, sandbox_id: str, command: Command) -> Outcome:
        """Raises SandboxNotReady after the sandbox's end, SandboxFailed if it died under us."""
        sandbox = self.get(sandbox_id)
        box = sandbox.box
        if sandbox.state is not S.READY or box is None:
            raise SandboxNotReady(_why_over(sandbox))
        try:
            return await box.tools.run(command)
        except ToolProtocolError as error:
            raise SandboxFailed(FailureKind.CRASHED, str(error)) from error
        except ToolServerLost as error:
            if sandbox.state is not S.READY:
                raise SandboxNotReady(_why_over(sandbox)) from error
            await self._crashed(sandbox, str(error))
            raise SandboxFailed(FailureKind.CRASHED, str(error)) from error

    async def _crashed(self, sandbox: Sandbox, detail: str) -> None:
        async with sandbox.ending:
            if sandbox.state is S.READY and sandbox.box is not None:
                box = sandbox.box
                sandbox.failure, sandbox.failure_detail = FailureKind.CRASHED, detail[:2000]
                self._move(sandbox, S.FAILED)
                await self._stop_box(box)
                self._end(sandbox, S.FAILED)

    async def stop(self, sandbox_id: str, reason: StopReason) -> None:
        """Returns when nothing runs in it any more. May be repeated; unknown is fine."""
        sandbox = self._by_id.get(sandbox_id)
        if sandbox is None:
            return
        async with sandbox.ending:
            if sandbox.state is S.READY and sandbox.box is not None:
                box = sandbox.box
                sandbox.stop_reason = reason
                self._move(sandbox, S.STOPPING)
                await self._stop_box(box)
                self._end(sandbox, S.STOPPING)
            elif sandbox.state in (S.REQUESTED, S.PREPARING, S.STARTING):
                sandbox.stop_reason = reason
                self._move(sandbox, S.STOPPING)  # whoever starts it sees that and ends it

    async def _stop_box(self, box: Box) -> None:
        try:
            await self._pool.stop(box)
        except EngineError as error:
            log.error("%s: %s", box.name, error)

    async def tick(self) -> None:
        """Ends what is past its deadline and notices what died by itself."""
        now = self._clock.monotonic()
        for sandbox in self.all():
            if sandbox.state is not S.READY or sandbox.box is None:
                continue
            if now - sandbox.requested > sandbox.request.lifetime_s:
                await self.stop(sandbox.sandbox_id, StopReason.DEADLINE)
            elif not self._pool.alive(sandbox.box):
                await self._crashed(sandbox, "the sandbox's first process ended by itself")
        self._pool.refill(self.slots.free - self.slots.waiting)

    def close_door(self) -> None:
        """No new sandboxes from now on; the living ones go on."""
        self._draining = True

    async def drain(self, reason: StopReason) -> None:
        """No new sandboxes; the living ones are stopped. May be repeated."""
        self.close_door()
        await asyncio.gather(*(self.stop(s.sandbox_id, reason) for s in self.all()))

    def changes(self) -> tuple[SandboxOut, ...]:
        return tuple(self._changed.values())

    def acknowledge(self, sent: tuple[SandboxOut, ...]) -> None:
        """These were accepted; what changed again meanwhile stays."""
        for out in sent:
            if self._changed.get(out.sandbox_id) == out:
                del self._changed[out.sandbox_id]


def _why_over(sandbox: Sandbox) -> str:
    if sandbox.failure is not None:
        why = f"failed ({sandbox.failure}): {sandbox.failure_detail}"
    else:
        why = f"stopped ({sandbox.stop_reason})" if sandbox.stop_reason else "not ready yet"
    return f"sandbox {sandbox.sandbox_id} is {sandbox.state}: {why}; ended {sandbox.ended_at}"
