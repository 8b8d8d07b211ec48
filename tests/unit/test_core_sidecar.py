"""The sidecar's translation: news of a trainer become reports, its end becomes a result."""

import os
from pathlib import Path

import pytest

from workers.contract.attempt import AttemptFile
from workers.contract.exit_record import ExitResult
from workers.contract.reports import FindingReport, PhaseReport, Report, StepReport
from workers.contract.spec import RunSpec, TrainerSpec
from workers.training.core.clock import Clock
from workers.training.core.processes import descendants
from workers.training.core.sidecar import Sidecar, Status, Stop, cause_of
from workers.training.integrations.base import (
    Command,
    Completeness,
    Finding,
    Phase,
    Progress,
    StepMetrics,
)


class NoProgress:
    def metrics(self) -> Progress:
        return Progress()

    def log_line(self, line: str) -> Progress:
        return Progress()

    def ended(self, exit_code: int) -> Progress:
        return Progress()


class OneFolder:
    """An integration whose checkpoints are what the test says."""

    def __init__(self) -> None:
        self.folders: dict[Path, Completeness] = {}

    def prepare(self, attempt: AttemptFile) -> Command:
        raise NotImplementedError

    def remove_abandoned(self) -> None:
        raise NotImplementedError

    def progress(self, attempt: AttemptFile) -> NoProgress:
        return NoProgress()

    def checkpoints(self, attempt: AttemptFile) -> tuple[Path, ...]:
        return tuple(self.folders)

    def complete(self, checkpoint: Path) -> Completeness:
        return self.folders.get(checkpoint, Completeness(0, {}, pruned=True))


class World:
    def __init__(self, integration: str = "verl", resume_step: int = 0) -> None:
        self.now = 100.0
        self.reports: list[Report] = []
        self.status, self.stop, self.integration = Status(), Stop(), OneFolder()
        command = ("x",) if integration == "command" else ()
        trainer = TrainerSpec(integration=integration, command=command, steps=5)
        attempt = AttemptFile(
            contract_version=1,
            installation="i",
            run_id="r",
            attempt=1,
            attempt_dir="/nowhere",
            control_plane_file="/nowhere/c",
            resume_step=resume_step,
            spec=RunSpec(name="n", trainer=trainer),
        )
        self.sidecar = Sidecar(
            attempt,
            self.integration,
            self.reports.append,
            self.stop,
            self.status,
            echo=lambda _: None,
            clock=Clock(monotonic=lambda: self.now, iso=lambda: "now"),
        )

    def step(self, number: int) -> None:
        self.sidecar._tell(Progress(steps=(StepMetrics(number, {"a": 1.0, "nan": None}),)))


def test_a_phase_is_told_when_it_begins_and_with_its_length_when_it_ends() -> None:
    world = World()
    world.sidecar._tell(Progress(phases=(Phase("sampling", 3),)))
    world.now += 7
    world.sidecar._tell(Progress(phases=(Phase("saving"),)))
    told = [(r.phase, r.seconds) for r in world.reports if isinstance(r, PhaseReport)]
    assert told == [("sampling", None), ("sampling", 7.0), ("saving", None)]
    assert world.status.phase == "saving"


def test_steps_move_the_heartbeat_and_keep_not_a_number() -> None:
    world = World()
    world.step(2)
    assert (world.status.step, world.status.phase) == (2, "training")
    report = world.reports[0]
    assert isinstance(report, StepReport)
    assert report.metrics == {"a": 1.0, "nan": None}


@pytest.mark.parametrize(("severity", "told"), [("error", "error"), ("odd", "warning")])
def test_findings_keep_their_evidence(severity: str, told: str) -> None:
    world = World()
    world.sidecar._tell(Progress(findings=(Finding("c", severity, "evidence", 4),)))
    report = world.reports[0]
    assert isinstance(report, FindingReport)
    assert (report.severity, report.text, report.step) == (told, "evidence", 4)


