"""Runs one trainer process and tells of it: steps, phases, checkpoints, findings, the end.

The trainer knows nothing of the control plane and cannot be harmed by it. Everything is read from
what the trainer writes anyway, in one loop that never waits for the network.
"""

import logging
import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitResult
from workers.contract.reports import FindingReport, PhaseReport, Report, StepReport
from workers.training.core.checkpoints import CheckpointWatcher
from workers.training.core.clock import Clock
from workers.training.core.processes import TrainerProcess
from workers.training.integrations.base import Command, Finding, Integration, Phase, Progress

log = logging.getLogger(__name__)

_SEVERITIES: Mapping[str, Literal["info", "warning", "error"]] = {
    "info": "info",
    "warning": "warning",
    "error": "error",
}
_TAIL_LINES = 20
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:Error|Exception|Interrupt)\b")


@dataclass(frozen=True, slots=True)
class SidecarSettings:
    look_s: float = 0.5
    checkpoints_every: int = 4
    """Looks between two looks at the checkpoint folders, which cost a walk over the disk."""
    grace_s: float = 7.0
    """From SIGTERM to SIGKILL for the trainer. With the clean-up and the last reports it must fit
    into the 15 s that the local scheduler leaves a job, and short sites of Slurm too."""
    clean_up_s: float = 2.0


@dataclass(slots=True)
class Status:
    """What the heartbeat tells. Written by the loop, read by the heartbeat thread."""

    phase: str = "starting"
    step: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    result: ExitResult
    exit_code: int
    detail: str = ""
    last_step: int | None = None


@dataclass(slots=True)
class Stop:
    """Why the trainer should be stopped, once; the first reason stays."""

    event: threading.Event = field(default_factory=threading.Event)
    result: ExitResult = ExitResult.DRAINED
    detail: str = ""

    def set(self, result: ExitResult, detail: str) -> None:
        if not self.event.is_set():
            self.result, self.detail = result, detail
            self.event.set()


class Sidecar:
    """Follows one trainer from its start to its end."""

    def __init__(
        self,
        attempt: AttemptFile,
        integration: Integration,
        put: Callable[[Report], None],
        stop: Stop,
        status: Status,
        *,
        echo: Callable[[str], None],
        clock: Clock | None = None,
        settings: SidecarSettings | None = None,
    ) -> None:
        """``echo`` takes each line of the trainer's output: it belongs in the job's log."""
        self._attempt = attempt
        self._progress = integration.progress(attempt)
        self._clock = clock or Clock()
        self._checkpoints = CheckpointWatcher(integration, attempt, self._clock.iso)
        self._put = put
        self._stop = stop
        self._status = status
        self._echo = echo
        self._settings = settings or SidecarSettings()
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._tail: list[str] = []
        self._phase: tuple[Phase, float] | None = None

    def run(self, command: Command, environment: Mapping[str, str]) -> Ending:
        """Blocks until the trainer and everything it started have ended."""
        process = TrainerProcess(
            command.argv,
            {**environment, **command.environment},
            command.directory,
            self._lines.put,
        )
        try:
            exit_code = self._follow(process)
        except BaseException:
            # Nobody would follow it any more, and it holds the node.
            process.stop(0)
            raise
        finally:
            left = process.clean_up(self._settings.clean_up_s)
            if left:
                log.info("%d processes outlived the trainer and were ended", left)
        self._look()
        self._tell(self._progress.ended(exit_code))
        self._enter(None)
        for report in self._checkpoints.news(final=True):
            self._put(report)
        return self._ending(exit_code)

    def _follow(self, process: TrainerProcess) -> int:
        looks = 0
        while (exit_code := process.poll()) is None:
            if self._stop.event.wait(self._settings.look_s):
                self._status.phase = "finishing"
                return process.stop(self._settings.grace_s)
            self._look()
            looks += 1
            if looks % self._settings.checkpoints_every == 0:
                for report in self._checkpoints.news():
                    self._put(report)
        return exit_code

    def _look(self) -> None:
        while True:
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                break
            self._echo(line)
            self._tail = [*self._tail[-_TAIL_LINES + 1 :], line]
            self._tell(self._progress.log_line(line))
        self._tell(self._progress.metrics())

    def _tell(self, news: Progress) -> None:
        for phase in news.phases:
            self._enter(phase)
        for step in news.steps:
            self._status.step = max(self._status.step, step.step)
            self._status.phase = "training"
            metrics = dict(step.metrics)
            self._put(StepReport(step=step.step, metrics=metrics, at=self._clock.iso()))
        for finding in news.findings:
            self._put(self._finding(finding))

    def _enter(self, phase: Phase | None) -> None:
        """Ends the phase that was, with its length, and begins the next."""
        now = self._clock.monotonic()
        if self._phase is not None:
            was, since = self._phase
            self._put(self._phase_report(was, now - since))
        self._phase = (phase, now) if phase is not None else None
        if phase is not None:
            self._put(self._phase_report(phase, None))
            if phase.name == "saving":
                self._status.phase = "saving"

    def _phase_report(self, phase: Phase, seconds: float | None) -> PhaseReport:
        step = phase.step if phase.step is not None else self._status.step
        return PhaseReport(phase=phase.name, step=step, seconds=seconds, at=self._clock.iso())

    def _finding(self, finding: Finding) -> FindingReport:
        return FindingReport(
            code=finding.code,
            severity=_SEVERITIES.get(finding.severity, "warning"),
            text=finding.text,
            step=finding.step,
            at=self._clock.iso(),
        )

    def _ending(self, exit_code: int) -> Ending:
        last = self._status.step or None
        if self._stop.event.is_set():
            return Ending(self._stop.result, 0, self._stop.detail, last)
        if exit_code != 0:
            tail = "\n".join(self._tail)
            text = (
                f"the trainer ended with exit code {exit_code}{cause_of(self._tail)}; "
                f"its last lines:\n{tail}"
            )
            return Ending(ExitResult.FAILED, exit_code if exit_code > 0 else 1, text, last)
        return self._completed(last)

    def _completed(self, last: int | None) -> Ending:
        """Exit code 0 is not enough where steps can be counted."""
        trainer, reached = self._attempt.spec.trainer, max(last or 0, self._attempt.resume_step)
        if trainer.integration != "command" and reached < trainer.steps:
            text = f"the trainer ended by itself at step {reached} of {trainer.steps}"
            return Ending(ExitResult.FAILED, 1, text, last)
        return Ending(ExitResult.COMPLETED, 0, "", last)


def cause_of(lines: Iterable[str]) -> str:
    """``: SomeError: text`` from the newest line that names an exception; empty without one.

    It comes first, because pages cut a long text at its end.
    """
    named = [line.strip() for line in lines if _EXCEPTION.match(line.strip())]
    return f": {named[-1]}" if named else ""
