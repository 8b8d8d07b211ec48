"""What Slurm 22.05 prints, word for word, and what it proves."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from slurm import cli_text
from slurm.command import CommandResult
from slurm.port import (
    SchedulerUnreachable,
    SlurmState,
    SubmitAmbiguous,
    SubmitCategory,
    SubmitRejected,
)

RECORDINGS = sorted((Path(__file__).parents[1] / "recordings/slurm").iterdir())
"""One folder a version: ``means`` is our verdict, the rest is what that Slurm really printed."""


def recorded(name: str) -> list[Any]:
    return [
        pytest.param(record, id=f"{folder.name} {' '.join(record['argv'])} {record['means']}")
        for folder in RECORDINGS
        for record in json.loads((folder / name).read_text())
    ]


def result_of(record: dict[str, Any]) -> CommandResult:
    return CommandResult(record["returncode"], record["stdout"], record["stderr"])


@pytest.mark.parametrize("record", recorded("sbatch.json"))
def test_a_real_refusal_or_outage_is_understood(record: dict[str, Any]) -> None:
    error = cli_text.submit_error("sd-x", result_of(record))
    meaning = {SubmitAmbiguous: "ambiguous", SchedulerUnreachable: "unreachable"}
    told = meaning.get(type(error)) or f"rejected: {error.category.value}"
    assert told == record["means"]


@pytest.mark.parametrize("record", recorded("answers.json"))
def test_a_real_answer_about_a_job_is_told_from_an_outage(record: dict[str, Any]) -> None:
    result = result_of(record)
    answered = result.returncode == 0 or cli_text.is_answer_about_a_job(result)
    assert answered is (record["means"] == "answered")


@pytest.mark.parametrize("folder", RECORDINGS, ids=lambda folder: folder.name)
def test_a_real_queue_and_its_accounting_agree(folder: Path) -> None:
    queue = {job.name: job for job in cli_text.parse_squeue((folder / "squeue.txt").read_text())}
    assert {name: job.state for name, job in queue.items()} == {
        "sd-gone": SlurmState.CANCELLED,
        "sd-ended": SlurmState.FAILED,
        "odd|name\nwith a second line": SlurmState.HELD,
        "sd-held": SlurmState.HELD,
        "sd-running": SlurmState.RUNNING,
    }
    for job in cli_text.parse_sacct((folder / "sacct.txt").read_text()):
        seen = queue[job.name]
        assert (job.job_id, job.state, job.nodes) == (seen.job_id, seen.state, seen.nodes)
        assert (job.started_at, job.ended_at) == (seen.started_at, seen.ended_at)


def failed(text: str, code: int = 1) -> CommandResult:
    return CommandResult(code, "", text)


@pytest.mark.parametrize(
    ("text", "category"),
    [
        ("Invalid partition name specified", SubmitCategory.PARTITION),
        ("Required partition not available (inactive or drain)", SubmitCategory.PARTITION),
        ("Invalid account or account/partition combination specified", SubmitCategory.ACCOUNT),
        ("Invalid qos specification", SubmitCategory.QOS),
        ("More processors requested than permitted", SubmitCategory.RESOURCES),
        ("Requested node configuration is not available", SubmitCategory.RESOURCES),
        ("Invalid node name specified", SubmitCategory.RESOURCES),
        ("Invalid generic resource (gres) specification", SubmitCategory.RESOURCES),
        ("Node count specification invalid", SubmitCategory.RESOURCES),
        ("Invalid feature specification", SubmitCategory.RESOURCES),
        (
            "Requested time limit is invalid (missing or exceeds some limit)",
            SubmitCategory.TIME_LIMIT,
        ),
        ("Batch script is empty!", SubmitCategory.SCRIPT),
        ("This does not look like a batch script", SubmitCategory.SCRIPT),
        ("Pathname of a file, directory or other parameter too long", SubmitCategory.SCRIPT),
        ("Invalid user id", SubmitCategory.PERMISSION),
        ("Job dependency problem", SubmitCategory.OTHER),
    ],
)
def test_a_refusal_keeps_its_category_and_its_text(text: str, category: SubmitCategory) -> None:
    full = f"sbatch: error: Batch job submission failed: {text}"
    error = cli_text.submit_error("sd-x", failed(full))
    assert isinstance(error, SubmitRejected)
    assert (error.category, error.text) == (category, full)


@pytest.mark.parametrize(
    "text",
    [
        "sbatch: error: Batch job submission failed: "
        "Unable to contact slurm controller (connect failure)",
        "sbatch: error: Munge encode failed: Failed to access socket: No such file or directory\n"
        "sbatch: error: Batch job submission failed: Protocol authentication error",
        "sbatch: no such program on this machine",
    ],
)
def test_a_request_that_never_left_did_not_happen(text: str) -> None:
    assert isinstance(cli_text.submit_error("sd-x", failed(text)), SchedulerUnreachable)


@pytest.mark.parametrize(
    "limit", ["AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "QOSGrpSubmitJobsLimit"]
)
def test_a_full_queue_is_waited_out_and_is_no_refusal(limit: str) -> None:
    text = (
        f"sbatch: error: {limit}\nsbatch: error: Batch job submission failed: Job violates "
        "accounting/QOS policy (job submit limit, user's size and/or time limits)"
    )
    assert isinstance(cli_text.submit_error("sd-x", failed(text)), SchedulerUnreachable)


def test_a_missing_program_did_not_happen() -> None:
    result = failed("bash: line 1: exec: sbatch: not found", 127)
    assert isinstance(cli_text.submit_error("sd-x", result), SchedulerUnreachable)


@pytest.mark.parametrize(
    "result",
    [
        failed(
            "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
        ),
        failed(
            "sbatch: error: Batch job submission failed: Zero Bytes were transmitted or received"
        ),
        failed("sbatch: error: Batch job submission failed: Protocol authentication error"),
        failed("Segmentation fault", 139),
        failed("", -9),
        CommandResult(-9, "", "", timed_out=True),
    ],
)
def test_anything_else_may_have_happened(result: CommandResult) -> None:
    error = cli_text.submit_error("sd-x", result)
    assert isinstance(error, SubmitAmbiguous)
    assert error.name == "sd-x"


@pytest.mark.parametrize(
    ("printed", "job_id"),
    [("42\n", "42"), ("42;cluster\n", "42"), ("", None), ("Submitted batch job 42\n", None)],
)
def test_the_id_is_read_only_from_the_parsable_form(printed: str, job_id: str | None) -> None:
    assert cli_text.submitted_id(printed) == job_id


SQUEUE = """\
12|PENDING||2026-11-23T02:00:00|2026-11-24T02:00:00|N/A|JobHeldUser|sd-a
13|RUNNING|cpu1|2026-11-23T02:00:00|2026-11-23T02:00:01|2026-11-23T03:00:01|None|sd-b
14|CANCELLED|gpu[1-2]|2026-11-23T02:00:00|2026-11-23T02:00:01|2026-11-23T02:00:09|None|sd-c
15|PENDING||2026-11-23T02:00:00|N/A|N/A|Resources|not|ours
and a second line
16|COMPLETED|cpu1|2026-11-23T02:00:00|2026-11-23T02:00:01|2026-11-23T02:00:09|None|sd-d
"""


def test_a_snapshot_survives_other_jobs_names() -> None:
    jobs = {str(job.job_id): job for job in cli_text.parse_squeue(SQUEUE)}
    assert [job.state for job in jobs.values()] == [
        SlurmState.HELD,
        SlurmState.RUNNING,
        SlurmState.CANCELLED,
        SlurmState.PENDING,
        SlurmState.COMPLETED,
    ]
    assert jobs["15"].name == "not|ours\nand a second line"
    assert jobs["16"].name == "sd-d"


def test_slurms_guesses_of_start_and_end_are_not_facts() -> None:
    held, running, cancelled, *_ = cli_text.parse_squeue(SQUEUE)
    assert held.started_at is None
    assert running.started_at == datetime(2026, 11, 23, 2, 0, 1, tzinfo=UTC)
    assert running.ended_at is None
    assert cancelled.ended_at == datetime(2026, 11, 23, 2, 0, 9, tzinfo=UTC)


@pytest.mark.parametrize("text", ["slurm_load_jobs error\n", "12|RUNNING|cpu1\n"])
def test_output_that_is_none_of_ours_is_no_answer(text: str) -> None:
    with pytest.raises(SchedulerUnreachable):
        cli_text.parse_squeue(text)


def test_accounting_gives_the_exit_code_of_ended_jobs_only() -> None:
    failed_job, cancelled, running = cli_text.parse_sacct(
        "7|FAILED|7:0|cpu1|2026-11-23T02:00:00|2026-11-23T02:00:01|2026-11-23T02:00:02|None|sd-a\n"
        "8|CANCELLED by 997|0:15|None assigned|2026-11-23T02:00:00|None|2026-11-23T02:00:02|None|\n"
        "9|RUNNING|0:0|cpu1|2026-11-23T02:00:00|2026-11-23T02:00:01|Unknown|None|sd-c\n"
    )
    assert (failed_job.state, failed_job.exit_code, failed_job.signal) == (
        SlurmState.FAILED,
        7,
        None,
    )
    assert (cancelled.state, cancelled.signal, cancelled.nodes) == (SlurmState.CANCELLED, 15, "")
    assert (running.state, running.exit_code, running.ended_at) == (SlurmState.RUNNING, None, None)


@pytest.mark.parametrize(
    ("text", "answered"),
    [
        ("Invalid job id specified for job 99", True),
        (
            "scancel: error: Kill job error on job id 7: Job/step already completing or completed",
            True,
        ),
        ("scancel: error: Kill job error on job id 7: Access/permission denied", True),
        ("Unable to contact slurm controller (connect failure)", False),
        ("Socket timed out on send/recv operation", False),
    ],
)
def test_an_answer_about_a_job_is_told_from_no_answer(text: str, answered: bool) -> None:
    assert cli_text.is_answer_about_a_job(failed(text)) is answered
