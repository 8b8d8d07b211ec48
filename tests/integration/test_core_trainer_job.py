"""The trainer job around a real process: registration, reports, signals, the exit record."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.factories.http_control_plane import HttpControlPlane, serving
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitRecord, ExitResult
from workers.contract.reports import CheckpointReport, ReportBatch, StepReport
from workers.contract.spec import RunSpec, TrainerSpec
from workers.contract.version import CONTRACT_VERSION

GOOD = """
import json, os, pathlib
print("hello from the trainer", flush=True)
with open("metrics.jsonl", "w") as out:
    for step in (1, 2, 3):
        out.write(json.dumps({"step": step, "data": {"reward": step / 4, "bad": None}}) + "\\n")
        out.flush()
        folder = pathlib.Path(f"checkpoints/step_{step}")
        folder.mkdir()
        (folder / "model").write_text("weights")
        if step != 3:
            (folder / "COMPLETE").touch()
"""
ENDLESS = """
import os, subprocess, sys, time
# A daemon that leaves family, group and session, as those of cluster frameworks do.
daemon = "setsid sleep 300 >/dev/null 2>&1 & echo $!"
pid = subprocess.run(["sh", "-c", daemon], capture_output=True, text=True).stdout
open("pids", "w").write(f"{os.getpid()} {pid}")
time.sleep(300)
"""


@dataclass
class Job:
    directory: Path
    plane: HttpControlPlane
    process: "subprocess.Popen[str] | None" = None

    def write(self, script: str, python: str | None = None) -> None:
        trainer = TrainerSpec(
            integration="command", command=(sys.executable, "-c", script), python=python, steps=3
        )
        attempt = AttemptFile(
            contract_version=CONTRACT_VERSION,
            installation="i",
            run_id="r1",
            attempt=2,
            attempt_dir=str(self.directory),
            control_plane_file=str(self.directory / env.CONTROL_PLANE_FILE),
            spec=RunSpec(name="n", trainer=trainer),
        )
        (self.directory / env.ATTEMPT_FILE_NAME).write_text(attempt.model_dump_json())

    def start(self, script: str, python: str | None = None) -> "subprocess.Popen[str]":
        self.write(script, python)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.training"],
            env={
                **os.environ,
                env.ATTEMPT_FILE: str(self.directory / env.ATTEMPT_FILE_NAME),
                env.JOB_NAME: "sd-job",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def run(self, script: str, python: str | None = None) -> tuple[int, str, ExitRecord]:
        process = self.start(script, python)
        output, _ = process.communicate(timeout=90)
        return process.returncode, output, self.record()

    def record(self) -> ExitRecord:
        path = env.exit_record_path(self.directory, "trainer", 0, 1)
        return ExitRecord.model_validate_json(path.read_bytes())

    def wait_for_trainer(self) -> None:
        for _ in range(600):
            if (self.directory / "pids").exists() and len(self.pids()) == 2:
                return
            threading.Event().wait(0.1)
        raise AssertionError("the trainer did not start")

    def pids(self) -> list[int]:
        return [int(word) for word in (self.directory / "pids").read_text().split()]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    with serving(tmp_path) as plane:
        made = Job(tmp_path, plane)
        yield made
        if made.process is not None and made.process.poll() is None:
            made.process.terminate()
            made.process.communicate(timeout=60)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_run_that_completes_tells_everything_and_says_so(job: Job) -> None:
    code, output, record = job.run(GOOD)
    assert (code, record.result, record.last_step) == (0, ExitResult.COMPLETED, 3), output
    reports = job.plane.reports()
    steps = [r for r in reports if isinstance(r, StepReport)]
    assert [(s.step, s.metrics) for s in steps] == [
        (n, {"reward": n / 4, "bad": None}) for n in (1, 2, 3)
    ]
    checkpoints = {r.step: r for r in reports if isinstance(r, CheckpointReport)}
    assert {step: c.complete for step, c in checkpoints.items()} == {1: True, 2: True, 3: False}
    assert checkpoints[1].bytes == 7
    assert "missing" in checkpoints[3].detail
    assert "hello from the trainer" in output


def test_a_trainer_that_fails_leaves_its_last_words_in_the_record(job: Job) -> None:
    code, _, record = job.run("import sys; print('the reason'); sys.exit(5)")
    assert (code, record.result, record.exit_code) == (5, ExitResult.FAILED, 5)
    assert "the reason" in record.detail


def test_sigterm_ends_the_trainer_and_its_daemons_and_is_a_drain(job: Job) -> None:
    process = job.start(ENDLESS)
    job.wait_for_trainer()
    pids = job.pids()
    assert all(alive(pid) for pid in pids)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (process.returncode, job.record().result) == (0, ExitResult.DRAINED)
    assert not any(alive(pid) for pid in pids)


GRACEFUL = """
import os, pathlib, signal, sys, time
def leave(*_):
    time.sleep(0.7)
    pathlib.Path("left").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
