"""``python -m workers.runtime``: the server of a runtime job. Everything comes from its
environment, see :mod:`workers.contract.env`."""

import asyncio
import logging
import os
import sys

from workers import preflight
from workers.runtime.job import run
from workers.runtime.settings import SettingsError, read_settings

IN_NAMESPACE = "--in-private-namespace"
_UNMOUNT = 'umount "$0"; exec "$@"'


def main(arguments: list[str]) -> int:
    node = preflight.this_node(os.environ.get("PATH", os.defpath))
    if not node.rootless and IN_NAMESPACE not in arguments and preflight.hybrid_cgroups(node):
        _enter_private_namespace()
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        settings = read_settings(os.environ, cores=len(os.sched_getaffinity(0)))
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    ending = asyncio.run(run(settings))
    print(f"runtime: {ending.result.value} {ending.detail}", file=sys.stderr, flush=True)
    return ending.exit_code


def _enter_private_namespace() -> None:
    """crun starts no container while cgroup v2 is mounted beside v1. Root may unmount it for itself
    alone; the process stays the same, so the scheduler's pid remains right."""
    again = [sys.executable, "-m", "workers.runtime", IN_NAMESPACE]
    unshare = ["unshare", "--mount", "--propagation", "private"]
    command = [*unshare, "sh", "-c", _UNMOUNT, str(preflight.UNIFIED), *again]
    os.execvp(command[0], command)  # noqa: S606 - argv is built above, from no input


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
