"""The ``hf_cpu`` replica: one server actor per trainer rank."""

from verl.workers.rollout.replica import RolloutReplica

from workers.training.integrations.verl.hf.actors import server_actor, server_name


class CpuReplica(RolloutReplica):
    async def launch_servers(self) -> None:
        path, default_tokens = self.model_config.path, self.config.response_length
        server = server_actor(self.replica_rank, path, default_tokens)
        await server.ready.remote()
        self.servers = [server]
        self._server_handle = server
        # Never dialled, but it is the load balancer's key, so each replica needs its own.
        self._server_address = server_name(self.replica_rank)
