"""Runs one local job and outlives whoever asked for it: ``python -m slurm.local_shepherd JOB_DIR``.

As under Slurm, a job is everything that it ever started, in whatever session or group: all of it
is signalled, and all of it is killed when the batch script ends. SIGTERM to the shepherd cancels.
"""

import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path

from slurm.local_files import Order, Status, write_durably
from slurm.local_process import adopt_orphans, descendants, identify
from slurm.port import SlurmState

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_CLEAN_UP_S = 10.0
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass
class _Watch:
    """What the shepherd has decided so far."""

    leader: int
    limit_at: float
    wait_status: int | None = None
    verdict: SlurmState | None = None
    kill_at: float = float("inf")

    def next_deadline(self) -> float:
        return self.kill_at if self.verdict else self.limit_at


def main(job_dir: Path) -> None:
    """Numbered as it must happen: a crash between two steps leaves files that tell them apart.

    1. Say who we are. 2. Stop if the job was cancelled meanwhile. 3. Run it. 4. Kill what it left
    behind. 5. Say how it ended. The lock ends with this process.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    adopt_orphans()
    order = Order(**json.loads((job_dir / "order.json").read_text()))
    me = identify(os.getpid())
    assert me is not None, "a running process has an identity"
    write_durably(job_dir / "started.json", json.dumps(asdict(me)))
    if (job_dir / "cancel").exists():
        status = Status(SlurmState.CANCELLED, "", time.time(), None, None)
    else:
        status = _run(job_dir / "script", order, mask)
    write_durably(job_dir / "status.json", json.dumps(asdict(status)))


def _run(script: Path, order: Order, mask: Set[int]) -> Status:
    try:
        leader = _start(script, Path(order.log_path), mask)
    except OSError as error:
        return Status(SlurmState.FAILED, f"JobLaunchFailure: {error}", time.time(), None, 53)
    watch = _Watch(leader, time.monotonic() + order.time_limit_s)
    while watch.wait_status is None:
        pause = min(max(watch.next_deadline() - time.monotonic(), 0.0), 3600.0)
        received = signal.sigtimedwait(_SIGNALS, pause)
        _reap(watch)
        if watch.wait_status is None:
            _decide(watch, received.si_signo if received else None, order.grace_s)
    _clean_up()
    return _status(watch)


def _start(script: Path, log_path: Path, mask: Set[int]) -> int:
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            ["/bin/bash", str(script)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_login_environment(),
            start_new_session=True,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, mask),
        )
    return process.pid


def _login_environment() -> dict[str, str]:
    """What a job of this user would find on a cluster; nothing of the control plane's own."""
    user = pwd.getpwuid(os.getuid())
    return {
        "PATH": _PATH,
        "HOME": user.pw_dir,
        "USER": user.pw_name,
        "LOGNAME": user.pw_name,
        "SHELL": user.pw_shell or "/bin/sh",
        "LANG": "C.UTF-8",
    }


def _reap(watch: _Watch) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == watch.leader:
            watch.wait_status = status


def _decide(watch: _Watch, received: int | None, grace_s: float) -> None:
    now = time.monotonic()
    if watch.verdict is None:
        if received is not None and received != signal.SIGCHLD:
            watch.verdict = SlurmState.CANCELLED
        elif now >= watch.limit_at:
            watch.verdict = SlurmState.TIMEOUT
        if watch.verdict is not None:
            watch.kill_at = now + grace_s
            _signal_all(signal.SIGTERM)
    elif now >= watch.kill_at:
        _signal_all(signal.SIGKILL)
        watch.kill_at = now + 0.1


def _clean_up() -> None:
    """Kill until nobody is left; the dead come to us because we adopt orphans."""
    give_up = time.monotonic() + _CLEAN_UP_S
    while time.monotonic() < give_up:
        _signal_all(signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)


def _signal_all(number: signal.Signals) -> None:
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def _status(watch: _Watch) -> Status:
    assert watch.wait_status is not None, "only called when the leader has ended"
    code = os.waitstatus_to_exitcode(watch.wait_status)
    state = watch.verdict or (SlurmState.COMPLETED if code == 0 else SlurmState.FAILED)
    reason = {SlurmState.TIMEOUT: "TimeLimit", SlurmState.FAILED: "NonZeroExitCode"}.get(state, "")
    return Status(
        state,
        reason,
        time.time(),
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
