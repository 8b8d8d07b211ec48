"""Which runtime takes the next sandbox: leases, their renewal, and the count of free slots.

A lease is permission to use one generation of a runtime until a time. While the control plane is
silent, leases stand for a grace beyond their end: a generation that is really over refuses by
itself (its token and its state are its own), so an outage need not stop the training.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from workers.contract.leases import LeaseOut, LeaseRequest
from workers.contract.reports import InvalidReason
from workers.control_plane import (
    AsyncControlPlane,
    ControlPlaneError,
    Superseded,
    Unavailable,
)
from workers.training.core.clock import Clock
from workers.training.core.errors import AttemptSuperseded, InfrastructureFailure
from workers.training.core.sandbox_client import SandboxClient

OUTAGE_GRACE_S = 900.0
NO_RUNTIME_S = 600.0
"""How long rollouts wait for any runtime at all before they become INVALID."""
NO_RUNTIME_CODE = "no_runtime"
_RETRY_S = 2.0

ClientFactory = Callable[[str], SandboxClient]
RuntimeKey = tuple[int, int]
"""Index and generation."""


@dataclass(slots=True)
class LeasedRuntime:
    """One generation that may be used, and how much of it is."""

    index: int
    generation: int
    slots: int
    client: SandboxClient
    expires_at: float
    """On the monotonic clock."""
    lease_id: str | None = None
    in_grace: bool = False
    used: int = 0

    @property
    def key(self) -> RuntimeKey:
        return (self.index, self.generation)

    @property
    def free(self) -> int:
        return self.slots - self.used


class Broker(Protocol):
    """Where rollouts get their runtime from."""

    def reserve(
        self, avoid: frozenset[RuntimeKey] = frozenset()
    ) -> AbstractAsyncContextManager[LeasedRuntime]:
        """One slot, waited for. Runtimes in ``avoid`` are taken only if there is no other.

        Raises ``InfrastructureFailure`` when no runtime lives for :data:`NO_RUNTIME_S`, and
        ``AttemptSuperseded``.
        """
        ...

    async def close(self) -> None: ...


class SlotPool:
    """Slots of the runtimes at hand, handed out first come, first served."""

    def __init__(self, clock: Clock, no_runtime_s: float = NO_RUNTIME_S) -> None:
        self._clock = clock
        self._no_runtime_s = no_runtime_s
        self._runtimes: dict[RuntimeKey, LeasedRuntime] = {}
        self._changed = asyncio.Condition()
        self._over: AttemptSuperseded | None = None

    @property
    def runtimes(self) -> Mapping[RuntimeKey, LeasedRuntime]:
        return self._runtimes

    async def update(self, runtimes: Mapping[RuntimeKey, LeasedRuntime]) -> None:
        """Replaces what is known; slots in use of those that stay are kept."""
        async with self._changed:
            self._runtimes = dict(runtimes)
            self._changed.notify_all()

    async def fail(self, over: AttemptSuperseded) -> None:
        """Ends every wait, now and later."""
        async with self._changed:
            self._over = over
            self._changed.notify_all()

    @asynccontextmanager
    async def reserve(
        self, avoid: frozenset[RuntimeKey] = frozenset()
    ) -> AsyncGenerator[LeasedRuntime, None]:
        runtime = await self._take(avoid)
        try:
            yield runtime
        finally:
            runtime.used -= 1
            async with self._changed:
                self._changed.notify_all()

    async def _take(self, avoid: frozenset[RuntimeKey]) -> LeasedRuntime:
        empty_since: float | None = None
        async with self._changed:
            while True:
                if self._over is not None:
                    raise self._over
                chosen = self._choose(avoid)
                if chosen is not None:
                    chosen.used += 1
                    return chosen
                if self._usable():
                    # Full: waited for without end, for its rollouts have deadlines of their own.
                    empty_since = None
                    await self._changed.wait()
                else:
                    empty_since = empty_since or self._clock.monotonic()
                    await self._wait_for_runtime(empty_since)

    async def _wait_for_runtime(self, since: float) -> None:
        left = since + self._no_runtime_s - self._clock.monotonic()
        try:
            async with asyncio.timeout(max(0.0, left)):
                await self._changed.wait()
        except TimeoutError:
            raise InfrastructureFailure(
                InvalidReason.SANDBOX_LOST,
                f"no runtime for {self._no_runtime_s:.0f} s; see the runtime jobs of this run",
            ) from None

    def _usable(self) -> list[LeasedRuntime]:
        now = self._clock.monotonic()
        return [runtime for runtime in self._runtimes.values() if runtime.expires_at > now]

    def _choose(self, avoid: frozenset[RuntimeKey]) -> LeasedRuntime | None:
        usable = self._usable()
        preferred = [runtime for runtime in usable if runtime.key not in avoid] or usable
        free = [runtime for runtime in preferred if runtime.free > 0]
        return max(free, key=lambda runtime: runtime.free, default=None)


class LeaseBroker:
    """Keeps one lease per live runtime. Start it in the event loop that will use it."""

    def __init__(
        self,
        control_plane: AsyncControlPlane,
        connect: ClientFactory,
        run_id: str,
        attempt: int,
        *,
        clock: Clock | None = None,
        share: int = 1,
    ) -> None:
        """``share``: this many processes divide the slots among themselves."""
        self._control_plane = control_plane
        self._connect = connect
        self._run_id = run_id
        self._attempt = attempt
        self._clock = clock or Clock()
        self._share = share
        self._pool = SlotPool(self._clock)
        self._clients: dict[str, SandboxClient] = {}
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes the first leases in the background; :meth:`reserve` waits for them."""
        self._renewing = asyncio.create_task(self._renew_for_ever(), name="renew-leases")

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        for client in self._clients.values():
            await client.close()
        await self._control_plane.close()

    def reserve(
        self, avoid: frozenset[RuntimeKey] = frozenset()
    ) -> AbstractAsyncContextManager[LeasedRuntime]:
        return self._pool.reserve(avoid)

    async def _renew_for_ever(self) -> None:
        while True:
            try:
                wait_s = await self.renew()
            except AttemptSuperseded as over:
                await self._pool.fail(over)
                return
            await self._clock.sleep(wait_s)

    async def renew(self) -> float:
        """One round with the control plane; returns seconds until the next."""
        held = tuple(r.lease_id for r in self._pool.runtimes.values() if r.lease_id is not None)
        request = LeaseRequest(run_id=self._run_id, attempt=self._attempt, held=held)
        try:
            answer = await self._control_plane.lease(request)
        except Superseded as error:
            raise AttemptSuperseded(str(error)) from error
        except Unavailable as error:
            await self._silent(error)
            return error.retry_after_s or _RETRY_S
        except ControlPlaneError as error:
            raise AttemptSuperseded(f"no lease can be had any more: {error}") from error
        await self._pool.update({_key(lease): self._leased(lease) for lease in answer.leases})
        shortest = min((lease.expires_in_s for lease in answer.leases), default=_RETRY_S * 3)
        return max(0.5, shortest / 3)

    def _leased(self, lease: LeaseOut) -> LeasedRuntime:
        known = self._pool.runtimes.get(_key(lease))
        if known is None:
            known = LeasedRuntime(lease.runtime_index, lease.generation, 0, self._client(lease), 0)
        known.lease_id = lease.lease_id
        known.in_grace = False
        known.slots = max(1, lease.slots // self._share)
        known.expires_at = self._clock.monotonic() + lease.expires_in_s
        return known

    def _client(self, lease: LeaseOut) -> SandboxClient:
        """Kept until the end: rollouts of a generation that is over still give sandboxes back."""
        if lease.url not in self._clients:
            self._clients[lease.url] = self._connect(lease.url)
        return self._clients[lease.url]

    async def _silent(self, error: Unavailable) -> None:
        """What still stands keeps standing within the grace, unless we were told otherwise."""
        if error.code == NO_RUNTIME_CODE:
            await self._pool.update({})
            return
        now = self._clock.monotonic()
        for runtime in self._pool.runtimes.values():
            if not runtime.in_grace and runtime.expires_at > now:
                runtime.expires_at += OUTAGE_GRACE_S
                runtime.in_grace = True


class AttachedBroker:
    """The runtime of an attached run: somebody else started it, no lease is given for it."""

    def __init__(
        self, client: SandboxClient, *, clock: Clock | None = None, share: int = 1
    ) -> None:
        self._client = client
        self._share = share
        self._clock = clock or Clock()
        self._pool = SlotPool(self._clock)

    async def start(self) -> None:
        """Asks the runtime who it is. Raises ``InfrastructureFailure`` when it does not answer."""
        health = await self._client.health()
        runtime = LeasedRuntime(
            health.index,
            health.generation,
            max(1, health.slots // self._share),
            self._client,
            float("inf"),
        )
        await self._pool.update({runtime.key: runtime})

    async def close(self) -> None:
        await self._client.close()

    def reserve(
        self, avoid: frozenset[RuntimeKey] = frozenset()
    ) -> AbstractAsyncContextManager[LeasedRuntime]:
        return self._pool.reserve(avoid)


def _key(lease: LeaseOut) -> RuntimeKey:
    return (lease.runtime_index, lease.generation)
