"""Tar archives into and out of a sandbox, by the image's own tar and as the sandbox's user."""

import posixpath

from workers.runtime.errors import InvalidRequest
from workers.runtime.sandboxes import Sandboxes
from workers.runtime.toolclient import Command, Outcome

ARCHIVE_LIMIT = 256 << 20
ARCHIVE_DEADLINE_S = 300.0
_PUT = 'mkdir -p -- "$1" && exec tar -xmof - -C "$1"'
_GET = """[ -e "$1" ] || { echo "$1 does not exist" >&2; exit 66; }
if [ -d "$1" ]; then exec tar -cf - -C "$1" .; fi
exec tar -cf - -C "$(dirname -- "$1")" -- "$(basename -- "$1")"
"""


def checked_path(path: str) -> str:
    """Absolute and without ``..``: where an archive goes is plain to see in a request's log."""
    if not path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise InvalidRequest(f"path {path!r} must be absolute and without '..'")
    return posixpath.normpath(path)


async def put(sandboxes: Sandboxes, sandbox_id: str, path: str, data: bytes) -> None:
    """Unpacks below the folder ``path``, which is made when it is missing."""
    outcome = await sandboxes.run(sandbox_id, _command(_PUT, path, data))
    _check(outcome, path)


async def get(sandboxes: Sandboxes, sandbox_id: str, path: str) -> bytes:
    """A folder's content with names that begin with ``./``, or one file under its own name."""
    outcome = await sandboxes.run(sandbox_id, _command(_GET, path, b""))
    _check(outcome, path)
    if outcome.truncated:
        raise InvalidRequest(f"{path} is larger than {ARCHIVE_LIMIT >> 20} MiB")
    return outcome.stdout


def _command(script: str, path: str, data: bytes) -> Command:
    return Command(
        argv=("sh", "-c", script, "sh", checked_path(path)),
        stdin=data,
        timeout_s=ARCHIVE_DEADLINE_S,
        output_limit=ARCHIVE_LIMIT,
    )


def _check(outcome: Outcome, path: str) -> None:
    if outcome.exit_code != 0:
        text = outcome.stderr.decode("utf-8", "replace").strip()[-1000:]
        raise InvalidRequest(f"archive at {path}: {text or f'exit code {outcome.exit_code}'}")
