"""Ray actors around the engine. Each has a runtime environment of its own.

That keeps Ray from giving them the idle worker that the plugin warms up, verl and all, for
the agent loop (:mod:`workers.training.integrations.verl.cpu.trainer`).
"""

from typing import Any

import ray

from workers.training.integrations.verl.hf.server import HfServer

MAX_CONCURRENCY = 2048
"""Ray would split a step's requests into waves; more than any batch of a CPU run."""


def server_name(replica_rank: int) -> str:
    return f"skydeck_hf_cpu_{replica_rank}"


def server_actor(replica_rank: int, model_path: str, default_tokens: int) -> Any:
    """The server of a replica; the second call returns the actor that the first one started."""
    return (
        ray.remote(HfServer)
        .options(
            name=server_name(replica_rank),
            get_if_exists=True,
            num_cpus=0.5,
            max_concurrency=MAX_CONCURRENCY,
            runtime_env={"env_vars": {"SKYDECK_PROCESS": "hf_server"}},
        )
        .remote(model_path, default_tokens)
    )
