"""Stock verl for one step on this CPU, then one more step from its checkpoint."""

import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="needs the training environment (make test-training)")

from verl_world import make_attempt, read_jsonl, write_model, write_tasks

from workers.contract.attempt import AttemptFile
from workers.training.core.processes import TrainerProcess, adopt_orphans
from workers.training.integrations.base import Completeness, Finding, Phase, StepMetrics
from workers.training.integrations.verl.checkpoints import completeness
from workers.training.integrations.verl.integration import VerlIntegration

pytestmark = [pytest.mark.slow_training, pytest.mark.timeout(600)]

ROLLOUTS = 8
BROKEN_SAMPLE = 2


@dataclass
class Ran:
    attempt: AttemptFile
    exit_code: int
    phases: list[Phase]
    steps: list[StepMetrics]
    findings: list[Finding]
    checkpoints: list[tuple[Path, Completeness]]
    log: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return read_jsonl(Path(self.attempt.attempt_dir) / "records.jsonl")


def run(attempt: AttemptFile, scratch: Path) -> Ran:
    integration = VerlIntegration(scratch=scratch, driver_factory="verl_local_driver:open_driver")
    command = integration.prepare(attempt)
    progress = integration.progress(attempt)
    path = f"{command.environment['PYTHONPATH']}:{Path(__file__).parent}"
    ran = Ran(attempt, -1, [], [], [], [], "")

    def listen(line: str) -> None:
        ran.log += f"{line}\n"
        news = progress.log_line(line)
        ran.phases += news.phases
        ran.findings += news.findings

    adopt_orphans()
    environment = os.environ | dict(command.environment) | {"PYTHONPATH": path}
    process = TrainerProcess(command.argv, environment, command.directory, listen)
    try:
        while (code := process.poll()) is None:
            threading.Event().wait(0.2)
        ran.exit_code = code
    finally:
        process.clean_up()
        for folder in command.scratch:
            shutil.rmtree(folder, ignore_errors=True)
    for news in (progress.metrics(), progress.ended(ran.exit_code)):
        ran.steps += news.steps
        ran.findings += news.findings
    ran.checkpoints = [(path, completeness(path)) for path in integration.checkpoints(attempt)]
    return ran


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Short, because Ray's sockets lie below it."""
    folder = Path(f"/tmp/sdt{os.getpid()}")
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    write_model(root / "model")
    write_tasks(root / "train.jsonl", 6, "train")
    write_tasks(root / "eval.jsonl", 2, "eval")
    return root


def attempt_in(world: Path, number: int, **changes: Any) -> AttemptFile:
    files = (world / "model", world / "train.jsonl", world / "eval.jsonl")
    environment = {"TEST_BROKEN_SAMPLES": str(BROKEN_SAMPLE)}
    return make_attempt(world / "run", *files, number, environment=environment, **changes)


@pytest.fixture(scope="module")
def first(world: Path, scratch: Path) -> Ran:
    return run(attempt_in(world, 1, evaluate_before_after=True), scratch)


@pytest.fixture(scope="module")
def second(world: Path, scratch: Path, first: Ran) -> Ran:
    checkpoint, _ = first.checkpoints[-1]
    return run(attempt_in(world, 2, resume_from=checkpoint, steps=2), scratch)


def test_one_step_trains_and_leaves_a_complete_checkpoint(first: Ran) -> None:
    assert first.exit_code == 0, first.log[-3000:]
    (step,) = [one for one in first.steps if "actor/grad_norm" in one.metrics]
    assert step.step == 1
    assert (step.metrics["actor/grad_norm"] or 0) > 0
    assert (step.metrics["critic/advantages/max"] or 0) > 0
    assert abs(step.metrics["actor/ppo_kl"] or 0) < 1e-4
    assert [(one.step, one.complete) for _, one in first.checkpoints] == [(1, True)]
    assert [one for one in first.findings if one.severity == "error"] == []


def test_phases_are_seen_in_their_order(first: Ran) -> None:
    names = [phase.name for phase in first.phases]
    assert names == [
        "ray_started",
        "data_loaded",
        "model_loaded",
        "engine_ready",
        "ready",
        "saving",
    ]


def test_evaluation_is_sampled_before_and_after_and_apart_from_training(first: Ran) -> None:
    rounds = [record["step"] for record in first.records if record["validation"]]
    assert sorted(rounds) == [0, 0, 1, 1]
    evaluated = [one for one in first.steps if any(key.startswith("val-") for key in one.metrics)]
    assert [one.step for one in evaluated] == [0, 1]


def test_recorded_tokens_are_consistent_and_from_the_first_weights(first: Ran) -> None:
    training = [record for record in first.records if not record["validation"]]
    assert len(training) == ROLLOUTS
    for record in training:
        lengths = {len(record[key]) for key in ("response_ids", "mask", "logprobs")}
        assert len(lengths) == 1
        assert sum(record["mask"]) > 0
        assert record["policy_version"] == 0
        assert all(p < 0 for p, m in zip(record["logprobs"], record["mask"], strict=True) if m)


def test_broken_rollouts_are_left_out_and_never_score_zero(first: Ran) -> None:
    (step,) = [one for one in first.steps if "actor/grad_norm" in one.metrics]
    training = [record for record in first.records if not record["validation"]]
    sound = [record["reward"] for record in training if record["sample"] != BROKEN_SAMPLE]
    assert len(sound) == ROLLOUTS - 2
    assert step.metrics["critic/score/mean"] == pytest.approx(sum(sound) / len(sound))
    assert "rollout_excluded" in {finding.code for finding in first.findings}


def test_next_attempt_resumes_the_step_count_and_the_weights(first: Ran, second: Ran) -> None:
    assert second.exit_code == 0, second.log[-3000:]
    assert Phase("resumed", 1) in second.phases
    assert "resume_ignored" not in {finding.code for finding in second.findings}
    assert [one.step for one in second.steps] == [2]
    assert {record["policy_version"] for record in second.records} == {1}
    assert [(one.step, one.complete) for _, one in second.checkpoints] == [(2, True)]
    assert abs(second.steps[0].metrics["actor/ppo_kl"] or 0) < 1e-4
    begun = {record["task"] for record in first.records if not record["validation"]}
    assert begun.isdisjoint(record["task"] for record in second.records)


def test_each_attempt_writes_below_its_own_folder(first: Ran, second: Ran) -> None:
    for ran in (first, second):
        for path, _ in ran.checkpoints:
            assert path.is_relative_to(ran.attempt.attempt_dir)
