"""What is read from verl's metrics file and output."""

import json
from pathlib import Path

import pytest

from workers.training.integrations.metrics_file import MetricsTail
from workers.training.integrations.verl.progress import VerlProgress

GOOD = {
    "critic/score/mean": 0.5,
    "critic/advantages/min": -1.0,
    "critic/advantages/max": 1.0,
    "critic/advantages/mean": 0.0,
    "actor/grad_norm": 0.3,
    "actor/ppo_kl": -1e-8,
}


def line(step: int, **changes: float | None) -> str:
    data = GOOD | {key.replace("__", "/"): value for key, value in changes.items()}
    return json.dumps({"step": step, "data": data}) + "\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def progress(path: Path) -> VerlProgress:
    return VerlProgress(MetricsTail(path))


def codes(progress: VerlProgress) -> list[str]:
    return [finding.code for finding in progress.metrics().findings]


def test_nothing_is_reported_before_the_file_exists(progress: VerlProgress) -> None:
    assert not progress.metrics()


def test_each_step_is_reported_once_across_looks(progress: VerlProgress, path: Path) -> None:
    path.write_text(line(1))
    assert [step.step for step in progress.metrics().steps] == [1]
    with path.open("a") as file:
        file.write(line(2) + line(3))
    assert [step.step for step in progress.metrics().steps] == [2, 3]
    assert not progress.metrics()


def test_torn_last_line_waits_for_its_end(progress: VerlProgress, path: Path) -> None:
    whole = line(1)
    path.write_text(whole[:20])
    assert not progress.metrics()
    path.write_text(whole)
    assert [step.step for step in progress.metrics().steps] == [1]


def test_offset_survives_multibyte_text_torn_inside_a_character(
    progress: VerlProgress, path: Path
) -> None:
    raw = json.dumps({"step": 1, "data": {"é": 1.0}}, ensure_ascii=False).encode() + b"\n"
    cut = raw.index("é".encode()) + 1
    path.write_bytes(raw[:cut])
    assert not progress.metrics()
    path.write_bytes(raw)
    (step,) = progress.metrics().steps
    assert step.metrics == {"é": 1.0}


def test_file_truncated_by_a_restart_is_read_anew(progress: VerlProgress, path: Path) -> None:
    path.write_text(line(1) + line(2))
    progress.metrics()
    path.write_text(line(3))
    assert [step.step for step in progress.metrics().steps] == [3]


@pytest.mark.parametrize("text", ["null", "NaN", "Infinity"])
def test_nan_becomes_none_and_an_error(progress: VerlProgress, path: Path, text: str) -> None:
    path.write_text(line(1).replace('"actor/grad_norm": 0.3', f'"actor/grad_norm": {text}'))
    news = progress.metrics()
    assert news.steps[0].metrics["actor/grad_norm"] is None
    assert [(f.code, f.severity, f.step) for f in news.findings] == [
        ("metric_not_a_number", "error", 1)
    ]


def test_step_without_any_advantage_is_found(progress: VerlProgress, path: Path) -> None:
    path.write_text(line(1, critic__advantages__min=0.0, critic__advantages__max=0.0))
    assert codes(progress) == ["zero_advantage_step"]


@pytest.mark.parametrize("key", ["actor__ppo_kl", "training__rollout_probs_diff_max"])
def test_engine_that_disagrees_with_the_trainer_is_found(
    progress: VerlProgress, path: Path, key: str
) -> None:
    path.write_text(line(1, **{key: 0.01}))
    assert codes(progress) == ["engine_trainer_mismatch"]


def test_healthy_step_and_evaluation_line_have_no_findings(
    progress: VerlProgress, path: Path
) -> None:
    evaluation = json.dumps({"step": 0, "data": {"val-core/x/reward/mean@1": 0.2}}) + "\n"
    path.write_text(evaluation + line(1))
    news = progress.metrics()
    assert news.findings == ()
    assert [step.step for step in news.steps] == [0, 1]


def test_unreadable_line_is_a_finding_and_the_next_one_is_read(
    progress: VerlProgress, path: Path
) -> None:
    path.write_text('garbage\n{"step": "x"}\n' + line(1))
    news = progress.metrics()
    assert [step.step for step in news.steps] == [1]
    assert [finding.code for finding in news.findings] == ["metrics_unreadable"]


@pytest.mark.parametrize(
    ("text", "phase", "step"),
    [
        ("INFO worker.py:2038 -- Started a local Ray instance.", "ray_started", None),
        ("INFO:x:train and validate dataloader initialized, train ...", "data_loaded", None),
        ("\x1b[36m(TaskRunnerV1 pid=3)\x1b[0m INFO:actor and ref model engine initialized",
         "model_loaded", None),
        ("INFO:checkpoint engine manager initialized", "engine_ready", None),
        ("INFO:all initialize finished, ready to fit", "ready", None),
        ("INFO:Saving checkpoint to /a/b/global_step_12", "saving", 12),
        ("INFO:Resuming from /a/global_step_2, setting global step to 2", "resumed", 2),
        ("INFO:Training from scratch", "from_scratch", None),
    ],
)  # fmt: skip
def test_phase_lines_are_recognised(
    progress: VerlProgress, text: str, phase: str, step: int | None
) -> None:
    assert [(p.name, p.step) for p in progress.log_line(text).phases] == [(phase, step)]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried", "gpu_out_of_memory"),
        ("ValueError: No available memory for the cache blocks.", "no_room_for_kv_cache"),
        ("Task was killed due to the node running low on memory.", "host_out_of_memory"),
        ("WARN: grad_norm is not finite: nan", "gradient_not_finite"),
        ("Response mask is all False, returning default", "no_trainable_tokens"),
        ("selected terminal groups with no materializable trajectories", "no_rollouts_left"),
        ("WARNING:Empty output for prompt 4bf_3", "rollout_excluded"),
    ],
)
def test_symptoms_are_told_apart(progress: VerlProgress, text: str, code: str) -> None:
    assert [finding.code for finding in progress.log_line(text).findings] == [code]


def test_ordinary_lines_are_silent(progress: VerlProgress) -> None:
    assert not progress.log_line("step:1 - actor/grad_norm:0.3")


READY = "INFO:all initialize finished, ready to fit"


@pytest.mark.parametrize("lines", [["INFO:Training from scratch"], [READY]])
def test_resume_that_did_not_happen_is_an_error(path: Path, lines: list[str]) -> None:
    progress = VerlProgress(MetricsTail(path), expect_resume=True)
    found = [finding for text in lines for finding in progress.log_line(text).findings]
    assert [(finding.code, finding.severity) for finding in found] == [("resume_ignored", "error")]


def test_resume_that_happened_is_no_finding(path: Path) -> None:
    progress = VerlProgress(MetricsTail(path), expect_resume=True)
    progress.log_line("INFO:Resuming from /a/global_step_2, setting global step to 2")
    assert progress.log_line(READY).findings == ()
    assert not progress.ended(0)


def test_exit_before_ready_says_that_the_start_failed(progress: VerlProgress) -> None:
    assert [f.code for f in progress.ended(1).findings] == ["trainer_start_failed"]
    progress.log_line(READY)
    assert not progress.ended(1)
