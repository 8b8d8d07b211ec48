"""Life of sandboxes: slots, order, keys, deadlines, crashes, warm boxes, drain."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from runtime_world import IMAGE, request, runtime_world

from workers.contract.sandbox_api import FailureKind, SandboxState, StopReason
from workers.runtime import processes
from workers.runtime.errors import (
    LeaseOver,
    NoCapacity,
    SandboxFailed,
    SandboxNotFound,
    SandboxNotReady,
)
from workers.runtime.sandboxes import ALLOWED
from workers.runtime.slots import Slots
from workers.runtime.toolclient import Command


async def until(condition, deadline_s: float = 5.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.01)


def server_pid(folder: Path, sandbox_id: str) -> int:
    """The tool server itself: its own children, one for each connection, came after it."""
    socket = f"{folder}/{sandbox_id}/s\0".encode()
    numbers = map(int, filter(str.isdigit, os.listdir("/proc")))
    return min(pid for pid in numbers if processes.argv(pid).endswith(socket))


async def test_waiters_get_slots_in_the_order_they_came() -> None:
    slots = Slots(1)
    await slots.acquire(1)
    got: list[int] = []

    async def wait(number: int) -> None:
        await slots.acquire(5)
        got.append(number)

    tasks = [asyncio.ensure_future(wait(i)) for i in range(3)]
    await until(lambda: slots.waiting == 3)
    for _ in range(3):
        slots.release()
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert got == [0, 1, 2]
    assert slots.used == 1


async def test_a_waiter_that_gives_up_does_not_lose_a_slot() -> None:
    slots = Slots(1)
    await slots.acquire(1)
    with pytest.raises(NoCapacity, match=r"runtime\.slots"):
        await slots.acquire(0.01)
    leaving = asyncio.ensure_future(slots.acquire(5))
    await until(lambda: slots.waiting == 1)
    slots.release()
    leaving.cancel()
    await asyncio.wait([leaving])
    if leaving.cancelled():
        assert slots.used == 0
    else:
        assert slots.used == 1


async def test_the_same_key_gets_the_same_sandbox_even_while_it_starts(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        one, two = await asyncio.gather(
            world.sandboxes.create(request("k")), world.sandboxes.create(request("k"))
        )
        three = await world.sandboxes.create(request("k"))
        assert one is two is three
        assert world.sandboxes.slots.used == 1


async def test_an_ended_sandbox_is_not_started_anew_under_its_key(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        made = await world.sandboxes.create(request("k"))
        await world.sandboxes.stop(made.sandbox_id, StopReason.RELEASED)
        again = await world.sandboxes.create(request("k"))
        assert again.state is SandboxState.GONE
        assert again.stop_reason is StopReason.RELEASED


async def test_a_full_runtime_says_so_after_the_wait_and_the_key_may_try_again(
    tmp_path: Path,
) -> None:
    async with runtime_world(tmp_path, slots=1) as world:
        first = await world.sandboxes.create(request("a"))
        with pytest.raises(NoCapacity):
            await world.sandboxes.create(request("b", wait_s=0.05))
        await world.sandboxes.stop(first.sandbox_id, StopReason.RELEASED)
        assert (await world.sandboxes.create(request("b"))).state is SandboxState.READY


async def test_a_missing_image_fails_at_once_and_gives_its_slot_back(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        with pytest.raises(SandboxFailed) as failed:
            await world.sandboxes.create(request("k", image="localhost/none:1"))
        assert failed.value.kind is FailureKind.IMAGE
        assert str(failed.value).startswith("image: ")
        assert world.sandboxes.slots.used == 0
        (record,) = world.sandboxes.all()
        assert record.state is SandboxState.GONE
        assert record.failure is FailureKind.IMAGE


async def test_a_sandbox_past_its_deadline_is_stopped(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        made = await world.sandboxes.create(request("k", lifetime_s=60))
        world.time[0] += 59
        await world.sandboxes.tick()
        assert made.state is SandboxState.READY
        world.time[0] += 2
        await world.sandboxes.tick()
        assert made.state is SandboxState.GONE
        assert made.stop_reason is StopReason.DEADLINE
        with pytest.raises(SandboxNotReady, match="deadline"):
            await world.sandboxes.run(made.sandbox_id, Command(("true",)))


async def test_a_crashed_sandbox_fails_as_infrastructure(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        made = await world.sandboxes.create(request("k"))
        os.kill(server_pid(tmp_path, made.sandbox_id), signal.SIGKILL)
        with pytest.raises(SandboxFailed, match="crashed"):
            await world.sandboxes.run(made.sandbox_id, Command(("true",)))
        assert made.failure is FailureKind.CRASHED
        assert world.sandboxes.slots.used == 0


async def test_the_tick_notices_a_sandbox_that_died_by_itself(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        made = await world.sandboxes.create(request("k"))
        os.kill(server_pid(tmp_path, made.sandbox_id), signal.SIGKILL)
        await until(lambda: not world.pool.alive(made.box))
        await world.sandboxes.tick()
        assert made.state is SandboxState.GONE
        assert made.failure is FailureKind.CRASHED


async def test_stopping_under_a_running_command_says_not_ready_rather_than_crashed(
    tmp_path: Path,
) -> None:
    async with runtime_world(tmp_path) as world:
        made = await world.sandboxes.create(request("k"))
        running = asyncio.ensure_future(
            world.sandboxes.run(made.sandbox_id, Command(("sleep", "1000")))
        )
        await asyncio.sleep(0)
        await world.sandboxes.stop(made.sandbox_id, StopReason.CLIENT_STOP)
        with pytest.raises(SandboxNotReady):
            await running
        assert made.failure is None


async def test_warm_boxes_are_claimed_and_replaced_within_the_slots(tmp_path: Path) -> None:
    async with runtime_world(tmp_path, slots=3, warm=2) as world:
        await world.sandboxes.tick()
        await until(lambda: world.pool.warm == 2)
        made = await world.sandboxes.create(request("k"))
        assert made.sandbox_id in ("sb-1", "sb-2")
        await until(lambda: world.pool.warm == 2)
        await world.sandboxes.create(request("k2"))
        await world.sandboxes.create(request("k3"))
        await until(lambda: world.pool.warm == 0)
        assert len(await world.engine.list_containers()) == 3


async def test_a_dead_warm_box_is_never_handed_out(tmp_path: Path) -> None:
    async with runtime_world(tmp_path, slots=2, warm=1) as world:
        await world.sandboxes.tick()
        await until(lambda: world.pool.warm == 1)
        pid = server_pid(tmp_path, "sb-1")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not processes.alive(pid))
        made = await world.sandboxes.create(request("k"))
        assert made.sandbox_id != "sb-1"
        out = await world.sandboxes.run(made.sandbox_id, Command(("true",)))
        assert out.exit_code == 0


async def test_drain_stops_all_and_lets_nobody_in(tmp_path: Path) -> None:
    async with runtime_world(tmp_path, slots=1) as world:
        made = await world.sandboxes.create(request("k"))
        waiting = asyncio.ensure_future(world.sandboxes.create(request("late")))
        await until(lambda: world.sandboxes.slots.waiting == 1)
        await world.sandboxes.drain(StopReason.DRAIN)
        assert made.stop_reason is StopReason.DRAIN
        with pytest.raises(LeaseOver):
            await waiting
        with pytest.raises(LeaseOver):
            await world.sandboxes.create(request("later"))
        assert world.sandboxes.slots.used == 0


async def test_changes_are_kept_until_they_were_accepted(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        made = await world.sandboxes.create(request("k"))
        sent = world.sandboxes.changes()
        assert [s.state for s in sent] == [SandboxState.READY]
        await world.sandboxes.stop(made.sandbox_id, StopReason.RELEASED)
        world.sandboxes.acknowledge(sent)
        later = world.sandboxes.changes()
        assert [s.state for s in later] == [SandboxState.GONE]
        world.sandboxes.acknowledge(later)
        assert world.sandboxes.changes() == ()


async def test_unknown_ids_are_not_found_but_may_be_stopped(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world:
        with pytest.raises(SandboxNotFound):
            world.sandboxes.get("../../etc")
        await world.sandboxes.stop("../../etc", StopReason.RELEASED)


def test_every_state_leads_to_gone() -> None:
    for state in SandboxState:
        reached, todo = set(), [state]
        while todo:
            at = todo.pop()
            if at not in reached:
                reached.add(at)
                todo.extend(ALLOWED[at])
        assert SandboxState.GONE in reached


def test_the_image_of_the_world_is_the_contract_s_default() -> None:
    assert request("k").image == IMAGE
