"""Makes a fresh sandbox ready for an agent, and proves where its commands run."""

import asyncio
from collections.abc import Mapping

from workers.contract.reports import InvalidReason
from workers.contract.sandbox_api import ExecRequest
from workers.contract.tasks import Task
from workers.training.core.errors import InfrastructureFailure
from workers.training.core.sandbox_client import ArchiveRefused, Sandbox
from workers.training.core.workspace import (
    MAX_ARCHIVE,
    BadArchive,
    File,
    is_ignored,
    is_plain,
    pack,
    text_files,
    unpack,
)

_SETUP_S = 60.0
_PROBE = 'mkdir -p "$1" && cat /proc/sys/kernel/hostname'


class Workspaces:
    """Prepares sandboxes; remembers what an image holds in its working directory.

    That is read once per image, from a sandbox no agent has touched: without it, files of the
    image would look like the agent's, and a patch that repeats them would not apply.
    """

    def __init__(self) -> None:
        self._images: dict[tuple[str, str], Mapping[str, File]] = {}
        self._reading = asyncio.Lock()

    async def prepare(self, task: Task, sandbox: Sandbox) -> tuple[str, Mapping[str, File]]:
        """Writes the task's files. Returns the sandbox's own host name, as a command inside
        printed it, and the files from which the agent starts."""
        hostname = await _probe(task, sandbox)
        of_image = await self._image_files(task, sandbox)
        given = text_files(task.files)
        if given:
            await sandbox.put(task.workdir, pack(given))
        base = {**of_image, **given}
        return hostname, {n: f for n, f in base.items() if is_plain(n) and not is_ignored(n)}

    async def _image_files(self, task: Task, sandbox: Sandbox) -> Mapping[str, File]:
        key = (task.image, task.workdir)
        async with self._reading:
            if key not in self._images:
                self._images[key] = await _read_files(task, sandbox)
        return self._images[key]


async def _probe(task: Task, sandbox: Sandbox) -> str:
    """Raises ``audit_failed`` when commands run anywhere but in the sandbox we were given."""
    argv = ("sh", "-c", _PROBE, "sh", task.workdir)
    result = await sandbox.run(ExecRequest(argv=argv, timeout_s=_SETUP_S))
    if result.exit_code != 0:
        raise InfrastructureFailure(
            InvalidReason.SANDBOX_LOST,
            f"sandbox {sandbox.id}: {task.workdir} cannot be made: {result.stderr[-500:]}",
        )
    hostname = result.stdout.strip()
    if hostname != sandbox.out.hostname:
        raise InfrastructureFailure(
            InvalidReason.AUDIT_FAILED,
            f"a command for sandbox {sandbox.id} ({sandbox.out.hostname}) ran on {hostname!r}",
        )
    return hostname


async def _read_files(task: Task, sandbox: Sandbox) -> Mapping[str, File]:
    try:
        return unpack(await sandbox.fetch(task.workdir, MAX_ARCHIVE), task.workdir).files
    except ArchiveRefused as error:
        raise InfrastructureFailure(
            InvalidReason.IMAGE_FAILED, f"image {task.image}: {error}", retryable=False
        ) from error
    except BadArchive as error:
        raise InfrastructureFailure(InvalidReason.SANDBOX_LOST, str(error)) from error
