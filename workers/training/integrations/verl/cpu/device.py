"""The device module that verl expects of a platform, answered for a CPU."""

import resource
from types import ModuleType
from typing import Any

import torch

BYTES_PER_RSS_UNIT = 1024


class CpuDevice(ModuleType):
    """What ``torch.cuda`` would answer; anything unknown falls back to ``torch.cpu``."""

    def __init__(self) -> None:
        super().__init__("skydeck_cpu_device")

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> torch.device:
        return torch.device("cpu")

    def set_device(self, _device: object) -> None: ...

    def synchronize(self, _device: object = None) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_name(self, _device: object = None) -> str:
        return "cpu"

    def memory_allocated(self, _device: object = None) -> int:
        return 0

    def memory_reserved(self, _device: object = None) -> int:
        return 0

    def max_memory_allocated(self, _device: object = None) -> int:
        """Peak resident memory: becomes verl's ``max_memory_allocated_gb``."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_RSS_UNIT

    def max_memory_reserved(self, _device: object = None) -> int:
        return self.max_memory_allocated()

    def reset_peak_memory_stats(self, _device: object = None) -> None: ...

    def mem_get_info(self, _device: object = None) -> tuple[int, int]:
        return 0, 0

    def get_rng_state(self, _device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, _device: object = None) -> None:
        torch.set_rng_state(state)
