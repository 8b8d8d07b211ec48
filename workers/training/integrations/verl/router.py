"""Which server gets a request: verl's router extension point, without verl's imports.

verl's own load balancer costs a process that imports all of verl to count requests.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import ray


class StickyRouter:
    """The same request id always meets the same server; no state, nothing to release."""

    def __init__(self, servers: Mapping[str, Any], _config: Mapping[str, Any]) -> None:
        self._servers = sorted(servers.items(), key=lambda item: item[0])

    def acquire_server(self, request_id: str) -> tuple[str, Any]:
        return self._servers[zlib.crc32(request_id.encode()) % len(self._servers)]

    def release_server(self, server_id: str) -> None: ...

    def require_acquire_fields(self) -> list[str]:
        return []

    def require_release_fields(self) -> list[str]:
        return []


RouterActor = ray.remote(num_cpus=0, runtime_env={"env_vars": {"SKYDECK_PROCESS": "router"}})(
    StickyRouter
)
