import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from engine_backends import (
    World,
    compiled_tool_server,
    fake_world,
    podman_world,
    task_image,
    why_no_podman,
)


@pytest.fixture(scope="session")
def archive() -> Path:
    return task_image()


@pytest.fixture(scope="session")
def tool_server() -> Path:
    return compiled_tool_server()


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["fake", "podman"])
async def world(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tool_server: Path,
    archive: Path,
) -> AsyncIterator[World]:
    if request.param == "fake":
        async with fake_world(tmp_path_factory.mktemp("fake"), tool_server, archive) as made:
            yield made
        return
    if why := why_no_podman():
        pytest.skip(why)
    async with podman_world(f"conformance-{os.getpid()}", tool_server, archive) as made:
        yield made
