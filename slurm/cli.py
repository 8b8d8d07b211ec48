"""Slurm by its command line: works with every version of Slurm.

Never ``--json``: during an outage it prints an empty queue and exits 0.
"""

import os
import pwd
from collections.abc import Sequence
from datetime import UTC, datetime

from slurm import cli_text
from slurm.command import CommandResult, run_command
from slurm.port import (
    BatchJob,
    JobSnapshot,
    SchedulerUnreachable,
    SlurmJobId,
    SubmitAmbiguous,
)
from slurm.script import check_name, render

_CLEAN = (
    'unset -v "${!SBATCH_@}" "${!SQUEUE_@}" "${!SACCT_@}" "${!SCANCEL_@}" "${!SCONTROL_@}"'
    " SLURM_CLUSTERS SLURM_BITSTR_LEN SLURM_TIME_FORMAT SLURM_JOB_ID;"
    ' export TZ=UTC LC_ALL=C.UTF-8; exec "$@"'
)
"""A user's own SBATCH_PARTITION or SQUEUE_FORMAT beats our script and our parser; UTC spares us
the site's time zone."""

_NAMES_A_CALL = 200


class CliScheduler:
    """The Scheduler port on ``sbatch``, ``squeue``, ``sacct``, ``scancel`` and ``scontrol``.

    ``deadline_s`` must exceed the cluster's MessageTimeout (10 s by default), so that Slurm's own
    answer wins. ``wrapper`` is a command that runs its arguments, such as ``nsenter ...``.
    """

    kind = "cli"

    def __init__(
        self,
        user: str | None = None,
        deadline_s: float = 15.0,
        wrapper: Sequence[str] = (),
    ) -> None:
        self._user = user or pwd.getpwuid(os.getuid()).pw_name
        self._deadline_s = deadline_s
        self._wrapper = tuple(wrapper)

    def submit(self, job: BatchJob) -> SlurmJobId:
        """See the port. The script goes in by stdin; no file is left behind."""
        result = self._run("sbatch", "--hold", "--parsable", stdin=render(job))
        if result.returncode != 0:
            raise cli_text.submit_error(job.name, result)
        job_id = cli_text.submitted_id(result.stdout)
        if job_id is None:
            raise SubmitAmbiguous(job.name, f"sbatch printed no id but {result.stdout[:200]!r}")
        return job_id

    def release(self, job_id: SlurmJobId) -> None:
        """See the port. A hold by an administrator stays: only the administrator may lift it."""
        result = self._run("scontrol", "release", job_id)
        _raise_unless_answered("scontrol release", result)

    def cancel(self, name: str, job_ids: Sequence[SlurmJobId] = ()) -> None:
        """See the port. Two calls: one call with both would cancel only ids *of* this name."""
        by_name = self._run("scancel", f"--user={self._user}", f"--name={check_name(name)}")
        _raise_unless_answered("scancel", by_name)
        if job_ids:
            _raise_unless_answered("scancel", self._run("scancel", *job_ids))

    def snapshot(self, prefix: str = "") -> tuple[JobSnapshot, ...]:
        """See the port. One call for all jobs; ended ones stay for the cluster's MinJobAge."""
        result = self._run(
            "squeue",
            "--noheader",
            "--array",
            "--states=all",
            f"--user={self._user}",
            f"--format={cli_text.SQUEUE_FORMAT}",
        )
        if result.returncode != 0:
            raise SchedulerUnreachable(f"squeue: {result.text}")
        return tuple(j for j in cli_text.parse_squeue(result.stdout) if j.name.startswith(prefix))

    def history(self, names: Sequence[str], since: datetime) -> tuple[JobSnapshot, ...]:
        """See the port. Blind to jobs that are still held; lags by some 5 s."""
        wanted = sorted({check_name(name) for name in names})
        chunks = (wanted[i : i + _NAMES_A_CALL] for i in range(0, len(wanted), _NAMES_A_CALL))
        return tuple(job for chunk in chunks for job in self._accounting(chunk, since))

    def _accounting(self, names: Sequence[str], since: datetime) -> Sequence[JobSnapshot]:
        result = self._run(
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            "--duplicates",
            f"--user={self._user}",
            # Without a start the window is "today".
            f"--starttime={since.astimezone(UTC):%Y-%m-%dT%H:%M:%S}",
            f"--name={','.join(names)}",
            f"--format={cli_text.SACCT_FORMAT}",
        )
        if result.returncode == 0:
            return [j for j in cli_text.parse_sacct(result.stdout) if j.name in names]
        if cli_text.accounting_is_off(result):
            return []
        raise SchedulerUnreachable(f"sacct: {result.text}")

    def _run(self, *argv: str, stdin: str = "") -> CommandResult:
        command = (*self._wrapper, "bash", "-c", _CLEAN, "bash", *argv)
        return run_command(command, self._deadline_s, stdin)


def _raise_unless_answered(what: str, result: CommandResult) -> None:
    if result.returncode != 0 and not cli_text.is_answer_about_a_job(result):
        raise SchedulerUnreachable(f"{what}: {result.text}")
