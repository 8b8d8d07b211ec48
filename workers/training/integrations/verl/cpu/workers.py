"""verl's training workers with a process group that a CPU can have."""

from typing import Any

import torch.distributed
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker


def init_gloo() -> None:
    """verl would ask torch for ``cpu:gloo,cpu:gloo``, which is refused as a duplicate.

    It skips that when a group exists, so the group is made first.
    """
    if torch.distributed.is_initialized():
        return
    # Rank, world size and the master's address are in the environment that verl gave us.
    torch.distributed.init_process_group("gloo", init_method="env://")


class CpuTrainingWorker(TrainingWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        init_gloo()
        super().__init__(*args, **kwargs)


class CpuActorRolloutRefWorker(ActorRolloutRefWorker):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        init_gloo()
        super().__init__(*args, **kwargs)
