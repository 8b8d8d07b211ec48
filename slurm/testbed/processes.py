"""Daemons by identity (pid, start time, boot), never by name."""

import json
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from slurm.local_process import ProcessId, identify, send_signal
from slurm.testbed.layout import Layout, TestBedError

_KILL_AFTER_S = 15.0


def launch(layout: Layout, name: str, argv: Sequence[str], env: Mapping[str, str]) -> ProcessId:
    """Start in the background; output goes to ``log/<name>.out``."""
    with (layout.dir / "log" / f"{name}.out").open("ab") as log:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=dict(env),
            cwd="/",
            start_new_session=True,
        )
    identity = identify(process.pid)
    if identity is None:
        raise TestBedError(f"{name} ended at once:\n{tail(layout, name)}")
    layout.identity(name).write_text(json.dumps(asdict(identity)))
    return identity


def find(layout: Layout, name: str) -> ProcessId | None:
    path = layout.identity(name)
    if not path.exists():
        return None
    identity = ProcessId(**json.loads(path.read_text()))
    return identity if identity.alive() else None


def wait_for(layout: Layout, name: str, ready: Callable[[], bool], patience_s: float) -> None:
    end = time.monotonic() + patience_s
    while not ready():
        if find(layout, name) is None or time.monotonic() > end:
            raise TestBedError(
                f"{name} did not come up within {patience_s:.0f} s:\n{tail(layout, name)}"
            )
        time.sleep(0.05)


def stop(layout: Layout, names: Sequence[str]) -> None:
    """TERM to all, KILL to those that stay."""
    alive = {name: found for name in names if (found := find(layout, name))}
    for process in alive.values():
        send_signal(process, signal.SIGTERM)
        send_signal(process, signal.SIGCONT)
    end = time.monotonic() + _KILL_AFTER_S
    while any(process.alive() for process in alive.values()) and time.monotonic() < end:
        time.sleep(0.05)
    for name, process in alive.items():
        send_signal(process, signal.SIGKILL)
        layout.identity(name).unlink(missing_ok=True)


def tail(layout: Layout, name: str) -> str:
    logs = (
        layout.dir / "log" / f"{name}.out",
        layout.dir / "log/slurm" / f"{name}.log",
        layout.dir / "log" / f"{name}.log",
    )
    texts = (path.read_text(errors="replace")[-1500:] for path in logs if path.exists())
    return "\n".join(text for text in texts if text)
