"""RunSpec: the one document from which scripts, runtime settings and trainer overrides are made.

Written by people as YAML. Unknown keys are errors (``app.domain.spec`` adds suggestions). Limits
that need no knowledge of the site are validated here; sums over several keys in
``app.domain.plan``.
"""

from enum import StrEnum

from pydantic import Field, model_validator

from workers.contract.base import Message


class RunKind(StrEnum):
    COUPLED = "coupled"
    RUNTIME_ONLY = "runtime-only"
    ATTACHED = "attached"


class JobResources(Message):
    """What one job asks of the scheduler."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    nodes: int = Field(default=1, ge=1)
    cpus: int = Field(default=1, ge=1)
    memory_mb: int = Field(default=2048, ge=64)
    gres: str | None = Field(default=None, pattern=r"^[A-Za-z0-9:_.,-]+$")
    """As Slurm writes it: ``gpu:mig:1``."""
    time_limit_s: int = Field(default=3600, ge=60)
    exclude_nodes: tuple[str, ...] = ()
    constraint: str | None = None


class RuntimeSpec(Message):
    """The runtime jobs: servers that keep sandboxes."""

    count: int = Field(default=1, ge=1, le=64)
    min_count: int = Field(default=1, ge=1)
    """Fewer live runtimes than this beyond the grace stop the attempt."""
    slots: int = Field(default=8, ge=1, le=1024)
    """Sandboxes alive at once in one runtime."""
    warm: int = Field(default=0, ge=0)
    """Sandboxes kept started ahead of need, within the slots."""
    image: str = Field(default="localhost/skydeck-task:1", min_length=1)
    """Image of tasks that name none."""
    image_archives: tuple[str, ...] = ()
    """Absolute paths of image tars that a runtime loads when it starts."""
    sandbox_memory_mb: int = Field(default=512, ge=16)
    sandbox_pids: int = Field(default=128, ge=8)
    network: str = Field(default="none", pattern=r"^(none|slirp4netns|host)$")
    max_replacements: int = Field(default=2, ge=0)
    resources: JobResources = JobResources()


class AgentSpec(Message):
    """What a rollout may do."""

    harness: str = Field(default="shell", pattern=r"^(shell)$")
    max_turns: int = Field(default=3, ge=1, le=500)
    command_timeout_s: float = Field(default=30.0, gt=0)
    rollout_timeout_s: float = Field(default=300.0, gt=0)
    grade_timeout_s: float = Field(default=60.0, gt=0)
    max_observation_chars: int = Field(default=2000, ge=16)
    infrastructure_retries: int = Field(default=2, ge=0, le=10)
    """Further tries of a rollout whose sandbox, image or grader failed."""


class DataSpec(Message):
    train_file: str | None = None
    """Absolute path of a JSONL or parquet file of tasks."""
    eval_file: str | None = None
    system_prompt: str | None = None


class Algorithm(StrEnum):
    GRPO = "grpo"
    RLOO = "rloo"
    PPO = "ppo"


class Device(StrEnum):
    CPU = "cpu"
    GPU = "gpu"


class TrainerSpec(Message):
    """The training job."""

    integration: str = Field(default="verl", pattern=r"^(verl|command)$")
    command: tuple[str, ...] = ()
    """``integration: command`` only: argv of the foreign trainer."""
    python: str | None = None
    """Absolute path of the training environment's interpreter; None: the control plane's."""
    model_path: str | None = None
    algorithm: Algorithm = Algorithm.GRPO
    device: Device = Device.CPU
    engine: str = Field(default="hf_cpu", pattern=r"^(hf_cpu|vllm|sglang)$")
    steps: int = Field(default=10, ge=1)
    prompts_per_step: int = Field(default=4, ge=1)
    rollouts_per_prompt: int = Field(default=8, ge=1)
    """GRPO compares the rollouts of one prompt: with 1 no advantage can exist."""
    learning_rate: float = Field(default=1e-6, gt=0)
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_prompt_tokens: int = Field(default=512, ge=1)
    """Prompt of a rollout, before its first model turn."""
    max_response_tokens: int = Field(default=512, ge=1)
    """The whole trajectory after the prompt: all turns and observations."""
    max_turn_tokens: int = Field(default=128, ge=1)
    max_model_len: int = Field(default=1024, ge=2)
    """What the engine can hold; prompt + response must fit."""
    micro_batch: int = Field(default=4, ge=1)
    gpu_memory_utilization: float = Field(default=0.5, gt=0, lt=1)
    enforce_eager: bool = True
    param_offload: bool = False
    optimizer_offload: bool = False
    gradient_checkpointing: bool = False
    tensor_parallel: int = Field(default=1, ge=1)
    save_every: int = Field(default=10, ge=1)
    keep_checkpoints: int = Field(default=3, ge=1)
    evaluate_before_after: bool = False
    """Sample the evaluation tasks at the training temperature before the first step and after
    the last."""
    seed: int = Field(default=1, ge=0)
    overrides: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Trainer options that Skydeck does not know, passed through as they are."""
    environment: dict[str, str] = Field(default_factory=dict)
    """Extra variables of the trainer process. No secrets: they are stored and shown."""
    resources: JobResources = JobResources()


class PolicySpec(Message):
    """Timeouts and retries: when Skydeck acts by itself."""

    max_attempts: int = Field(default=3, ge=1)
    max_attempts_without_checkpoint: int = Field(default=3, ge=1)
    retry_trainer_failed: bool = False
    retry_delay_s: float = Field(default=30.0, ge=0)
    start_timeout_s: float = Field(default=900.0, gt=0)
    """From job RUNNING to registered."""
    max_queue_wait_s: float | None = Field(default=None, gt=0)
    max_waves: int = Field(default=8, ge=1)
    """A step whose rollouts need more rounds of the sandbox slots than this is refused."""


class RunSpec(Message):
    name: str = Field(min_length=1, max_length=100)
    experiment: str = Field(default="default", min_length=1, max_length=100)
    kind: RunKind = RunKind.COUPLED
    description: str = ""
    tags: tuple[str, ...] = ()
    runtime: RuntimeSpec = RuntimeSpec()
    runtime_url: str | None = Field(default=None, pattern=r"^https?://[^/\s]+/?$")
    """``kind: attached`` only."""
    runtime_token_file: str | None = None
    agent: AgentSpec = AgentSpec()
    data: DataSpec = DataSpec()
    trainer: TrainerSpec = TrainerSpec()
    policy: PolicySpec = PolicySpec()

    @model_validator(mode="after")
    def _kind_agrees(self) -> "RunSpec":
        if (self.kind is RunKind.ATTACHED) != (self.runtime_url is not None):
            raise ValueError("runtime_url goes with kind: attached, and only with it")
        if self.runtime_url is not None and self.runtime_token_file is None:
            raise ValueError("kind: attached needs runtime_token_file, the 0600 file of its token")
        if self.runtime.min_count > self.runtime.count:
            raise ValueError("runtime.min_count is larger than runtime.count")
        return self
