"""Pushes the trainer's weights to the ``hf_cpu`` server; lives in the training worker."""

from collections.abc import Generator
from typing import Any

import ray
import torch
from torch.distributed.tensor import DTensor
from verl.workers.rollout.base import BaseRollout

from workers.training.integrations.verl.hf.actors import server_name


class CpuAdapter(BaseRollout):
    def __init__(
        self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1
    ) -> None:
        super().__init__(config, model_config, device_mesh)
        rank = torch.distributed.get_rank()
        self._replica = replica_rank if replica_rank >= 0 else rank

    async def resume(self, tags: list[str]) -> None: ...

    async def release(self) -> None: ...

    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **_: Any,
    ) -> None:
        """Sends one complete set of weights. Every rank exhausts the generator: gathering
        a sharded tensor inside it is collective."""
        if wire_format != "named_tensors":
            raise ValueError(f"hf_cpu takes named_tensors, not {wire_format}")
        state = {name: _local(tensor) for name, tensor in weights}
        server = ray.get_actor(server_name(self._replica))
        await server.update_weights.remote(state, global_steps or 0)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole.detach().to("cpu", torch.float32, copy=True)