@pytest.mark.parametrize(
    ("integration", "steps", "resume", "result"),
    [
        ("verl", 5, 0, ExitResult.COMPLETED),
        ("verl", 4, 0, ExitResult.FAILED),
        ("verl", 0, 0, ExitResult.FAILED),
        ("verl", 0, 5, ExitResult.COMPLETED),
        ("command", 0, 0, ExitResult.COMPLETED),
    ],
)
def test_exit_code_zero_completes_a_run_only_when_its_steps_were_done(
    integration: str, steps: int, resume: int, result: ExitResult
) -> None:
    world = World(integration, resume)
    if steps:
        world.step(steps)
    assert world.sidecar._ending(0).result is result


@pytest.mark.parametrize("code", [1, -9, 137])
def test_a_trainer_that_was_told_to_stop_did_not_fail(code: int) -> None:
    world = World()
    world.stop.set(ExitResult.DRAINED, "signal SIGTERM")
    world.stop.set(ExitResult.SUPERSEDED, "later")
    ending = world.sidecar._ending(code)
    assert (ending.result, ending.exit_code, ending.detail) == (
        ExitResult.DRAINED,
        0,
        "signal SIGTERM",
    )


def test_a_killed_trainer_failed() -> None:
    ending = World().sidecar._ending(-9)
    assert (ending.result, ending.exit_code) == (ExitResult.FAILED, 1)


# --- checkpoints ---------------------------------------------------------------------------------


def told(world: World, *, final: bool = False) -> list[tuple[int, bool, str]]:
    news = world.sidecar._checkpoints.news(final=final)
    return [(c.step, c.complete, c.detail) for c in news]


def test_a_checkpoint_is_told_once_when_it_is_complete() -> None:
    world = World()
    world.integration.folders[Path("/c/1")] = Completeness(1, {"a": True, "b": False})
    assert told(world) == []
    world.integration.folders[Path("/c/1")] = Completeness(1, {"a": True, "b": True})
    assert told(world) == [(1, True, "")]
    assert told(world) == []


def test_a_partial_checkpoint_is_told_when_something_newer_exists_or_at_the_end() -> None:
    world = World()
    world.integration.folders[Path("/c/1")] = Completeness(1, {"a": False})
    world.integration.folders[Path("/c/2")] = Completeness(2, {"a": False})
    assert told(world) == [(1, False, "missing: a")]
    assert told(world, final=True) == [(2, False, "missing: a")]


@pytest.mark.parametrize("pruned", [True, False])
def test_a_checkpoint_that_the_trainer_deleted_is_no_longer_complete(pruned: bool) -> None:
    world = World()
    folder = Path("/c/1")
    world.integration.folders[folder] = Completeness(1, {"a": True})
    assert told(world) == [(1, True, "")]
    if pruned:
        world.integration.folders[folder] = Completeness(1, {"a": False}, pruned=True)
    else:
        del world.integration.folders[folder]
    assert told(world) == [(1, False, "deleted by the trainer")]
    assert told(world) == []


class BrokenProgress(NoProgress):
    def metrics(self) -> Progress:
        raise ValueError("metrics that nobody can read")


def test_a_mistake_of_ours_does_not_leave_the_trainer_without_anybody_to_follow_it(
    tmp_path: Path,
) -> None:
    world = World()
    world.sidecar._progress = BrokenProgress()
    with pytest.raises(ValueError, match="nobody can read"):
        world.sidecar.run(Command(("sleep", "300"), {}, tmp_path), {"PATH": "/usr/bin:/bin"})
    assert descendants(os.getpid()) == []


def test_the_cause_of_a_failure_is_the_newest_line_that_names_an_exception() -> None:
    lines = [
        "Traceback",
        "  File x",
        "ray.exceptions.RayTaskError: a",
        "ValueError: no keys",
        "bye",
    ]
    assert cause_of(lines) == ": ValueError: no keys"
    assert cause_of(["all is well", "an Error in prose"]) == ""
