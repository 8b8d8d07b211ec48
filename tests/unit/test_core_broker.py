"""Leases: which runtime is chosen, what an outage changes, and what ends the waiting."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import pytest

from tests.factories.stub_runtime import StubRuntime
from workers.contract.leases import LeaseAnswer, LeaseOut, LeaseRequest
from workers.contract.reports import InvalidReason
from workers.control_plane import ControlPlaneError, Rejected, Superseded, Unavailable
from workers.training.core.broker_client import OUTAGE_GRACE_S, AttachedBroker, LeaseBroker
from workers.training.core.clock import Clock
from workers.training.core.errors import AttemptSuperseded, InfrastructureFailure


def lease(index: int = 0, generation: int = 1, slots: int = 2, expires: float = 60) -> LeaseOut:
    return LeaseOut(
        lease_id=f"l{index}-{generation}",
        runtime_index=index,
        generation=generation,
        url=f"http://runtime{index}-{generation}",
        slots=slots,
        expires_at="2026-01-01T00:00:00Z",
        expires_in_s=expires,
    )


@dataclass
class FakeControlPlane:
    """Gives the answers of a test in turn, then the last for ever."""

    answers: deque[tuple[LeaseOut, ...] | ControlPlaneError]
    asked: list[LeaseRequest] = field(default_factory=list)

    async def lease(self, message: LeaseRequest) -> LeaseAnswer:
        self.asked.append(message)
        answer = self.answers[0] if len(self.answers) == 1 else self.answers.popleft()
        if isinstance(answer, ControlPlaneError):
            raise answer
        return LeaseAnswer(leases=answer)

    async def close(self) -> None: ...


@dataclass
class World:
    answers: list[tuple[LeaseOut, ...] | ControlPlaneError]
    share: int = 1
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.plane = FakeControlPlane(deque(self.answers))
        self.broker = LeaseBroker(
            self.plane,  # type: ignore[arg-type]
            lambda _: StubRuntime().client(),
            "r1",
            1,
            clock=Clock(monotonic=lambda: self.now),
            share=self.share,
        )


async def try_reserve(broker: LeaseBroker) -> bool:
    """True when a slot is there at once."""
    try:
        async with asyncio.timeout(0.02), broker.reserve():
            return True
    except TimeoutError:
        return False


async def test_the_runtime_with_most_free_slots_is_chosen() -> None:
    world = World([(lease(0, slots=1), lease(1, slots=3))])
    await world.broker.renew()
    chosen: list[int] = []
    async with world.broker.reserve() as a, world.broker.reserve() as b:  # noqa: SIM117 - too long
        async with world.broker.reserve() as c, world.broker.reserve() as d:
            chosen = [a.index, b.index, c.index, d.index]
            assert not await try_reserve(world.broker)
    assert sorted(chosen) == [0, 1, 1, 1]
    assert chosen[0] == 1


async def test_a_runtime_to_avoid_is_taken_only_when_there_is_no_other() -> None:
    world = World([(lease(0), lease(1, slots=9)), (lease(1, slots=9),)])
    await world.broker.renew()
    async with world.broker.reserve(frozenset({(1, 1)})) as runtime:
        assert runtime.index == 0
    await world.broker.renew()
    async with world.broker.reserve(frozenset({(1, 1)})) as runtime:
        assert runtime.index == 1


async def test_a_freed_slot_wakes_who_waits() -> None:
    world = World([(lease(slots=1),)])
    await world.broker.renew()
    async with world.broker.reserve():
        waiting = asyncio.create_task(try_reserve_for(world.broker, 1.0))
        await asyncio.sleep(0)
    assert await waiting


async def try_reserve_for(broker: LeaseBroker, seconds: float) -> bool:
    async with asyncio.timeout(seconds), broker.reserve():
        return True


async def test_slots_in_use_survive_a_renewal() -> None:
    world = World([(lease(slots=1),)])
    await world.broker.renew()
    async with world.broker.reserve():
        await world.broker.renew()
        assert not await try_reserve(world.broker)
    assert world.plane.asked[-1].held == ("l0-1",)


async def test_a_new_generation_takes_the_place_of_the_old() -> None:
    world = World([(lease(0, 1),), (lease(0, 2),)])
    await world.broker.renew()
    await world.broker.renew()
    async with world.broker.reserve() as runtime:
        assert (runtime.generation, runtime.client.url) == (2, "http://stub")


async def test_renewal_comes_at_a_third_of_the_shortest_lease() -> None:
    world = World([(lease(0, expires=60), lease(1, expires=30))])
    assert await world.broker.renew() == 10


async def test_an_expired_lease_gives_no_slot() -> None:
    world = World([(lease(expires=60),)])
    await world.broker.renew()
    world.now += 61
    assert not await try_reserve(world.broker)


async def test_an_outage_lets_leases_stand_for_a_grace_and_no_longer() -> None:
    world = World([(lease(expires=60),), Unavailable("down")])
    await world.broker.renew()
    world.now += 20
    await world.broker.renew()
    await world.broker.renew()
    world.now += 100
    assert await try_reserve(world.broker)
    world.now += OUTAGE_GRACE_S
    assert not await try_reserve(world.broker)


async def test_the_answer_that_no_runtime_lives_is_not_an_outage() -> None:
    world = World([(lease(),), Unavailable("none", "no_runtime")])
    await world.broker.renew()
    await world.broker.renew()
    assert not await try_reserve(world.broker)


async def test_processes_that_share_the_slots_divide_them() -> None:
    world = World([(lease(slots=3),)], share=2)
    await world.broker.renew()
    async with world.broker.reserve():
        assert not await try_reserve(world.broker)


@pytest.mark.parametrize("answer", [Superseded("old"), Rejected("401")])
async def test_the_end_of_the_attempt_ends_every_wait(answer: ControlPlaneError) -> None:
    world = World([answer])
    await world.broker.start()
    with pytest.raises(AttemptSuperseded):
        async with world.broker.reserve():
            pass
    await world.broker.close()


async def test_waiting_without_any_runtime_ends_as_an_infrastructure_failure() -> None:
    world = World([()])
    await world.broker.renew()
    world.broker._pool._no_runtime_s = 0.01
    with pytest.raises(InfrastructureFailure) as caught:
        async with world.broker.reserve():
            pass
    assert caught.value.reason is InvalidReason.SANDBOX_LOST


async def test_an_attached_runtime_needs_no_lease() -> None:
    broker = AttachedBroker(StubRuntime(slots=1).client())
    await broker.start()
    async with broker.reserve() as runtime:
        assert (runtime.index, runtime.generation, runtime.free) == (0, 1, 0)
    await broker.close()
