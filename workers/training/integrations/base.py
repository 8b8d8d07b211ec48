"""What the training job needs of a trainer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from workers.contract.attempt import AttemptFile


class IntegrationError(Exception):
    """The trainer cannot be started as the spec asks; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Command:
    """A process to start: argv, the variables to add to the environment, its directory.

    ``scratch`` is removed by the caller once the process has ended, however it ended.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    scratch: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Completeness:
    """Which of the parts that a checkpoint must have are there."""

    step: int
    parts: Mapping[str, bool]
    pruned: bool = False
    """The trainer deleted it on purpose; such a folder is not a checkpoint at all."""

    @property
    def complete(self) -> bool:
        return not self.pruned and bool(self.parts) and all(self.parts.values())

    @property
    def missing(self) -> tuple[str, ...]:
        return tuple(name for name, there in self.parts.items() if not there)


@dataclass(frozen=True, slots=True)
class StepMetrics:
    step: int
    metrics: Mapping[str, float | None]
    """None where the trainer logged NaN or infinity."""


@dataclass(frozen=True, slots=True)
class Phase:
    name: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A symptom with its evidence."""

    code: str
    severity: str
    text: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """News since the last look, in the order in which the trainer told them."""

    steps: tuple[StepMetrics, ...] = ()
    phases: tuple[Phase, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.steps or self.phases or self.findings)


class ProgressReader(Protocol):
    """Follows one trainer process. Never waits; each news item is returned once."""

    def metrics(self) -> Progress:
        """Reads what the trainer's metrics file has gained."""
        ...

    def log_line(self, line: str) -> Progress:
        """Takes one line of the trainer's output."""
        ...

    def ended(self, exit_code: int) -> Progress:
        """Judges the whole run once, after the process has ended."""
        ...


class Integration(Protocol):
    """One trainer. Instances hold no state of a run."""

    def prepare(self, attempt: AttemptFile) -> Command:
        """Writes the trainer's input files below the attempt directory; may be called again.

        Raises ``IntegrationError`` when the spec or its files cannot work.
        """
        ...

    def remove_abandoned(self) -> None:
        """Removes scratch folders on this node whose owner was killed."""
        ...

    def progress(self, attempt: AttemptFile) -> ProgressReader: ...

    def checkpoints(self, attempt: AttemptFile) -> tuple[Path, ...]:
        """Checkpoint folders of this attempt, oldest step first, complete or not."""
        ...

    def complete(self, checkpoint: Path) -> Completeness: ...


@dataclass(slots=True)
class Findings:
    """Collects findings so that each code is told once per step."""

    told: set[tuple[str, int | None]] = field(default_factory=set)

    def fresh(self, finding: Finding) -> tuple[Finding, ...]:
        key = (finding.code, finding.step)
        if key in self.told:
            return ()
        self.told.add(key)
        return (finding,)
