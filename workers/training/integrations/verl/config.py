"""RunSpec -> hydra overrides of verl 0.9.1. Pure: neither verl nor torch is imported.

Every value answers a measured trap; the reason stands where the key is not its own reason.
A key that verl's schema lacks needs a leading ``+``, one that it has must not have it.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workers.contract.spec import Algorithm, Device, TrainerSpec
from workers.training.integrations.base import IntegrationError

Value = str | int | float | bool | None
Overrides = dict[str, Value]

AGENT_NAME = "skydeck"
CPU_PLUGIN = "workers.training.integrations.verl.cpu"
OWNED = (
    "data.train_files", "data.val_files", "trainer.default_local_dir", "trainer.resume_mode",
    "trainer.resume_from_path", "trainer.logger", "trainer.total_training_steps",
    "trainer.v1.trainer_mode", "trainer.device", "hydra.run.dir", "reward.num_workers",
    "actor_rollout_ref.model.path", "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.name", "actor_rollout_ref.rollout.calculate_log_probs",
    "actor_rollout_ref.rollout.agent.agent_loop_config_path",
)  # fmt: skip
"""Keys that the spec or the attempt decides; free overrides must not contradict them."""

_SMALL_STORE: Overrides = {"+ray_kwargs.ray_init.object_store_memory": 500_000_000}
"""Ray would take a third of the machine's memory, which on a shared node is not ours."""

