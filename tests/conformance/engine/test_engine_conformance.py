"""What every Engine must do, and what the tool server must do in each of them."""

import asyncio
import os
import secrets
import time
from pathlib import Path

import pytest
from engine_backends import IMAGE, World

from workers.contract.spec import RuntimeSpec
from workers.runtime import limits
from workers.runtime.engine import (
    SANDBOX_UID,
    ContainerId,
    ImageUnavailable,
    NameTaken,
    NoSuchContainer,
)
from workers.runtime.pool import Box
from workers.runtime.toolclient import Command, Outcome, ToolClient, ToolServerLost

pytestmark = pytest.mark.asyncio(loop_scope="module")


def name() -> str:
    return f"t-{secrets.token_hex(4)}"


async def sh(tools: ToolClient, text: str, **options: object) -> Outcome:
    return await tools.run(Command(("sh", "-c", text), **options))  # type: ignore[arg-type]


async def test_an_image_is_known_after_its_archive_was_loaded_and_loading_may_be_repeated(
    world: World,
) -> None:
    assert await world.engine.load_image(world.archive) == (IMAGE,)
    assert await world.engine.has_image(IMAGE)
    assert not await world.engine.has_image("localhost/nobody-built-this:1")


async def test_a_missing_image_and_a_missing_archive_are_told_apart_from_other_failures(
    world: World, tmp_path: Path
) -> None:
    with pytest.raises(ImageUnavailable):
        await world.engine.load_image(tmp_path / "nothing.tar")
    plan = world.plan(name())
    unknown = type(plan)(
        name=plan.name, image="localhost/nobody-built-this:1", control_dir=plan.control_dir
    )
    with pytest.raises(ImageUnavailable):
        await world.engine.create(unknown)


async def test_a_name_is_given_once(world: World) -> None:
    plan = world.plan(name())
    container = await world.engine.create(plan)
    with pytest.raises(NameTaken):
        await world.engine.create(plan)
    await world.engine.remove(container)


async def test_a_started_container_lives_is_listed_and_runs_commands(world: World) -> None:
    own = name()
    container, tools = await world.started(own, labels={"skydeck.run": "r1"})
    assert world.engine.alive(container)
    views = {v.container_id: v for v in await world.engine.list_containers()}
    assert views[container].name == own
    assert views[container].running
    assert views[container].labels["skydeck.run"] == "r1"
    assert (await sh(tools, "echo hi")).stdout == b"hi\n"
    await world.engine.remove(container)
    assert container not in {v.container_id for v in await world.engine.list_containers()}


async def test_kill_ends_every_process_and_may_be_repeated(world: World) -> None:
    container, tools = await world.started(name())
    out = await sh(tools, "setsid sleep 1000 >/dev/null 2>&1 & setsid sleep 1000 & echo $!")
    assert out.exit_code == 0
    await world.engine.kill(container)
    assert not world.engine.alive(container)
    with pytest.raises(ToolServerLost):
        await sh(tools, "true")
    await world.engine.kill(container)
    await world.engine.remove(container)
    await world.engine.remove(container)


async def test_unknown_containers_are_dead_and_gone(world: World) -> None:
    unknown = ContainerId("0" * 64)
    assert not world.engine.alive(unknown)
    await world.engine.kill(unknown)
    await world.engine.remove(unknown)
    with pytest.raises(NoSuchContainer):
        await world.engine.start(unknown)


async def test_two_containers_do_not_see_each_other_s_files(world: World) -> None:
    world.need("isolation")
    (one, first), (two, second) = await world.started(name()), await world.started(name())
    await sh(first, "echo secret > /testbed/mine; echo secret > /tmp/mine")
    out = await sh(second, "cat /testbed/mine /tmp/mine")
    assert out.exit_code != 0
    assert out.stdout == b""
    await world.engine.remove(one)
    await world.engine.remove(two)


async def test_the_host_name_inside_is_the_container_s_name(world: World) -> None:
    world.need("isolation")
    own = name()
    container, tools = await world.started(own)
    assert (await sh(tools, "hostname")).stdout.decode().strip() == own
    await world.engine.remove(container)


