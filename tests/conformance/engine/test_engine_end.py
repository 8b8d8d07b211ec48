"""What a podman of one job leaves behind, and what it survives."""

import asyncio
import contextlib
import os
import secrets
import signal
from pathlib import Path

import pytest
from engine_backends import leftovers, podman_world, why_no_podman

from workers import preflight
from workers.runtime import processes
from workers.runtime.engine import EngineBroken
from workers.runtime.podman_home import PodmanHome, PodmanService, home_for
from workers.runtime.settings import SYSTEM_PATH
from workers.runtime.toolclient import Command

DEADLINE_S = 60.0

pytestmark = pytest.mark.skipif(why_no_podman() is not None, reason=str(why_no_podman()))


def job() -> str:
    return f"end-{os.getpid()}-{secrets.token_hex(3)}"


async def test_nothing_is_left_after_close_though_containers_still_ran(
    tool_server: Path, archive: Path
) -> None:
    async with podman_world(job(), tool_server, archive) as world:
        _, tools = await world.started("still-running")
        await tools.run(Command(("sh", "-c", "touch /run/skydeck/control/mine; sleep 1000 &")))
        await world.engine.create(world.plan("never-started"))
    assert world.leftovers() == []


async def test_a_killed_podman_service_is_replaced_and_its_containers_live_on(
    tool_server: Path, archive: Path
) -> None:
    async with podman_world(job(), tool_server, archive) as world:
        container, tools = await world.started("survivor")
        for pid in processes.using(world.control.parent, {b"podman"}):
            with contextlib.suppress(ProcessLookupError):  # some podmans are short-lived
                os.kill(pid, signal.SIGKILL)
        await _until_gone(world.control.parent)
        assert (await tools.run(Command(("true",)))).exit_code == 0
        assert {v.container_id for v in await world.engine.list_containers()} == {container}
        await world.engine.remove(container)
        await world.engine.remove((await world.started("next"))[0])
    assert world.leftovers() == []


async def test_a_restarted_server_clears_what_a_killed_one_left(
    tool_server: Path, archive: Path
) -> None:
    name = job()
    async with podman_world(name, tool_server, archive) as world:
        await world.started("orphan")
        root = world.control.parent
        await processes.kill_trees(processes.using(root), deadline_s=DEADLINE_S)
        assert processes.using(root) == frozenset()
        async with podman_world(name, tool_server, archive) as again:
            assert await again.engine.list_containers() == ()
            await again.started("fresh")
        assert again.leftovers() == []


async def test_two_jobs_of_one_user_do_not_see_each_other(tool_server: Path, archive: Path) -> None:
    async with podman_world(job(), tool_server, archive) as one:
        container, tools = await one.started("same-name")
        async with podman_world(job(), tool_server, archive) as two:
            await two.started("same-name")
            assert len(await two.engine.list_containers()) == 1
        assert two.leftovers() == []
        assert one.engine.alive(container)
        assert (await tools.run(Command(("true",)))).exit_code == 0


async def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    root = home_for(job(), tmp_path if len(str(tmp_path)) < 48 else Path("/tmp"))
    root.symlink_to(tmp_path / "elsewhere")
    home = PodmanHome(root, rootless=False, cgroups=False)
    with pytest.raises(EngineBroken, match="belongs to somebody else"):
        home.prepare()
    root.unlink()
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_podman_that_cannot_start_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    hidden = preflight.UNIFIED if preflight.hybrid_cgroups(preflight.this_node("")) else None
    home = PodmanHome(home_for(job(), Path("/tmp")), os.geteuid() != 0, False, hidden)
    bad = tmp_path / "podman"
    bad.write_text("#!/bin/sh\necho storage is broken >&2\nexit 125\n")
    bad.chmod(0o755)
    service = PodmanService(home, f"{tmp_path}:{SYSTEM_PATH}")
    with pytest.raises(EngineBroken, match="storage is broken"):
        await service.start()
    await service.remove()
    assert leftovers(home) == []


async def _until_gone(root: Path) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while processes.using(root, {b"podman"}):
            await asyncio.sleep(0.02)
