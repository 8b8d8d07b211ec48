"""The warden: passes signals on, outlives its worker, and cleans up only after a killed one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

SCRIPT = """
import os, signal, subprocess, sys, time
from workers.warden import guarded

def worker():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    # An orphan, as monitors of containers are: it must not confuse whoever waits for the worker.
    subprocess.run(["sh", "-c", "sleep 0 & exit 0"])
    print(os.getpid(), flush=True)
    time.sleep(float(sys.argv[1]))
    return 5

def after_kill(number):
    print("cleaned up after", number.name, flush=True)
    return 9

sys.exit(guarded(worker, after_kill))
"""


@contextmanager
def started(seconds: float) -> "Iterator[tuple[subprocess.Popen[str], int]]":
    warden = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert warden.stdout is not None
    worker = int(warden.stdout.readline())
    try:
        yield warden, worker
    finally:
        warden.kill()
        warden.communicate(timeout=30)


def test_the_worker_s_exit_code_is_the_job_s() -> None:
    with started(0) as (warden, worker):
        output, _ = warden.communicate(timeout=30)
        assert (warden.returncode, output) == (5, "")
        assert worker != warden.pid


def test_a_signal_reaches_the_worker_which_ends_in_its_own_way() -> None:
    with started(60) as (warden, _):
        warden.send_signal(signal.SIGTERM)
        output, _ = warden.communicate(timeout=30)
        assert (warden.returncode, output) == (7, "")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_a_killed_worker_is_cleaned_up_after(number: signal.Signals) -> None:
    with started(60) as (warden, worker):
        os.kill(worker, number)
        output, _ = warden.communicate(timeout=30)
        assert (warden.returncode, output) == (9, f"cleaned up after {number.name}\n")


def test_a_worker_whose_warden_is_killed_is_told_to_stop() -> None:
    with started(60) as (warden, _):
        warden.kill()
        # The worker holds the other end of the pipe: its end is the end of the file.
        output, _ = warden.communicate(timeout=30)
        assert output == ""
