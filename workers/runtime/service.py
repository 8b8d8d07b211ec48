"""What one runtime generation is and has; everything the routes and the heartbeat need."""

from collections.abc import Callable
from dataclasses import dataclass, field

from workers.contract.attempt import AttemptFile
from workers.contract.registration import RuntimeHeartbeat
from workers.contract.sandbox_api import Limit, RuntimeHealth
from workers.contract.version import CONTRACT_VERSION
from workers.runtime.sandboxes import Sandboxes


@dataclass(frozen=True)
class Identity:
    """Who this job is: what the scheduler and the attempt directory told it."""

    attempt: AttemptFile
    index: int
    generation: int
    job_name: str
    scheduler_job_id: str | None
    hostname: str
    pid: int


@dataclass
class RuntimeService:
    identity: Identity
    sandboxes: Sandboxes
    check_token: Callable[[str | None], None]
    """Raises Unauthenticated."""
    engine: str
    limits: tuple[Limit, ...] = ()
    not_ready: str = field(default="not registered with the control plane yet")
    """Empty once the control plane knows this runtime."""

    def health(self) -> RuntimeHealth:
        reason = "draining" if self.sandboxes.draining else self.not_ready
        return RuntimeHealth(
            contract_version=CONTRACT_VERSION,
            run_id=self.identity.attempt.run_id,
            attempt=self.identity.attempt.attempt,
            index=self.identity.index,
            generation=self.identity.generation,
            job_name=self.identity.job_name,
            ready=not reason,
            reason=reason,
            slots=self.sandboxes.slots.total,
            slots_used=self.sandboxes.slots.used,
            waiting=self.sandboxes.slots.waiting,
            engine=self.engine,
            limits=self.limits,
        )

    def heartbeat(self) -> RuntimeHeartbeat:
        return RuntimeHeartbeat(
            run_id=self.identity.attempt.run_id,
            attempt=self.identity.attempt.attempt,
            index=self.identity.index,
            generation=self.identity.generation,
            job_name=self.identity.job_name,
            slots=self.sandboxes.slots.total,
            slots_used=self.sandboxes.slots.used,
            waiting=self.sandboxes.slots.waiting,
            draining=self.sandboxes.draining,
            sandboxes=self.sandboxes.changes(),
        )
