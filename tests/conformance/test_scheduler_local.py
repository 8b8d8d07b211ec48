"""The local scheduler's own promises: whatever is killed, jobs live on and are accounted for."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from slurm.local import LocalScheduler
from slurm.local_files import Journal, supervisor_pid
from slurm.local_process import ProcessId, identify
from slurm.port import (
    BatchJob,
    JobSnapshot,
    Resources,
    SchedulerUnreachable,
    SlurmState,
    SubmitAmbiguous,
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for supervisor in filter(None, (supervisor_pid(d) for d in tmp_path.glob("sched*"))):
        scheduler = LocalScheduler(tmp_path / "sched", start_supervisor=False)
        for job in scheduler.snapshot():
            scheduler.cancel(job.name)
        wait_for(lambda s=scheduler: all(j.ended_at for j in s.snapshot()))
        os.kill(supervisor.pid, signal.SIGTERM)


def scheduler(folder: Path, **options: object) -> LocalScheduler:
    return LocalScheduler(folder / "sched", grace_s=1.0, idle_exit_s=60.0, **options)  # type: ignore[arg-type]


def job(folder: Path, name: str, shell: str, cpus: int = 1) -> BatchJob:
    return BatchJob(
        name=name,
        command=("/bin/bash", "-c", shell),
        workdir=folder,
        log_path=folder / f"{name}.log",
        exit_record=folder / f"{name}.json",
        resources=Resources(cpus=cpus, time_limit_s=60),
    )


def start(local: LocalScheduler, batch: BatchJob) -> None:
    local.release(local.submit(batch))


def one(local: LocalScheduler, name: str) -> JobSnapshot:
    (seen,) = (j for j in local.snapshot(name) if j.name == name)
    return seen


def ended(local: LocalScheduler, name: str) -> JobSnapshot:
    wait_for(lambda: one(local, name).ended_at is not None)
    return one(local, name)


def wait_for(good: Callable[[], bool], patience_s: float = 60.0) -> None:
    for _ in range(int(patience_s / 0.05)):
        if good():
            return
        threading.Event().wait(0.05)
    raise AssertionError(f"not within {patience_s} s")


def supervisor(folder: Path) -> ProcessId:
    found = supervisor_pid(folder / "sched")
    assert found is not None
    return found


def kill(process: ProcessId) -> None:
    os.kill(process.pid, signal.SIGKILL)
    wait_for(lambda: not process.alive())


def test_a_job_goes_on_when_the_supervisor_is_killed_and_the_next_one_adopts_it(
    folder: Path,
) -> None:
    local, go = scheduler(folder), folder / "go"
    start(local, job(folder, "sd-a", f"while [ ! -e {go} ]; do sleep 0.1; done; exit 7"))
    wait_for(lambda: one(local, "sd-a").state is SlurmState.RUNNING)
    before = supervisor(folder)
    kill(before)
    assert one(local, "sd-a").state is SlurmState.RUNNING
    assert supervisor(folder) != before
    go.touch()
    assert (ended(local, "sd-a").state, one(local, "sd-a").exit_code) == (SlurmState.FAILED, 7)


def test_the_end_of_a_job_that_nobody_supervised_is_known_afterwards(folder: Path) -> None:
    local, done = scheduler(folder), folder / "done"
    start(local, job(folder, "sd-b", f"sleep 0.5; touch {done}; exit 3"))
    wait_for(lambda: one(local, "sd-b").state is SlurmState.RUNNING)
    kill(supervisor(folder))
    wait_for(done.exists)
    assert ended(local, "sd-b").exit_code == 3


def test_an_adopted_job_can_be_cancelled(folder: Path) -> None:
    local = scheduler(folder)
    start(local, job(folder, "sd-c", "sleep 60"))
    wait_for((folder / "sched/jobs/1/started.json").exists)
    kill(supervisor(folder))
    local.cancel("sd-c")
    assert ended(local, "sd-c").state is SlurmState.CANCELLED


def test_a_job_whose_shepherd_is_killed_is_lost_with_its_node(folder: Path) -> None:
    local = scheduler(folder)
    start(local, job(folder, "sd-d", f"echo $$ > {folder}/pid; sleep 20"))
    wait_for(lambda: (folder / "pid").exists() and bool((folder / "pid").read_text()))
    worker = identify(int((folder / "pid").read_text()))
    started = (folder / "sched/jobs/1/started.json").read_text()
    os.kill(int(started.split('"pid": ')[1].split(",")[0]), signal.SIGKILL)
    assert ended(local, "sd-d").state is SlurmState.NODE_FAIL
    assert worker is not None
    if worker.alive():  # as on a real cluster, what ran there may live on
        os.kill(worker.pid, signal.SIGKILL)


def test_a_job_that_was_to_start_when_the_supervisor_died_starts_later(folder: Path) -> None:
    local = scheduler(folder)
    local.submit(job(folder, "sd-e", "exit 0"))
    kill(supervisor(folder))
    journal = Journal(folder / "sched/journal.jsonl")
    journal.append(replace(journal.load()[1], state=SlurmState.RUNNING, started_at=1.0))
    assert ended(local, "sd-e").state is SlurmState.COMPLETED


def test_a_job_that_cannot_be_started_fails_instead_of_being_tried_for_ever(folder: Path) -> None:
    local = scheduler(folder)
    job_id = local.submit(job(folder, "sd-x", "exit 0"))
    (folder / f"sched/jobs/{job_id}/order.json").write_text("{}")
    local.release(job_id)
    assert ended(local, "sd-x").state is SlurmState.FAILED
    assert "does not start" in one(local, "sd-x").reason


def test_a_line_that_a_crash_tore_is_left_out(folder: Path) -> None:
    local = scheduler(folder)
    local.submit(job(folder, "sd-f", "exit 0"))
    kill(supervisor(folder))
    with (folder / "sched/journal.jsonl").open("a") as file:
        file.write('{"id": 2, "name": "sd-')
    assert [j.name for j in local.snapshot()] == ["sd-f"]
    assert local.submit(job(folder, "sd-g", "exit 0")) == "2"
    assert [j.name for j in local.snapshot()] == ["sd-f", "sd-g"]


def test_a_job_outlives_the_process_that_submitted_it(folder: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/conformance'); from pathlib import Path;"
        " import test_scheduler_local as t; f = Path(sys.argv[1]);"
        " t.start(t.scheduler(f), t.job(f, 'sd-h', 'sleep 0.5; exit 4'))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(folder)], cwd=root, check=True)
    assert ended(scheduler(folder), "sd-h").exit_code == 4


def test_jobs_wait_while_the_cpus_are_taken(folder: Path) -> None:
    local, go = scheduler(folder, cpus=2), folder / "go"
    start(local, job(folder, "sd-big", f"while [ ! -e {go} ]; do sleep 0.1; done", cpus=2))
    start(local, job(folder, "sd-next", "exit 0"))
    wait_for(lambda: one(local, "sd-big").state is SlurmState.RUNNING)
    assert one(local, "sd-next").state is SlurmState.PENDING
    assert one(local, "sd-next").reason == "Resources"
    go.touch()
    assert ended(local, "sd-next").state is SlurmState.COMPLETED
    assert one(local, "sd-next").started_at >= one(local, "sd-big").ended_at


def test_without_leave_to_start_a_supervisor_the_error_says_how_to(folder: Path) -> None:
    local = scheduler(folder, start_supervisor=False)
    with pytest.raises(SchedulerUnreachable, match=r"python -m slurm\.local_supervisor"):
        local.snapshot()
    assert not (folder / "sched").exists()


def test_two_that_start_a_supervisor_at_once_get_one(folder: Path) -> None:
    threads = [threading.Thread(target=scheduler(folder).snapshot) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log = (folder / "sched/supervisor.log").read_text()
    assert log.count("serves") == 1


def test_what_a_frozen_supervisor_was_told_is_found_by_name_later(folder: Path) -> None:
    local = scheduler(folder)
    local.snapshot()
    frozen = supervisor(folder)
    os.kill(frozen.pid, signal.SIGSTOP)
    try:
        with pytest.raises(SubmitAmbiguous, match="sd-late"):
            scheduler(folder, deadline_s=1.0).submit(job(folder, "sd-late", "exit 0"))
    finally:
        os.kill(frozen.pid, signal.SIGCONT)
    wait_for(lambda: bool(local.snapshot("sd-late")))
    assert one(local, "sd-late").state is SlurmState.HELD


def test_nobody_else_can_reach_the_supervisor(folder: Path) -> None:
    scheduler(folder).snapshot()
    assert stat.S_IMODE((folder / "sched").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "sched/socket").stat().st_mode) == 0o600


def test_a_folder_with_a_long_name_will_do(folder: Path) -> None:
    deep = folder / ("d" * 60) / ("e" * 60)
    local = LocalScheduler(deep, idle_exit_s=3.0)
    assert local.snapshot() == ()
    found = supervisor_pid(deep)
    assert found is not None
    wait_for(lambda: not found.alive())


def test_an_idle_supervisor_ends_and_a_busy_one_does_not(folder: Path) -> None:
    local = LocalScheduler(folder / "sched", idle_exit_s=1.0)
    batch = job(folder, "sd-busy", f"while [ ! -e {folder}/go ]; do sleep 0.1; done")
    start(local, batch)
    busy = supervisor(folder)
    threading.Event().wait(2.0)
    assert busy.alive()
    (folder / "go").touch()
    wait_for(lambda: not busy.alive())
    assert one(local, "sd-busy").state is SlurmState.COMPLETED