open("pids", "w").write(f"{os.getpid()} {os.getpid()}")
time.sleep(300)
"""


def test_sigterm_leaves_the_trainer_time_to_end_in_order(job: Job) -> None:
    process = job.start(GRACEFUL)
    job.wait_for_trainer()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert (job.directory / "left").exists()


def test_a_main_process_that_is_killed_leaves_no_processes_and_a_last_word(job: Job) -> None:
    process = job.start(ENDLESS)
    job.wait_for_trainer()
    main = json.loads(job.plane.bodies["trainers/register"][0])["pid"]
    assert main != process.pid
    os.kill(main, signal.SIGKILL)
    process.communicate(timeout=60)
    assert (process.returncode, job.record().result) == (1, ExitResult.FAILED)
    assert "killed by SIGKILL" in job.record().detail
    assert not any(alive(pid) for pid in job.pids())


@pytest.mark.parametrize("how", ["410", "stop"])
def test_an_attempt_that_is_over_stops_the_trainer(job: Job, how: str) -> None:
    process = job.start(ENDLESS)
    job.wait_for_trainer()
    if how == "410":
        job.plane.statuses["trainers/heartbeat"] = 410
    else:
        job.plane.beat["stop"] = True
    process.communicate(timeout=60)
    assert job.record().result is ExitResult.SUPERSEDED
    assert not any(alive(pid) for pid in job.pids())


@pytest.mark.parametrize("status", [410, 409])
def test_a_job_whose_place_is_gone_starts_nothing(job: Job, status: int) -> None:
    job.plane.statuses["trainers/register"] = status
    _, _, record = job.run(ENDLESS)
    assert record.result is ExitResult.SUPERSEDED
    assert not (job.directory / "pids").exists()


def test_a_node_without_the_interpreter_fails_preflight_before_anything_begins(job: Job) -> None:
    code, _, record = job.run(GOOD, python="/nowhere/python")
    assert (code, record.result) == (3, ExitResult.PREFLIGHT_FAILED)
    assert "/nowhere/python" in record.detail
    assert job.plane.bodies == {}


def test_an_outage_during_training_changes_nothing_and_the_reports_stay_on_disk(job: Job) -> None:
    job.plane.statuses = {"reports": 503, "trainers/heartbeat": 503}
    _, _, record = job.run(GOOD)
    assert record.result is ExitResult.COMPLETED
    assert str(job.directory / env.SPOOL_DIR) in record.detail
    spooled = list((job.directory / env.SPOOL_DIR).rglob("*.json"))
    batches = [ReportBatch.model_validate_json(path.read_bytes()) for path in spooled]
    assert sum(isinstance(r, StepReport) for b in batches for r in b.reports) == 3


def test_a_control_plane_that_comes_late_is_waited_for(job: Job) -> None:
    job.plane.statuses["trainers/register"] = 503
    process = job.start(GOOD)
    job.plane.wait_for(lambda: len(job.plane.bodies.get("trainers/register", [])) >= 2)
    del job.plane.statuses["trainers/register"]
    process.communicate(timeout=90)
    assert job.record().result is ExitResult.COMPLETED
