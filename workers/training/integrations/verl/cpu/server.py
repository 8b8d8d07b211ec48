"""The ``hf_cpu`` server actor: token ids in, token ids and log-probabilities out."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout.replica import TokenOutput

from workers.training.integrations.verl.cpu.device import use_all_cores
from workers.training.integrations.verl.cpu.engine import Engine
from workers.training.integrations.verl.cpu.sampling import SamplingParams


class CpuServer:
    """Runs inside a Ray actor. verl calls the no-ops too; each must exist."""

    def __init__(self, config: Any, model_config: Any, replica_rank: int) -> None:
        use_all_cores()
        self._config = config
        model: HFModelConfig = omega_conf_to_dataclass(model_config)
        served = AutoModelForCausalLM.from_pretrained(
            model.local_path, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        tokenizer = model.tokenizer
        self._engine = Engine(served, stop_ids(served, tokenizer), tokenizer.pad_token_id or 0)
        self._engine.start()
        self._replica_rank = replica_rank

    async def ready(self) -> bool:
        return True

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: Mapping[str, Any],
        request_id: str,
        image_data: list[Any] | None = None,
        video_data: list[Any] | None = None,
        **_: Any,
    ) -> TokenOutput:
        if image_data or video_data:
            raise ValueError("hf_cpu serves text only")
        params = sampling_of(sampling_params, self._config.response_length)
        sampled = await self._engine.generate(list(prompt_ids), params)
        return TokenOutput(
            token_ids=sampled.token_ids,
            log_probs=sampled.logprobs,
            stop_reason="completed",
            num_preempted=0,
            # An int always: verl's metrics convert it.
            extra_fields={"global_steps": sampled.version},
        )

    async def update_weights(self, state: dict[str, torch.Tensor], global_steps: int) -> int:
        return await self._engine.load(state, global_steps)

    async def sleep(self, *_: Any, **__: Any) -> None: ...

    async def wake_up(self, *_: Any, **__: Any) -> None: ...

    async def abort_all_requests(self, *_: Any, **__: Any) -> None: ...

    async def resume_generation(self, *_: Any, **__: Any) -> None: ...

    async def clear_kv_cache(self, *_: Any, **__: Any) -> None: ...

    async def release_kv_cache(self, *_: Any, **__: Any) -> None: ...

    async def resume_kv_cache(self, *_: Any, **__: Any) -> None: ...

    async def set_global_steps(self, *_: Any, **__: Any) -> None: ...

    async def start_profile(self, *_: Any, **__: Any) -> None: ...

    async def stop_profile(self, *_: Any, **__: Any) -> None: ...


def sampling_of(params: Mapping[str, Any], default_tokens: int) -> SamplingParams:
    limit = params.get("max_tokens") or params.get("max_new_tokens") or default_tokens
    temperature = params.get("temperature")
    return SamplingParams(
        max_tokens=int(limit),
        temperature=1.0 if temperature is None else float(temperature),
        top_p=float(params.get("top_p", 1.0)),
        top_k=int(params.get("top_k", -1)),
        seed=params.get("seed"),
    )


def stop_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """The tokenizer's end token and whatever the model's generation settings add."""
    named = model.generation_config.eos_token_id
    extra = named if isinstance(named, list) else [named]
    return frozenset(int(i) for i in (*extra, tokenizer.eos_token_id) if i is not None)
