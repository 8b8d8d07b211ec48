"""What Slurm's commands print, and what it means. Pure."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

from slurm.command import CommandResult
from slurm.port import (
    FINAL_STATES,
    JobSnapshot,
    SchedulerError,
    SchedulerUnreachable,
    SlurmJobId,
    SlurmState,
    SubmitAmbiguous,
    SubmitCategory,
    SubmitRejected,
)
from slurm.states import normalise

SQUEUE_FORMAT = "%A|%T|%N|%V|%S|%e|%r|%j"
"""The name is last: other jobs of this user may have any text in theirs, also ``|``."""

SACCT_FORMAT = "JobIDRaw,State,ExitCode,NodeList,Submit,Start,End,Reason,JobName"

_SQUEUE_LINE = re.compile(r"\d+\|[A-Z_]+\|")

_NOT_SENT = (
    "(connect failure)",
    "munge encode failed",
    "no such program on this machine",
    "unable to establish configuration source",
)
"""Certainly nothing happened: the request never left this machine."""

_NOT_NOW = ("maxsubmitjob", "grpsubmitjob")
"""This user has as many jobs in the queue as the site allows: refused now, not for good."""

_LOST = (
    "timed out",
    "unable to contact slurm controller",
    "zero bytes were transmitted",
    "communication",
    "connection",
    "message receive failure",
    "unexpected message",
    "authentication",
    "standby",
    "try again",
    "temporarily",
    "i/o error",
)
"""The controller may have the request."""

_REJECTIONS: tuple[tuple[str, SubmitCategory], ...] = (
    ("invalid partition", SubmitCategory.PARTITION),
    ("required partition not available", SubmitCategory.PARTITION),
    ("invalid account", SubmitCategory.ACCOUNT),
    ("invalid qos", SubmitCategory.QOS),
    ("qos policy", SubmitCategory.QOS),
    ("time limit", SubmitCategory.TIME_LIMIT),
    ("more processors requested", SubmitCategory.RESOURCES),
    ("node configuration is not available", SubmitCategory.RESOURCES),
    ("node count specification", SubmitCategory.RESOURCES),
    ("invalid node name", SubmitCategory.RESOURCES),
    ("generic resource", SubmitCategory.RESOURCES),
    ("invalid feature", SubmitCategory.RESOURCES),
    ("memory", SubmitCategory.RESOURCES),
    ("--mem", SubmitCategory.RESOURCES),
    ("batch script", SubmitCategory.SCRIPT),
    ("pathname of a file", SubmitCategory.SCRIPT),
    ("invalid option", SubmitCategory.SCRIPT),
    ("unrecognized option", SubmitCategory.SCRIPT),
    ("permission denied", SubmitCategory.PERMISSION),
    ("invalid user id", SubmitCategory.PERMISSION),
    ("only permitted by root", SubmitCategory.PERMISSION),
)

_ABOUT_A_JOB = (
    "invalid job id",
    "already completing or completed",
    "already finished",
    "job is not held",
    "not pending",
    "requested operation is presently disabled",
    "access/permission denied",
    "job/step already",
)

_PROGRAM_MISSING = 127


def submit_error(name: str, result: CommandResult) -> SchedulerError:
    """What a failed ``sbatch`` proves. Text that we do not know counts as a rejection only if the
    controller, or sbatch before it spoke to the controller, said it; else it may have happened."""
    text = result.text.lower()
    if result.timed_out or result.returncode < 0:
        return SubmitAmbiguous(name, f"sbatch: {result.text}")
    if result.returncode == _PROGRAM_MISSING or any(word in text for word in _NOT_SENT):
        return SchedulerUnreachable(f"sbatch: {result.text}")
    if any(word in text for word in _NOT_NOW):
        return SchedulerUnreachable(f"sbatch: {result.text}")
    for words, category in _REJECTIONS:
        if words in text:
            return SubmitRejected(category, result.text)
    if "sbatch: error:" in text and not any(word in text for word in _LOST):
        return SubmitRejected(SubmitCategory.OTHER, result.text)
    return SubmitAmbiguous(name, f"sbatch: {result.text}")


def submitted_id(stdout: str) -> SlurmJobId | None:
    """The id that ``sbatch --parsable`` printed (``ID`` or ``ID;CLUSTER``)."""
    match = re.fullmatch(r"(\d+)(;\S+)?\s*", stdout)
    return SlurmJobId(match[1]) if match else None


def is_answer_about_a_job(result: CommandResult) -> bool:
    """The controller answered that this job is gone, has ended or is not ours to change."""
    text = result.text.lower()
    return not result.timed_out and any(words in text for words in _ABOUT_A_JOB)


def accounting_is_off(result: CommandResult) -> bool:
    return "accounting storage is disabled" in result.text.lower()


def parse_squeue(stdout: str) -> Sequence[JobSnapshot]:
    """Lines of SQUEUE_FORMAT. A line that does not begin a record goes on with the name before it,
    since Slurm does not escape newlines in other people's job names."""
    records: list[str] = []
    for line in stdout.splitlines():
        if _SQUEUE_LINE.match(line):
            records.append(line)
        elif records:
            records[-1] += f"\n{line}"
        else:
            raise SchedulerUnreachable(f"squeue printed something unknown: {line[:200]!r}")
    return [_from_squeue(record) for record in records]


def parse_sacct(stdout: str) -> Sequence[JobSnapshot]:
    return [_from_sacct(line) for line in stdout.splitlines()]


def _from_squeue(record: str) -> JobSnapshot:
    fields = record.split("|", 7)
    if len(fields) != 8:
        raise SchedulerUnreachable(f"squeue printed an incomplete record: {record[:200]!r}")
    job_id, raw, nodes, submitted, started, ended, reason, name = fields
    state = normalise(raw, reason)
    return JobSnapshot(
        job_id=SlurmJobId(job_id),
        name=name,
        state=state,
        raw_state=raw,
        reason="" if reason == "None" else reason,
        nodes=nodes,
        submitted_at=_time(submitted),
        # Before the start, and before the end, these are Slurm's guesses.
        started_at=_time(started) if _has_begun(state, nodes) else None,
        ended_at=_time(ended) if state in FINAL_STATES else None,
    )


def _from_sacct(line: str) -> JobSnapshot:
    fields = line.split("|", 8)
    if len(fields) != 9:
        raise SchedulerUnreachable(f"sacct printed an incomplete record: {line[:200]!r}")
    job_id, raw, exit_text, nodes, submitted, started, ended, reason, name = fields
    state = normalise(raw, reason)
    nodes = "" if nodes == "None assigned" else nodes
    code, number = _exit(exit_text) if state in FINAL_STATES else (None, None)
    return JobSnapshot(
        job_id=SlurmJobId(job_id),
        name=name,
        state=state,
        raw_state=raw,
        reason="" if reason == "None" else reason,
        exit_code=code,
        signal=number,
        nodes=nodes,
        submitted_at=_time(submitted),
        started_at=_time(started) if _has_begun(state, nodes) else None,
        ended_at=_time(ended) if state in FINAL_STATES else None,
    )


def _has_begun(state: SlurmState, nodes: str) -> bool:
    """A job that was cancelled while it waited has a start time too, but never had a node."""
    return state is SlurmState.RUNNING or (state in FINAL_STATES and bool(nodes))


def _exit(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"(\d+):(\d+)", text)
    return (int(match[1]), int(match[2]) or None) if match else (None, None)


def _time(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
