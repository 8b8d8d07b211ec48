"""The Engine port: what the runtime needs of a container engine, and how an engine fails.

Every call may be made from many tasks at once. Adapters raise the errors below and nothing else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NewType, Protocol

ContainerId = NewType("ContainerId", str)

SANDBOX_UID = 65530
"""User and group in every sandbox; images must let it write the task's folder. Where podman runs
as root this is the host's number too, so it must be nobody's there: neither a person's (1000 and
up) nor a service's (systemd takes 61184 to 65519). Users have 65536 subordinate ids, so it fits."""


class SandboxRuntimeError(Exception):
    """Root of everything that the runtime raises on purpose."""


class EngineError(SandboxRuntimeError):
    """The container engine did not do what it was asked."""


class EngineUnreachable(EngineError):
    """It did not answer in time, or is not running."""


class EngineBroken(EngineError):
    """It answers every call with an internal failure: only the recovery order helps."""


class ImageUnavailable(EngineError):
    """This node has no such image and none of the run's archives brought it."""


class NameTaken(EngineError):
    """Another container has this name."""


class NoSuchContainer(EngineError):
    """The container is not there (any more)."""


class LimitNotEnforced(EngineError):
    """The engine took a hardening option and did not apply it: read back after the start."""


@dataclass(frozen=True)
class ContainerPlan:
    """One sandbox's container. Hardening is not a choice: the engine applies all it has."""

    name: str
    """Also the host name inside."""
    image: str
    control_dir: Path
    """Folder of the host that only this sandbox sees, for the tool server's socket."""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    network: str = "none"
    memory_mb: int = 512
    pids: int = 128


@dataclass(frozen=True)
class ContainerView:
    container_id: ContainerId
    name: str
    labels: Mapping[str, str]
    running: bool


@dataclass(frozen=True)
class Hardening:
    """What the engine itself says, read back from a running container."""

    network_none: bool
    no_new_privileges: bool
    capabilities: tuple[str, ...]
    user: str


class Engine(Protocol):
    @property
    def description(self) -> str:
        """Name, version and kind, for people: ``podman 4.3.1 rootless``."""
        ...

    async def load_image(self, archive: Path) -> tuple[str, ...]:
        """Names that the archive brought. May be repeated."""
        ...

    async def has_image(self, name: str) -> bool: ...

    async def create(self, plan: ContainerPlan) -> ContainerId:
        """Raises ImageUnavailable or NameTaken."""
        ...

    async def start(self, container: ContainerId) -> None:
        """Starts the tool server as the container's first process; does not wait for its socket.

        Once per container.
        """
        ...

    def alive(self, container: ContainerId) -> bool:
        """Whether the first process lives. Cheap, never blocks; False for unknown containers."""
        ...

    async def kill(self, container: ContainerId) -> None:
        """Returns when no process of the container is left. May be repeated; unknown is fine."""
        ...

    async def remove(self, container: ContainerId) -> None:
        """Kills and deletes with its storage. May be repeated; unknown is fine."""
        ...

    async def hardening(self, container: ContainerId) -> Hardening:
        """Raises NoSuchContainer."""
        ...

    async def list_containers(self) -> tuple[ContainerView, ...]:
        """Every container of this engine instance, stopped ones too."""
        ...

    async def close(self) -> None:
        """Ends the engine and removes everything it ever made on this node. May be repeated."""
        ...
