"""Arithmetic before a launch: what cannot fit, what will be slow, and what would do."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from workers.contract.spec import Algorithm, Device, RunKind, RunSpec


@dataclass(frozen=True)
class Plan:
    problems: tuple[str, ...]
    """Each makes the launch impossible; what, why and the mend in one line."""
    warnings: tuple[str, ...]
    numbers: dict[str, int]

    @property
    def possible(self) -> bool:
        return not self.problems


def plan(spec: RunSpec) -> Plan:
    """Sums over several keys of a spec. Pure: no file, no cluster is looked at."""
    trains = spec.kind is not RunKind.RUNTIME_ONLY
    problems = [*_capacity(spec), *_training(spec), *_tokens(spec)] if trains else []
    warnings = [*_waiting(spec), *_saving(spec)] if trains else []
    return Plan(tuple(problems), tuple(warnings), numbers(spec))


def numbers(spec: RunSpec) -> dict[str, int]:
    rollouts = spec.trainer.prompts_per_step * spec.trainer.rollouts_per_prompt
    slots = spec.runtime.count * spec.runtime.slots
    return {
        "rollouts_per_step": rollouts,
        "rollouts_total": rollouts * spec.trainer.steps,
        "sandbox_slots": slots,
        "waves_per_step": math.ceil(rollouts / slots),
        "tokens_per_rollout": spec.trainer.max_prompt_tokens + spec.trainer.max_response_tokens,
        "checkpoints": spec.trainer.steps // spec.trainer.save_every,
    }


def _capacity(spec: RunSpec) -> Iterator[str]:
    if spec.kind is RunKind.ATTACHED:
        return  # the slots are those of a runtime that this spec does not describe
    n = numbers(spec)
    if n["waves_per_step"] > spec.policy.max_waves:
        needed = math.ceil(n["rollouts_per_step"] / spec.policy.max_waves)
        yield (
            f"a step needs {n['rollouts_per_step']} sandboxes (trainer.prompts_per_step "
            f"{spec.trainer.prompts_per_step} x rollouts_per_prompt "
            f"{spec.trainer.rollouts_per_prompt}), but {spec.runtime.count} runtime(s) x "
            f"{spec.runtime.slots} slots give {n['sandbox_slots']}: {n['waves_per_step']} rounds "
            f"each step, more than policy.max_waves {spec.policy.max_waves}; use at least "
            f"{needed} slots in all, or fewer rollouts, or raise policy.max_waves"
        )
    if spec.runtime.warm > spec.runtime.slots:
        yield (
            f"runtime.warm {spec.runtime.warm} exceeds runtime.slots {spec.runtime.slots}: "
            "lower warm"
        )


def _training(spec: RunSpec) -> Iterator[str]:
    trainer = spec.trainer
    if trainer.integration == "command":
        if not trainer.command:
            yield "trainer.command is empty: give the trainer's argv, or use integration: verl"
        return
    if trainer.model_path is None:
        yield "trainer.model_path is not set: give the absolute path of a model directory"
    if spec.data.train_file is None:
        yield "data.train_file is not set: give the absolute path of a JSONL file of tasks"
    if trainer.rollouts_per_prompt == 1 and trainer.algorithm is not Algorithm.PPO:
        yield (
            f"trainer.rollouts_per_prompt is 1: {trainer.algorithm} compares the rollouts of one "
            "prompt, so every advantage would be zero; use 2 or more"
        )
    if trainer.algorithm is Algorithm.PPO and trainer.device is Device.CPU:
        yield "trainer.algorithm ppo needs a GPU (verl's critic has no CPU path): use grpo"
    if (trainer.engine == "hf_cpu") != (trainer.device is Device.CPU):
        yield f"trainer.engine {trainer.engine} does not run on trainer.device {trainer.device}"
    rollouts = trainer.prompts_per_step * trainer.rollouts_per_prompt
    if rollouts % trainer.micro_batch:
        yield (
            f"trainer.micro_batch {trainer.micro_batch} does not divide the {rollouts} rollouts "
            "of a step"
        )
    yield from _gpus(spec)


def _gpus(spec: RunSpec) -> Iterator[str]:
    trainer, gres = spec.trainer, spec.trainer.resources.gres or ""
    if trainer.tensor_parallel > 1 and "mig" in gres:
        yield (
            f"trainer.tensor_parallel {trainer.tensor_parallel} on {gres}: one process sees one "
            "MIG slice only, so tensor parallelism over slices cannot work; use 1"
        )
    count = _gres_count(gres)
    if count is not None and trainer.tensor_parallel > count:
        yield (
            f"trainer.tensor_parallel {trainer.tensor_parallel} needs as many GPUs, but "
            f"trainer.resources.gres {gres} asks for {count}"
        )


def _gres_count(gres: str) -> int | None:
    if not gres.startswith("gpu"):
        return None
    last = gres.rsplit(":", 1)[-1]
    return int(last) if last.isdigit() else 1


def _tokens(spec: RunSpec) -> Iterator[str]:
    trainer = spec.trainer
    total = trainer.max_prompt_tokens + trainer.max_response_tokens
    if total > trainer.max_model_len:
        yield (
            f"trainer.max_prompt_tokens {trainer.max_prompt_tokens} + max_response_tokens "
            f"{trainer.max_response_tokens} = {total} exceed trainer.max_model_len "
            f"{trainer.max_model_len}"
        )
    if trainer.max_turn_tokens > trainer.max_response_tokens:
        yield (
            f"trainer.max_turn_tokens {trainer.max_turn_tokens} exceeds the whole trajectory's "
            f"budget trainer.max_response_tokens {trainer.max_response_tokens}"
        )


def _waiting(spec: RunSpec) -> Iterator[str]:
    n = numbers(spec)
    if spec.kind is RunKind.COUPLED and 1 < n["waves_per_step"] <= spec.policy.max_waves:
        yield (
            f"{n['rollouts_per_step']} rollouts share {n['sandbox_slots']} sandbox slots: "
            f"{n['waves_per_step']} rounds each step"
        )
    if spec.trainer.device is Device.GPU and not spec.trainer.resources.gres:
        yield "trainer.device is gpu, but trainer.resources.gres asks for none"


def _saving(spec: RunSpec) -> Iterator[str]:
    if spec.trainer.integration == "verl" and spec.trainer.save_every > spec.trainer.steps:
        yield (
            f"trainer.save_every {spec.trainer.save_every} exceeds trainer.steps "
            f"{spec.trainer.steps}: only the last step is saved, a failure before it loses all"
        )
