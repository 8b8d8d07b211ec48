"""The ``hf_cpu`` server actor: token ids in, token ids and log-probabilities out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from workers.training.integrations.verl.hf.engine import Engine
from workers.training.integrations.verl.hf.sampling import SamplingParams
from workers.training.integrations.verl.hf.threads import use_threads_for


@dataclass(slots=True)
class Answer:
    """The fields of verl's ``TokenOutput``, by the same names."""

    token_ids: list[int]
    log_probs: list[float]
    stop_reason: str = "completed"
    num_preempted: int = 0
    routed_experts: None = None
    extra_fields: dict[str, Any] = field(default_factory=dict[str, Any])


class HfServer:
    """Runs inside a Ray actor. verl calls the no-ops too; each must exist."""

    def __init__(self, model_path: str, default_tokens: int) -> None:
        self._default_tokens = default_tokens
        model = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()
        use_threads_for(model.num_parameters())
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        self._engine = Engine(model, stop_ids(model, tokenizer), tokenizer.pad_token_id or 0)
        self._engine.start()

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
    ) -> Answer:
        if image_data or video_data:
            raise ValueError("hf_cpu serves text only")
        params = sampling_of(sampling_params, self._default_tokens)
        sampled = await self._engine.generate(list(prompt_ids), params)
        # The version is an int always: verl's metrics convert it.
        fields = {"global_steps": sampled.version}
        return Answer(sampled.token_ids, sampled.logprobs, extra_fields=fields)

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
