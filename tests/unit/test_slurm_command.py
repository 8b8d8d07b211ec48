import os
import time
from pathlib import Path

from slurm.command import run_command


def test_output_errors_and_exit_code_come_back_apart() -> None:
    result = run_command(["sh", "-c", "cat; echo no >&2; exit 3"], 5, stdin="in é")
    assert (result.returncode, result.stdout, result.stderr) == (3, "in é", "no\n")
    assert not result.timed_out


def test_a_missing_program_is_named() -> None:
    result = run_command(["no-such-program"], 5)
    assert result.returncode == 127
    assert "no-such-program" in result.text


def test_the_deadline_kills_the_whole_group(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    start = time.monotonic()
    result = run_command(["sh", "-c", f"sleep 60 & echo $! > {pid_file}; wait"], 0.3)
    assert result.timed_out
    assert time.monotonic() - start < 5
    assert not _runs(int(pid_file.read_text()))


def test_the_deadline_holds_against_a_process_that_left_the_group() -> None:
    start = time.monotonic()
    result = run_command(["sh", "-c", "setsid sleep 4 & wait"], 0.3)
    assert result.timed_out
    assert time.monotonic() - start < 3


def _runs(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state in "ZX":
            return False
        os.sched_yield()
    return True