async def test_nothing_of_the_job_s_environment_reaches_a_sandbox(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.need("isolation")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    container, tools = await world.started(name())
    text = (await sh(tools, "env; cat /proc/1/environ")).stdout.decode(errors="replace")
    assert "PATH=" in text
    for word in ("SLURM", "PMI", "SKYDECK", "TOKEN", "proxy", "XDG", "CONTAINERS_"):
        assert word not in text
    await world.engine.remove(container)


async def test_a_file_of_a_sandbox_exists_on_the_host_only_in_the_engine_s_storage(
    world: World,
) -> None:
    world.need("isolation")
    container, tools = await world.started(name())
    mark = f"mark-{secrets.token_hex(8)}"
    await sh(tools, f"echo x > /testbed/{mark}; echo x > /tmp/{mark}")
    assert not Path("/testbed", mark).exists()
    assert not Path("/tmp", mark).exists()
    home = world.control.parent
    places = {str(p) for p in home.rglob(mark)} if os.geteuid() == 0 else set()
    assert all(place.startswith(f"{home}/root/overlay/") for place in places)
    await world.engine.remove(container)
    assert not list(home.rglob(mark)) if os.geteuid() == 0 else True


async def test_hardening_is_applied_and_read_back_and_measured(world: World) -> None:
    world.need("hardening")
    own = name()
    container, tools = await world.started(own, memory_mb=64, pids=40)
    box = Box(own, IMAGE, container, world.control / own, tools)
    spec = RuntimeSpec(sandbox_memory_mb=64, sandbox_pids=40)
    measured = {limit.name: limit for limit in await limits.measure(world.engine, box, spec)}
    for always in ("network", "no_new_privileges", "capabilities", "seccomp", "user"):
        assert measured[always].enforced, measured[always]
    assert measured["memory"].enforced, measured["memory"]
    if "cgroups" not in world.gaps:
        assert measured["pids"].enforced, measured["pids"]
    await world.engine.remove(container)


async def test_a_sandbox_cannot_make_namespaces_or_write_outside_its_places(world: World) -> None:
    world.need("hardening")
    container, tools = await world.started(name())
    script = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True);"
        "print(libc.unshare(0x10000000), ctypes.get_errno())"
    )
    out = await tools.run(Command(("python3", "-c", script)))
    assert out.stdout.split()[0] == b"-1"
    out = await sh(tools, "touch /etc/x /usr/x /x; echo x > /run/skydeck/toolserver; id -u")
    assert out.stdout == f"{SANDBOX_UID}\n".encode()
    assert out.stderr.count(b"ermission denied") == 4 or b"Read-only" in out.stderr
    await world.engine.remove(container)


# The tool server


async def test_exit_codes_signals_streams_cwd_env_and_stdin(world: World) -> None:
    container, tools = await world.started(name())
    out = await sh(
        tools,
        "echo out; echo err >&2; pwd; echo $WORD; cat; exit 7",
        cwd="/tmp",
        env={"WORD": "a b=c"},
        stdin=b"given\0bytes",
    )
    assert out.exit_code == 7
    assert out.signal is None
    assert out.stdout == b"out\n/tmp\na b=c\ngiven\0bytes"
    assert out.stderr == b"err\n"
    killed = await sh(tools, "kill -KILL $$")
    assert (killed.exit_code, killed.signal) == (137, 9)
    await world.engine.remove(container)


async def test_large_binary_data_goes_both_ways_unchanged(world: World) -> None:
    container, tools = await world.started(name())
    data = os.urandom(8_000_000)
    out = await tools.run(Command(("cat",), stdin=data, output_limit=len(data)))
    assert out.stdout == data
    assert not out.truncated
    await world.engine.remove(container)


async def test_a_command_that_ignores_its_stdin_is_not_held_up_by_it(world: World) -> None:
    container, tools = await world.started(name())
    out = await tools.run(Command(("true",), stdin=bytes(4_000_000), timeout_s=20))
    assert out.exit_code == 0
    await world.engine.remove(container)


async def test_output_beyond_the_limit_is_dropped_and_said_so(world: World) -> None:
    container, tools = await world.started(name())
    out = await sh(tools, "head -c 3000000 /dev/zero; echo end >&2", output_limit=1000)
    assert len(out.stdout) == 1000
    assert out.truncated
    assert out.exit_code == 0
    assert out.stderr == b"end\n"
    await world.engine.remove(container)


