"""The ``hf_cpu`` replica: one server actor per trainer rank."""

import ray
from verl.workers.rollout.replica import RolloutReplica

from workers.training.integrations.verl.cpu.server import CpuServer

MAX_CONCURRENCY = 2048
"""Ray would split a step's requests into waves; more than any batch of a CPU run."""


def server_name(replica_rank: int) -> str:
    return f"skydeck_hf_cpu_{replica_rank}"


class CpuReplica(RolloutReplica):
    async def launch_servers(self) -> None:
        name = server_name(self.replica_rank)
        server = (
            ray.remote(CpuServer)
            .options(name=name, num_cpus=0.5, max_concurrency=MAX_CONCURRENCY)
            .remote(self.config, self.model_config, self.replica_rank)
        )
        await server.ready.remote()
        self.servers = [server]
        self._server_handle = server
        # Never dialled, but it is the load balancer's key, so each replica needs its own.
        self._server_address = name
