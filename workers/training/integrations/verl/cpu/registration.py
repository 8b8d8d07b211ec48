"""Registers the ``hf_cpu`` rollout engine; the classes load only where they are used."""

from verl.workers.rollout import base
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

ENGINE = "hf_cpu"
ADAPTER = "workers.training.integrations.verl.cpu.adapter.CpuAdapter"


def _replica() -> type[RolloutReplica]:
    from workers.training.integrations.verl.cpu.replica import CpuReplica

    return CpuReplica


RolloutReplicaRegistry.register(ENGINE, _replica)
# verl 0.9.1 has no public function for this second registry.
base._ROLLOUT_REGISTRY[(ENGINE, "async")] = ADAPTER