async def test_a_timeout_kills_the_whole_process_group(world: World) -> None:
    container, tools = await world.started(name())
    mark = f"7{secrets.randbelow(10**6):06d}"
    started = time.monotonic()
    out = await sh(tools, f"echo before; sleep {mark} & sleep {mark}", timeout_s=0.3)
    assert time.monotonic() - started < 5
    assert out.timed_out
    assert out.exit_code == -1
    assert out.stdout == b"before\n"
    assert await running(tools, f"sleep {mark}") == 0
    await world.engine.remove(container)


async def test_cancelling_the_call_kills_the_command(world: World) -> None:
    container, tools = await world.started(name())
    mark = f"6{secrets.randbelow(10**6):06d}"
    call = asyncio.ensure_future(sh(tools, f"sleep {mark} & sleep {mark}"))
    await until(lambda: running(tools, f"sleep {mark}"), 2)
    call.cancel()
    await until(lambda: running(tools, f"sleep {mark}"), 0)
    await world.engine.remove(container)


async def test_children_in_the_background_do_not_hold_the_answer(world: World) -> None:
    container, tools = await world.started(name())
    started = time.monotonic()
    out = await sh(tools, "sleep 30 & echo done")
    assert time.monotonic() - started < 10
    assert out.stdout == b"done\n"
    await world.engine.remove(container)


async def test_a_chatty_child_in_the_background_does_not_hold_the_answer(world: World) -> None:
    container, tools = await world.started(name())
    out = await sh(tools, "yes & echo done", output_limit=10_000_000, timeout_s=20)
    assert not out.timed_out
    assert b"done\n" in out.stdout
    await world.engine.remove(container)


async def test_orphans_are_reaped(world: World) -> None:
    world.need("isolation")
    container, tools = await world.started(name())
    await sh(tools, "for i in 1 2 3 4 5 6 7 8; do (sh -c 'exit 0' &) ; done")
    await until(lambda: zombies(tools), 0)
    await world.engine.remove(container)


async def test_a_missing_program_and_a_missing_folder_are_the_command_s_failures(
    world: World,
) -> None:
    container, tools = await world.started(name())
    out = await tools.run(Command(("no-such-program",)))
    assert out.exit_code == 127
    assert b"no-such-program" in out.stderr
    out = await tools.run(Command(("true",), cwd="/no/such/folder"))
    assert out.exit_code == 126
    assert b"/no/such/folder" in out.stderr
    out = await tools.run(Command(("no-such-shell", "-c", "echo $0"), shell=True))
    assert out.exit_code == 0
    await world.engine.remove(container)


async def test_many_commands_at_once_keep_their_outputs_apart(world: World) -> None:
    container, tools = await world.started(name())
    outs = await asyncio.gather(*(sh(tools, f"echo {i}; cat", stdin=b"x" * i) for i in range(40)))
    assert [o.stdout for o in outs] == [f"{i}\n".encode() + b"x" * i for i in range(40)]
    await world.engine.remove(container)


async def test_a_link_in_place_of_the_socket_is_not_followed(world: World, tmp_path: Path) -> None:
    own = name()
    container, tools = await world.started(own)
    reached = asyncio.Event()
    server = await asyncio.start_unix_server(lambda r, w: reached.set(), tmp_path / "host.sock")
    socket = world.control / own / "s"
    socket.unlink()
    socket.symlink_to(tmp_path / "host.sock")
    with pytest.raises(ToolServerLost):
        await sh(tools, "true")
    assert not reached.is_set()
    server.close()
    await world.engine.remove(container)


async def running(tools: ToolClient, what: str) -> int:
    """Processes in the sandbox with exactly these words; zombies have none."""
    script = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' < $f 2>/dev/null; echo; done"
    lines = (await sh(tools, script)).stdout.decode().splitlines()
    return sum(line.strip() == what for line in lines)


async def zombies(tools: ToolClient) -> int:
    script = "cat /proc/[0-9]*/stat 2>/dev/null | grep -c ') Z '"
    return int((await sh(tools, script)).stdout)


async def until(look, wanted: int, deadline_s: float = 15.0) -> None:  # type: ignore[no-untyped-def]
    async with asyncio.timeout(deadline_s):
        while await look() != wanted:
            await asyncio.sleep(0.05)
