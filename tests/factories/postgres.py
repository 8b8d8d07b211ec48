"""A real PostgreSQL of this test session: own folder, own socket, no network, no persistence."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_BINARIES = Path("/usr/lib/postgresql/15/bin")
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "shared_buffers=32MB")
_NOBODY = "postgres"


def binary(name: str) -> str:
    found = shutil.which(name, path=f"{_BINARIES}:/usr/local/bin:/usr/bin")
    if found is None:
        raise RuntimeError(
            f"{name} is missing: these tests run on a real PostgreSQL too. Run `make setup-test`, "
            "or install the Debian package postgresql-15"
        )
    return found


@contextmanager
def postgres_server() -> Iterator[str]:
    """Yields the URL of its maintenance database; stops the server by its process id."""
    folder = Path(tempfile.mkdtemp(prefix="skydeck-pg-", dir="/tmp"))  # sockets need short paths
    folder.chmod(0o755)
    data, sockets = folder / "data", folder / "s"
    try:
        sockets.mkdir()
        _give_away(folder)
        as_user = _unprivileged()
        _run([*as_user, binary("initdb"), "-D", str(data), "-U", "skydeck", "-A", "trust", "-N"])
        server = _start(as_user, data, sockets)
        try:
            _wait(as_user, sockets, server)
            yield f"postgresql+psycopg://skydeck@/postgres?host={sockets}"
        finally:
            _stop(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged() -> list[str]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam(_NOBODY)
    return [
        binary("setpriv"),
        f"--reuid={user.pw_uid}",
        f"--regid={user.pw_gid}",
        "--clear-groups",
    ]


def _give_away(folder: Path) -> None:
    if os.geteuid() != 0:
        return
    user = pwd.getpwnam(_NOBODY)
    for path in (folder, *folder.iterdir()):
        os.chown(path, user.pw_uid, user.pw_gid)


def _start(as_user: list[str], data: Path, sockets: Path) -> subprocess.Popen[bytes]:
    options = [part for setting in _FAST for part in ("-c", setting)]
    command = [*as_user, binary("postgres"), "-D", str(data), "-k", str(sockets), "-h", ""]
    return subprocess.Popen(
        [*command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,
    )


def _wait(as_user: list[str], sockets: Path, server: subprocess.Popen[bytes]) -> None:
    ready = [*as_user, binary("pg_isready"), "-q", "-h", str(sockets), "-U", "skydeck", "-t", "1"]
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"postgres ended with exit code {server.returncode}")
        if subprocess.run(ready, cwd="/", check=False).returncode == 0:
            return
        # The server is another process: only its own pace can be waited for.
        with suppress(subprocess.TimeoutExpired):
            server.wait(0.05)
    raise RuntimeError("postgres did not become ready")


def _stop(server: subprocess.Popen[bytes]) -> None:
    # setpriv becomes postgres, so the child's own id is the postmaster's. SIGINT: fast shutdown.
    if server.poll() is None:
        server.send_signal(signal.SIGINT)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command} failed: {done.stderr}")
