"""The engines that the suite runs against, and what each of them cannot show."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from workers import preflight
from workers.runtime.engine import ContainerId, ContainerPlan, Engine
from workers.runtime.fake_engine import FakeEngine
from workers.runtime.images import archive_name, build_task_image, read_recipe
from workers.runtime.podman import PodmanEngine
from workers.runtime.podman_home import PodmanHome, home_for
from workers.runtime.settings import SYSTEM_PATH
from workers.runtime.toolclient import ToolClient
from workers.runtime.toolserver.build import build

IMAGE = "localhost/skydeck-task:1"
NOT_ISOLATED = "its containers are host processes: nothing is isolated"
FAKE_GAPS = {
    "isolation": NOT_ISOLATED,
    "hardening": NOT_ISOLATED,
    "cgroups": NOT_ISOLATED,
    "storage": "it stores nothing",
}


@dataclass
class World:
    """One engine, ready to make containers of ``IMAGE``."""

    engine: Engine
    control: Path
    archive: Path
    gaps: Mapping[str, str] = field(default_factory=dict[str, str])
    leftovers: Callable[[], list[str]] = list
    """Asked after ``engine.close()``: everything of the engine that is still on this host."""

    def need(self, ability: str) -> None:
        """Skips the test where this engine names the ability as a gap."""
        if ability in self.gaps:
            pytest.skip(self.gaps[ability])

    def plan(self, name: str, **changes: object) -> ContainerPlan:
        folder = self.control / name
        folder.mkdir()
        folder.chmod(0o777)
        return ContainerPlan(name=name, image=IMAGE, control_dir=folder, **changes)  # type: ignore[arg-type]

    async def started(self, name: str, **changes: object) -> tuple[ContainerId, ToolClient]:
        plan = self.plan(name, **changes)
        container = await self.engine.create(plan)
        await self.engine.start(container)
        tools = ToolClient(plan.control_dir)
        await tools.wait_ready(20)
        return container, tools


@asynccontextmanager
async def fake_world(folder: Path, tool_server: Path, archive: Path) -> AsyncIterator[World]:
    control = folder / "c"
    control.mkdir()
    engine = FakeEngine(tool_server)
    await engine.load_image(archive)
    try:
        yield World(engine, control, archive, FAKE_GAPS)
    finally:
        await engine.close()


@asynccontextmanager
async def podman_world(name: str, tool_server: Path, archive: Path) -> AsyncIterator[World]:
    node = preflight.this_node(SYSTEM_PATH)
    hidden = preflight.UNIFIED if preflight.hybrid_cgroups(node) else None
    home = PodmanHome(home_for(name, Path("/tmp")), node.rootless, not node.rootless, hidden)
    engine = await PodmanEngine.open(home, SYSTEM_PATH, tool_server)
    gaps = {"cgroups": "a user has no control groups on this node"} if node.rootless else {}
    try:
        await engine.load_image(archive)
        yield World(engine, home.control, archive, gaps, lambda: leftovers(home))
    finally:
        await engine.close()


def leftovers(home: PodmanHome) -> list[str]:
    """Processes, mounts, folders and control groups that name this home."""
    from workers.runtime import processes
    from workers.runtime.podman_home import mount_points

    found = [f"process {pid} {processes.argv(pid)!r}" for pid in processes.using(home.root)]
    found += [f"mount {point}" for point in mount_points() if str(home.root) in point]
    found += [str(home.root)] if home.root.exists() else []
    return found + [str(p) for p in Path("/sys/fs/cgroup").glob(f"*{home.cgroup_parent}")]


def cache() -> Path:
    return Path(os.environ.get("SKYDECK_TEST_CACHE", "/tmp/skydeck-test-cache"))


def task_image() -> Path:
    """Built once per recipe and machine, in some ten seconds."""
    recipe = read_recipe()
    return build_task_image(cache() / archive_name(recipe), recipe, lambda _: None)


def compiled_tool_server() -> Path:
    return build(cache())


def why_no_podman() -> str | None:
    missing = [name for name in ("podman", "crun", "conmon") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None