_PLAIN = re.compile(r"^[A-Za-z0-9_.:/+-]+$")
_LITERAL = re.compile(r"^[\[{].*[\]}]$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Places:
    """Absolute paths of one attempt."""

    train_rows: Path
    eval_rows: Path
    checkpoints: Path
    agent_loops: Path
    router: Path
    work: Path


@dataclass(frozen=True, slots=True)
class RowCounts:
    train: int
    evaluation: int


def overrides(
    trainer: TrainerSpec, places: Places, rows: RowCounts, resume_from: str | None
) -> Overrides:
    """All overrides in a fixed order. Raises ``IntegrationError`` for what cannot run."""
    check(trainer, rows)
    made: Overrides = {
        **_algorithm(trainer),
        **_data(trainer, places),
        **_model(trainer),
        **_actor(trainer),
        **_rollout(trainer, places),
        **_trainer(trainer, places, rows, resume_from),
        **_platform(trainer),
    }
    return merged(made, trainer.overrides)


def check(trainer: TrainerSpec, rows: RowCounts) -> None:
    if trainer.model_path is None:
        raise IntegrationError(
            "trainer.model_path is empty: name the folder of a Hugging Face model"
        )
    if trainer.algorithm is Algorithm.PPO and trainer.device is Device.CPU:
        raise IntegrationError(
            "trainer.algorithm ppo needs a GPU: verl's critic asks for flash attention. "
            "Use grpo or rloo on a CPU"
        )
    if (trainer.engine == "hf_cpu") != (trainer.device is Device.CPU):
        raise IntegrationError(
            f"trainer.engine {trainer.engine} does not run on trainer.device "
            f"{trainer.device.value}: hf_cpu goes with cpu, vllm and sglang with gpu"
        )
    if rows.train < trainer.prompts_per_step:
        raise IntegrationError(
            f"data.train_file holds {rows.train} tasks, but one step takes "
            f"{trainer.prompts_per_step} (trainer.prompts_per_step)"
        )
    if rows.evaluation < 1:
        raise IntegrationError("data.eval_file holds no task; verl opens it even when unused")
    if trainer.max_prompt_tokens + trainer.max_response_tokens > trainer.max_model_len:
        raise IntegrationError(
            f"trainer.max_prompt_tokens {trainer.max_prompt_tokens} + max_response_tokens "
            f"{trainer.max_response_tokens} exceed max_model_len {trainer.max_model_len}"
        )


def _algorithm(trainer: TrainerSpec) -> Overrides:
    return {
        "algorithm.adv_estimator": "gae" if trainer.algorithm is Algorithm.PPO
        else trainer.algorithm.value,
        "algorithm.use_kl_in_reward": False,
        # On-policy with exact log-probs from the engine: recomputing them buys nothing.
        "algorithm.rollout_correction.bypass_mode": trainer.device is Device.CPU,
    }  # fmt: skip


def _data(trainer: TrainerSpec, places: Places) -> Overrides:
    return {
        "data.train_files": str(places.train_rows),
        "data.val_files": str(places.eval_rows),
        "data.train_batch_size": trainer.prompts_per_step,
        "data.max_prompt_length": trainer.max_prompt_tokens,
        "data.max_response_length": trainer.max_response_tokens,
        "data.dataloader_num_workers": 0,
        "data.filter_overlong_prompts": False,
        "data.shuffle": True,
        "data.seed": trainer.seed,
    }


def _model(trainer: TrainerSpec) -> Overrides:
    on_cpu = trainer.device is Device.CPU
    model = "actor_rollout_ref.model"
    return {
        f"{model}.path": trainer.model_path,
        # verl's default, flash attention 2, does not exist on a CPU and not on every GPU.
        f"+{model}.override_config.attn_implementation": "eager" if on_cpu else "sdpa",
        # Asks for flash attention's helpers.
        f"{model}.use_remove_padding": False,
        f"{model}.enable_gradient_checkpointing": trainer.gradient_checkpointing,
    }


def _actor(trainer: TrainerSpec) -> Overrides:
    on_cpu = trainer.device is Device.CPU
    actor = "actor_rollout_ref.actor"
    made: Overrides = {
        f"{actor}.strategy": "fsdp2",
        # Needs a compiler and Python's headers on every node.
        f"{actor}.use_torch_compile": False,
        # Counts prompts: verl multiplies by n itself.
        f"{actor}.ppo_mini_batch_size": trainer.prompts_per_step,
        f"{actor}.ppo_micro_batch_size_per_gpu": micro_batch(trainer),
        f"{actor}.use_dynamic_bsz": False,
        f"{actor}.use_kl_loss": False,
        f"{actor}.entropy_coeff": 0,
        f"{actor}.data_loader_seed": trainer.seed,
        f"{actor}.optim.lr": trainer.learning_rate,
        f"{actor}.optim.weight_decay": 0.0,
        f"{actor}.fsdp_config.seed": trainer.seed,
        f"{actor}.fsdp_config.param_offload": trainer.param_offload,
        f"{actor}.fsdp_config.optimizer_offload": trainer.optimizer_offload,
        f"{actor}.fsdp_config.use_torch_compile": False,
    }
    if on_cpu:
        # fsdp_config.dtype=float32 has no effect; without this the engine samples from
        # other probabilities than the trainer computes.
        made[f"+{actor}.fsdp_config.mixed_precision"] = (
            "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
        )
    return made


def micro_batch(trainer: TrainerSpec) -> int:
    """The largest divisor of a step's rollouts that is not above the wish."""
    rollouts = trainer.prompts_per_step * trainer.rollouts_per_prompt
    wish = min(trainer.micro_batch, rollouts)
    return next(size for size in range(wish, 0, -1) if rollouts % size == 0)


def _rollout(trainer: TrainerSpec, places: Places) -> Overrides:
    rollout = "actor_rollout_ref.rollout"
    made: Overrides = {
        f"{rollout}.name": trainer.engine,
        f"{rollout}.mode": "async",
        f"{rollout}.n": trainer.rollouts_per_prompt,
        f"{rollout}.temperature": trainer.temperature,
        f"{rollout}.top_p": trainer.top_p,
        f"{rollout}.tensor_model_parallel_size": trainer.tensor_parallel,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": micro_batch(trainer),
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.gpu_memory_utilization": trainer.gpu_memory_utilization,
        f"{rollout}.max_model_len": trainer.max_model_len,
        f"{rollout}.seed": trainer.seed,
        f"{rollout}.agent.num_workers": 1,
        f"{rollout}.agent.default_agent_loop": AGENT_NAME,
        f"{rollout}.agent.agent_loop_config_path": str(places.agent_loops),
        f"{rollout}.val_kwargs.temperature": trainer.temperature,
        f"{rollout}.val_kwargs.top_p": trainer.top_p,
        f"{rollout}.val_kwargs.do_sample": True,
        f"{rollout}.val_kwargs.n": 1,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": micro_batch(trainer),
    }
    if trainer.device is Device.GPU:
        made[f"{rollout}.enforce_eager"] = trainer.enforce_eager
    else:
        made[f"{rollout}.router_config_path"] = str(places.router)
    return made


def _trainer(
    trainer: TrainerSpec, places: Places, rows: RowCounts, resume_from: str | None
) -> Overrides:
    steps_per_epoch = rows.train // trainer.prompts_per_step
    return {
        # Every rollout is graded in its sandbox; a reward worker would only cost its start.
        "reward.num_workers": 0,
        "trainer.v1.trainer_mode": "cpu_sync" if trainer.device is Device.CPU else "sync",
        # Not corrected by verl for a CPU.
        "trainer.device": "cpu" if trainer.device is Device.CPU else "cuda",
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": gpus(trainer),
        "trainer.logger": '["console","file"]',
        "trainer.project_name": "skydeck",
        "trainer.experiment_name": "attempt",
        "trainer.total_training_steps": trainer.steps,
        "trainer.total_epochs": math.ceil(trainer.steps / steps_per_epoch) + 1,
        "trainer.save_freq": trainer.save_every,
        "trainer.max_actor_ckpt_to_keep": trainer.keep_checkpoints,
        # verl validates after the last step whatever the frequency, so this means: only there.
        "trainer.test_freq": trainer.steps if trainer.evaluate_before_after else -1,
        "trainer.val_before_train": trainer.evaluate_before_after and resume_from is None,
        "trainer.default_local_dir": str(places.checkpoints),
        # Not "auto": without a usable tracker file that starts from scratch and says nothing.
        "trainer.resume_mode": "disable" if resume_from is None else "resume_path",
        "trainer.resume_from_path": resume_from,
        "hydra.run.dir": str(places.work / "hydra"),
    }


def gpus(trainer: TrainerSpec) -> int:
    """Devices of the job: the count at the end of ``gres``, at least the tensor parallelism."""
    asked = re.search(r":(\d+)$", trainer.resources.gres or "")
    count = int(asked[1]) if asked and trainer.device is Device.GPU else 1
    return max(count, trainer.tensor_parallel)


def _platform(trainer: TrainerSpec) -> Overrides:
    made: Overrides = {
        # Ray counts processes in "CPUs". With the machine's real cores verl waits for ever,
        # silently, for its own storage units.
        "ray_kwargs.ray_init.num_cpus": 16,
        # A logical device on a CPU; on GPU nodes Ray would count the whole card of a slice.
        "+ray_kwargs.ray_init.num_gpus": gpus(trainer),
        "+ray_kwargs.ray_init.include_dashboard": False,
        "+ray_kwargs.ray_init._node_ip_address": "127.0.0.1",
        **({} if trainer.device is Device.GPU else _SMALL_STORE),
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
    }
    return made


def merged(made: Overrides, extra: Mapping[str, Value]) -> Overrides:
    """``extra`` replaces what was made, in place; new keys follow at the end."""
    names = {key.lstrip("+~"): key for key in made}
    for key, value in extra.items():
        bare = key.lstrip("+~")
        if bare in OWNED:
            raise IntegrationError(
                f"trainer.overrides.{bare} is decided by the spec itself; set the spec's own key"
            )
        made[names.get(bare, key)] = value
    return made


def arguments(made: Overrides) -> tuple[str, ...]:
    """Overrides in hydra's grammar."""
    return tuple(f"{key}={_rendered(value)}" for key, value in made.items())


def _rendered(value: Value) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float) or _PLAIN.match(value) or _LITERAL.match(value):
        return str(value)
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
