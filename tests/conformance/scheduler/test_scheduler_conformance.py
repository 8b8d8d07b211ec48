"""What every scheduler must do. A behaviour that one lacks is skipped with the reason it gives."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from scheduler_backends import Backend

from slurm.fake import Outcome
from slurm.port import (
    BatchJob,
    Resources,
    SchedulerError,
    SchedulerUnreachable,
    SlurmJobId,
    SlurmState,
    SubmitAmbiguous,
    SubmitCategory,
    SubmitRejected,
)

DAY_AGO = timedelta(days=1)


def need(backend: Backend, behaviour: str) -> None:
    if behaviour in backend.gaps:
        pytest.skip(f"{behaviour}: {backend.gaps[behaviour]}")


def test_a_submitted_job_is_held_at_once_and_stays_held(backend: Backend) -> None:
    job_id = backend.scheduler.submit(backend.job("sd-held"))
    backend.pass_time(2)
    (seen,) = backend.look("sd-held")
    assert (seen.job_id, seen.state) == (job_id, SlurmState.HELD)
    assert seen.submitted_at is not None
    assert seen.started_at is None
    assert seen.ended_at is None


def test_a_released_job_runs_to_its_end(backend: Backend) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    seen = backend.run(backend.job("sd-good", "sleep 1; exit 0"))
    assert seen.state is SlurmState.COMPLETED
    assert seen.submitted_at
    assert seen.started_at
    assert seen.ended_at
    assert before <= seen.submitted_at <= seen.started_at <= seen.ended_at


def test_a_running_job_is_seen_running(backend: Backend) -> None:
    job_id = backend.scheduler.submit(backend.job("sd-runs", "sleep 60"))
    backend.scheduler.release(job_id)
    seen = backend.running("sd-runs")
    assert seen.started_at is not None
    assert seen.ended_at is None
    assert seen.nodes


def test_a_failing_job_is_failed_and_history_has_its_exit_code(backend: Backend) -> None:
    assert backend.run(backend.job("sd-seven", "exit 7")).state is SlurmState.FAILED
    backend.eventually(lambda: backend.history("sd-seven")[0].state is SlurmState.FAILED)
    assert backend.history("sd-seven")[0].exit_code == 7


def test_release_is_harmless_on_jobs_that_run_ended_or_never_were(backend: Backend) -> None:
    job_id = backend.scheduler.submit(backend.job("sd-again", "sleep 2"))
    for _ in range(2):
        backend.scheduler.release(job_id)
    backend.running("sd-again")
    backend.scheduler.release(job_id)
    backend.ended("sd-again")
    backend.scheduler.release(job_id)
    backend.scheduler.release(SlurmJobId("999999"))
    assert [job.state for job in backend.look("sd-again")] == [SlurmState.COMPLETED]


def test_a_held_job_can_be_cancelled(backend: Backend) -> None:
    backend.scheduler.submit(backend.job("sd-never"))
    backend.scheduler.cancel("sd-never")
    seen = backend.ended("sd-never")
    assert (seen.state, seen.started_at, seen.nodes) == (SlurmState.CANCELLED, None, "")


def test_a_running_job_can_be_cancelled(backend: Backend) -> None:
    job_id = backend.scheduler.submit(backend.job("sd-stop", "sleep 60"))
    backend.scheduler.release(job_id)
    backend.running("sd-stop")
    backend.scheduler.cancel("sd-stop", [job_id])
    assert backend.ended("sd-stop").state is SlurmState.CANCELLED


def test_two_jobs_of_one_name_are_two_jobs_and_cancel_ends_both(backend: Backend) -> None:
    job = backend.job("sd-twin", "sleep 60")
    first, second = backend.scheduler.submit(job), backend.scheduler.submit(job)
    assert first != second
    backend.scheduler.release(first)
    backend.eventually(lambda: SlurmState.RUNNING in {j.state for j in backend.look("sd-twin")})
    backend.scheduler.cancel("sd-twin")
    backend.ended("sd-twin")
    assert {j.job_id: j.state for j in backend.look("sd-twin")} == {
        first: SlurmState.CANCELLED,
        second: SlurmState.CANCELLED,
    }


def test_cancel_by_id_reaches_a_job_of_another_name(backend: Backend) -> None:
    job_id = backend.scheduler.submit(backend.job("sd-by-id"))
    backend.scheduler.cancel("sd-no-such-name", [job_id])
    assert backend.ended("sd-by-id").state is SlurmState.CANCELLED


def test_cancel_is_harmless_when_repeated_or_for_nobody_and_spares_the_rest(
    backend: Backend,
) -> None:
    other = backend.scheduler.submit(backend.job("sd-cancel-other"))
    done = backend.run(backend.job("sd-cancel"))
    for _ in range(2):
        backend.scheduler.cancel("sd-cancel", [done.job_id])
    backend.scheduler.cancel("sd-cancel-nobody", [SlurmJobId("999999")])
    assert backend.look("sd-cancel")[0].state is SlurmState.COMPLETED
    assert [j.job_id for j in backend.look("sd-cancel-other")] == [other]
    assert backend.look("sd-cancel-other")[0].state is SlurmState.HELD


def test_a_snapshot_holds_the_prefix_and_is_empty_when_there_is_none(backend: Backend) -> None:
    backend.scheduler.submit(backend.job("sd-pre-a"))
    backend.scheduler.submit(backend.job("sd-pre-b"))
    backend.scheduler.submit(backend.job("sd-other"))
    assert {j.name for j in backend.scheduler.snapshot("sd-pre-")} == {"sd-pre-a", "sd-pre-b"}
    assert backend.scheduler.snapshot("sd-nobody-") == ()


def test_history_is_silent_about_names_it_never_saw(backend: Backend) -> None:
    since = datetime.now(UTC) - DAY_AGO
    assert backend.scheduler.history(["sd-never-seen"], since) == ()
    assert backend.scheduler.history([], since) == ()


def test_an_outage_is_never_an_empty_answer_and_changes_nothing(backend: Backend) -> None:
    job_id = backend.scheduler.submit(backend.job("sd-out", "sleep 60"))
    slurm, late = backend.scheduler, backend.job("sd-out-late")
    with backend.outage(), ThreadPoolExecutor() as threads:
        answers = {
            "snapshot": threads.submit(slurm.snapshot),
            "release": threads.submit(slurm.release, job_id),
            "cancel": threads.submit(slurm.cancel, "sd-out-other"),
            "submit": threads.submit(slurm.submit, late),
        }
        errors = {call: type(answer.exception()) for call, answer in answers.items()}
    assert errors.pop("submit") in {SchedulerUnreachable, SubmitAmbiguous}
    assert set(errors.values()) == {SchedulerUnreachable}
    backend.eventually(lambda: _answers(backend))
    assert [j.job_id for j in backend.look("sd-out")] == [job_id]
    backend.scheduler.cancel("sd-out-late")


def _answers(backend: Backend) -> bool:
    with suppress(SchedulerError):
        backend.scheduler.snapshot()
        return True
    return False


def test_a_job_that_cannot_be_written_safely_is_rejected(backend: Backend) -> None:
    for changes in (
        {"name": "sd-odd,two"},
        {"comment": "x\n#SBATCH --uid=0"},
        {"resources": Resources(partition="a b")},
        {"resources": Resources(cpus=0)},
    ):
        with pytest.raises(SubmitRejected) as refusal:
            backend.scheduler.submit(replace(backend.job("sd-odd"), **changes))
        assert refusal.value.category is SubmitCategory.SCRIPT
    assert backend.scheduler.snapshot("sd-odd") == ()


def test_an_unknown_partition_is_rejected_as_such(backend: Backend) -> None:
    need(backend, "partitions")
    job = backend.job("sd-nowhere", resources=Resources(partition="no-such-partition"))
    with pytest.raises(SubmitRejected) as refusal:
        backend.scheduler.submit(job)
    assert refusal.value.category is SubmitCategory.PARTITION


def test_a_job_beyond_its_time_limit_times_out(backend: Backend) -> None:
    need(backend, "time_limit")
    job = backend.job(
        "sd-slow",
        "sleep 60",
        Outcome(run_s=1, state=SlurmState.TIMEOUT),
        resources=Resources(time_limit_s=1),
    )
    assert backend.run(job).state is SlurmState.TIMEOUT


def test_a_job_beyond_its_memory_is_out_of_memory(backend: Backend) -> None:
    need(backend, "memory")
    job = backend.job(
        "sd-greedy",
        "x=$(head -c 400000000 /dev/zero | tr '\\0' x)",
        Outcome(state=SlurmState.OUT_OF_MEMORY),
        resources=Resources(memory_mb=100, time_limit_s=120),
    )
    assert backend.run(job).state is SlurmState.OUT_OF_MEMORY


def test_the_worker_gets_exactly_its_environment_arguments_and_folder(backend: Backend) -> None:
    need(backend, "processes")
    odd = "a 'b' \"c\" $HOME `id` \\ ; & ü\n#SBATCH --comment=evil\nlast"
    shell = 'printf "%s|" "$ODD" "$1" "$PWD"; env -0 | tr "\\n\\0" " \\n" | cut -d= -f1'
    job = backend.job("sd-env", environment={"ODD": odd})
    backend.run(_with_command(job, "/bin/bash", "-c", shell, "bash", odd))
    values, _, names = job.log_path.read_text().rpartition("|")
    assert values == f"{odd}|{odd}|{backend.directory}"
    free = {"PATH", "HOME", "LANG", "USER", "LOGNAME", "SHELL", "TMPDIR", "CUDA_VISIBLE_DEVICES"}
    shells_own = {"PWD", "SHLVL", "_", "GPU_DEVICE_ORDINAL", "ROCR_VISIBLE_DEVICES"}
    extra = {n for n in names.split() if not n.startswith(("SLURM_", "SLURMD_"))}
    assert extra - free - shells_own == {"ODD"}


def test_the_log_is_appended_to(backend: Backend) -> None:
    need(backend, "processes")
    job = backend.job("sd-log", "echo out; echo err >&2")
    job.log_path.write_text("earlier\n")
    job.log_path.chmod(0o666)
    backend.run(job)
    assert sorted(job.log_path.read_text().split()) == ["earlier", "err", "out"]


def test_a_worker_that_says_nothing_gets_a_minimal_exit_record(backend: Backend) -> None:
    need(backend, "processes")
    fields = {"run_id": 'r"1%d', "attempt": 2}
    job = backend.job("sd-mute", "kill -KILL $$", exit_record_fields=fields)
    assert backend.run(job).state is SlurmState.FAILED
    record = json.loads(job.exit_record.read_text())
    assert record.pop("detail")
    assert record == {"run_id": 'r"1%d', "attempt": 2, "result": "failed", "exit_code": 137}


def test_a_workers_own_exit_record_is_left_alone(backend: Backend) -> None:
    need(backend, "processes")
    job = backend.job("sd-own")
    backend.run(_with_command(job, "/bin/bash", "-c", f"echo mine > {job.exit_record}; exit 3"))
    assert job.exit_record.read_text() == "mine\n"


def test_a_cancelled_worker_is_told_and_may_finish_in_order(backend: Backend) -> None:
    need(backend, "processes")
    job = backend.job("sd-order")
    shell = f"trap 'echo drained > {job.exit_record}; exit 0' TERM; sleep 60 & wait"
    job_id = backend.scheduler.submit(_with_command(job, "/bin/bash", "-c", shell))
    backend.scheduler.release(job_id)
    backend.running("sd-order")
    backend.eventually(lambda: job.log_path.exists())
    backend.pass_time(0.5)
    backend.scheduler.cancel("sd-order")
    assert backend.ended("sd-order").state is SlurmState.CANCELLED
    assert job.exit_record.read_text() == "drained\n"


@pytest.mark.parametrize("end", ["normal", "cancelled"])
def test_nothing_that_a_job_started_outlives_it(backend: Backend, end: str) -> None:
    need(backend, "processes")
    beat = backend.directory / "beat"
    shell = (
        f"setsid bash -c 'trap \"\" TERM; while :; do echo x >> {beat}; sleep 0.1; done' & disown;"
        f" while [ ! -s {beat} ]; do sleep 0.1; done; {'exit 0' if end == 'normal' else 'sleep 60'}"
    )
    job_id = backend.scheduler.submit(backend.job("sd-orphan", shell))
    backend.scheduler.release(job_id)
    backend.eventually(beat.exists)
    if end == "cancelled":
        backend.scheduler.cancel("sd-orphan")
    backend.ended("sd-orphan")
    backend.pass_time(0.3)
    size = beat.stat().st_size
    backend.pass_time(0.5)
    assert beat.stat().st_size == size


def test_a_folder_that_is_not_there_is_a_failure(backend: Backend) -> None:
    need(backend, "processes")
    job = backend.job("sd-lost", workdir=backend.directory / "missing")
    assert backend.run(job).state is SlurmState.FAILED
    assert json.loads(job.exit_record.read_text())["exit_code"] == 72


def _with_command(job: BatchJob, *argv: str) -> BatchJob:
    return replace(job, command=argv)
