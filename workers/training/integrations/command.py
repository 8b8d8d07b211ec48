"""Any trainer that speaks the contract: it is started, followed by two files, and resumed.

It finds ``attempt.json`` through the environment, and below the attempt's directory it writes
``metrics.jsonl`` (``{"step": n, "data": {...}}`` a line) and ``checkpoints/step_<n>/`` with an
empty file ``COMPLETE`` as the last thing in it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.training.integrations.base import (
    Command,
    Completeness,
    Findings,
    IntegrationError,
    Progress,
    ProgressReader,
)
from workers.training.integrations.metrics_file import MetricsTail, read_steps

METRICS_FILE = "metrics.jsonl"
COMPLETE_FILE = "COMPLETE"
STEP_FOLDER = re.compile(r"step_(\d+)")


@dataclass(slots=True)
class CommandProgress:
    tail: MetricsTail
    _findings: Findings = field(default_factory=Findings)

    def metrics(self) -> Progress:
        steps, found = read_steps(self.tail)
        fresh = [new for finding in found for new in self._findings.fresh(finding)]
        return Progress(steps=steps, findings=tuple(fresh))

    def log_line(self, line: str) -> Progress:
        """A foreign trainer's output has no known form."""
        return Progress()

    def ended(self, exit_code: int) -> Progress:
        return Progress()


class CommandIntegration:
    """``integration: command``. ``python`` replaces a first word ``python`` of the command."""

    def __init__(self, python: str) -> None:
        self._python = python

    def prepare(self, attempt: AttemptFile) -> Command:
        argv = attempt.spec.trainer.command
        if not argv:
            raise IntegrationError(
                "trainer.command is empty: integration command needs the trainer's argv"
            )
        first = self._python if argv[0] == "python" else argv[0]
        directory = Path(attempt.attempt_dir)
        attempt_file = directory / env.ATTEMPT_FILE_NAME
        (directory / env.CHECKPOINTS_DIR).mkdir(exist_ok=True)
        return Command(
            argv=(first, *argv[1:]),
            environment={env.ATTEMPT_FILE: str(attempt_file)} | attempt.spec.trainer.environment,
            directory=directory,
        )

    def remove_abandoned(self) -> None:
        """A foreign trainer's scratch is its own affair."""

    def progress(self, attempt: AttemptFile) -> ProgressReader:
        return CommandProgress(MetricsTail(Path(attempt.attempt_dir) / METRICS_FILE))

    def checkpoints(self, attempt: AttemptFile) -> tuple[Path, ...]:
        directory = Path(attempt.attempt_dir) / env.CHECKPOINTS_DIR
        if not directory.is_dir():
            return ()
        named = ((STEP_FOLDER.fullmatch(entry.name), entry) for entry in directory.iterdir())
        found = sorted((int(match[1]), entry) for match, entry in named if match)
        return tuple(entry for _, entry in found)

    def complete(self, checkpoint: Path) -> Completeness:
        match = STEP_FOLDER.fullmatch(checkpoint.name)
        parts = {COMPLETE_FILE: (checkpoint / COMPLETE_FILE).is_file()}
        return Completeness(int(match[1]) if match else -1, parts)
