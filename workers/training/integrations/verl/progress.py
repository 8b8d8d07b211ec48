"""Reads verl's metrics file and output, and judges what they show."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from workers.training.integrations.base import Finding, Findings, Phase, Progress, StepMetrics
from workers.training.integrations.metrics_file import MetricsTail, read_steps

ANSI = re.compile(r"\x1b\[[0-9;]*m")
MUST_BE_NUMBERS = ("critic/advantages/mean", "critic/score/mean", "actor/grad_norm")
MAX_MISMATCH = 1e-3
"""Between engine and trainer on a CPU in fp32; more means that weights do not arrive."""
MISMATCH = ("actor/ppo_kl", "training/rollout_probs_diff_max")
"""The first tells it when the engine's log-probs serve as the old ones and a step is one update."""

PHASES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"Started a local Ray instance"), "ray_started"),
    (re.compile(r"train and validate dataloader initialized"), "data_loaded"),
    (re.compile(r"actor and ref model engine initialized"), "model_loaded"),
    (re.compile(r"checkpoint engine manager initialized"), "engine_ready"),
    (re.compile(r"Training from scratch"), "from_scratch"),
    (re.compile(r"Resuming from .*setting global step to (\d+)"), "resumed"),
    (re.compile(r"all initialize finished, ready to fit"), "ready"),
    (re.compile(r"Saving checkpoint to .*global_step_(\d+)"), "saving"),
)
SYMPTOMS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"torch\.OutOfMemoryError|CUDA out of memory"), "gpu_out_of_memory", "error"),
    (re.compile(r"No available memory for the cache blocks|larger than the available KV"),
     "no_room_for_kv_cache", "error"),
    (re.compile(r"Task was killed due to the node running low on memory|oom[- ]kill|"
                r"OutOfMemoryError: Task was killed|ray\.exceptions\.OutOfMemoryError"),
     "host_out_of_memory", "error"),
    (re.compile(r"grad_norm is not finite"), "gradient_not_finite", "error"),
    (re.compile(r"Response mask is all False"), "no_trainable_tokens", "error"),
    (re.compile(r"no materializable trajectories"), "no_rollouts_left", "error"),
    (re.compile(r"Empty output for prompt (\S+)"), "rollout_excluded", "info"),
    (re.compile(r"left-truncating"), "prompt_truncated", "warning"),
)  # fmt: skip


def judge_step(step: StepMetrics, on_cpu: bool) -> tuple[Finding, ...]:
    """What a healthy step never shows."""
    found: list[Finding] = []
    metrics = step.metrics
    if "critic/score/mean" not in metrics and not any(key.startswith("actor/") for key in metrics):
        return ()  # an evaluation line, no optimiser step
    for key in MUST_BE_NUMBERS:
        if key in metrics and metrics[key] is None:
            found.append(Finding("metric_not_a_number", "error", f"{key} is NaN", step.step))
    if _all_equal(metrics, "critic/advantages"):
        text = "every advantage of this step is equal: nothing can be learned from it"
        found.append(Finding("zero_advantage_step", "warning", text, step.step))
    worst = max((abs(metrics.get(key) or 0.0) for key in MISMATCH), default=0.0)
    if on_cpu and worst > MAX_MISMATCH:
        text = f"engine and trainer disagree on sampled tokens by {worst:.2g}"
        found.append(Finding("engine_trainer_mismatch", "error", text, step.step))
    return tuple(found)


def _all_equal(metrics: Mapping[str, float | None], prefix: str) -> bool:
    low, high = metrics.get(f"{prefix}/min"), metrics.get(f"{prefix}/max")
    return low is not None and low == high


@dataclass(slots=True)
class VerlProgress:
    """:class:`ProgressReader` of one verl process."""

    tail: MetricsTail
    expect_resume: bool = False
    on_cpu: bool = True
    started: bool = False
    resumed: bool = False
    last_step: int = 0
    _findings: Findings = field(default_factory=Findings)

    def metrics(self) -> Progress:
        steps, found = read_steps(self.tail)
        for step in steps:
            self.last_step = max(self.last_step, step.step)
            found += judge_step(step, self.on_cpu)
        fresh = [new for finding in found for new in self._findings.fresh(finding)]
        return Progress(steps=steps, findings=tuple(fresh))

    def log_line(self, line: str) -> Progress:
        text = ANSI.sub("", line)
        phases = map_phases(text)
        findings: list[Finding] = []
        for phase in phases:
            findings.extend(self._notice(phase))
        for pattern, code, severity in SYMPTOMS:
            if pattern.search(text):
                found = Finding(code, severity, text.strip()[:500], self.last_step + 1)
                findings.extend(self._findings.fresh(found))
        return Progress(phases=phases, findings=tuple(findings))

    def _notice(self, phase: Phase) -> tuple[Finding, ...]:
        self.resumed |= phase.name == "resumed"
        self.started |= phase.name == "ready"
        if phase.name == "from_scratch" and self.expect_resume:
            text = "a checkpoint was to be resumed, but verl started from scratch"
            return self._findings.fresh(Finding("resume_ignored", "error", text))
        if phase.name == "ready" and self.expect_resume and not self.resumed:
            text = "a checkpoint was to be resumed, but verl never said that it did"
            return self._findings.fresh(Finding("resume_ignored", "error", text))
        return ()

    def ended(self, exit_code: int) -> Progress:
        if exit_code == 0 and self.expect_resume and not self.resumed:
            text = "verl ended without having resumed the checkpoint it was given"
            found = self._findings.fresh(Finding("resume_ignored", "error", text))
            return Progress(findings=found)
        if exit_code != 0 and not self.started:
            text = f"verl exited with {exit_code} before it was ready to train; see the log"
            return Progress(findings=(Finding("trainer_start_failed", "error", text),))
        return Progress()


def map_phases(text: str) -> tuple[Phase, ...]:
    found = ((pattern.search(text), name) for pattern, name in PHASES)
    return tuple(
        Phase(name, int(match[1]) if match.groups() else None) for match, name in found if match
    )
