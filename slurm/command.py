"""One external command, one deadline."""

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CommandResult:
    returncode: int
    """127 if there is no such program; negative if a signal ended it."""
    stdout: str
    stderr: str
    timed_out: bool = False
    """Killed at the deadline: what it asked for may have happened."""

    @property
    def text(self) -> str:
        """What it said, for people."""
        if self.timed_out:
            return "no answer before the deadline"
        return self.stderr.strip() or self.stdout.strip() or f"exit code {self.returncode}"


def run_command(argv: Sequence[str], deadline_s: float, stdin: str = "") -> CommandResult:
    """Run ``argv`` in a process group of its own and kill the whole group at the deadline."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError:
        return CommandResult(127, "", f"{argv[0]}: no such program on this machine")
    try:
        out, err = process.communicate(stdin, timeout=deadline_s)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        return CommandResult(-signal.SIGKILL, "", "", timed_out=True)
    return CommandResult(process.returncode, out, err)


def _kill_group(process: subprocess.Popen[str]) -> None:
    # The leader is not reaped yet, so its group id cannot belong to anybody else.
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.communicate(timeout=1)
    except subprocess.TimeoutExpired:
        # Somebody who left the group still holds the pipes: nothing of it is waited for.
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()
