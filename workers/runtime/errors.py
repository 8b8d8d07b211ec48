"""What the native API answers when it cannot do what was asked."""

from workers.contract.sandbox_api import FailureKind, SandboxErrorCode
from workers.runtime.engine import SandboxRuntimeError


class SandboxError(SandboxRuntimeError):
    """Base: each subclass is one error code of the contract."""

    code: SandboxErrorCode
    status: int
    retry_after_s: int | None = None


class Unauthenticated(SandboxError):
    """The request carries no token, or not the token of this attempt's sandboxes."""

    code = SandboxErrorCode.UNAUTHENTICATED
    status = 401


class SandboxNotFound(SandboxError):
    """This runtime never had such a sandbox, or forgot it long after its end."""

    code = SandboxErrorCode.NOT_FOUND
    status = 404


class SandboxNotReady(SandboxError):
    """The sandbox is over; the detail says since when and why."""

    code = SandboxErrorCode.NOT_READY
    status = 409


class LeaseOver(SandboxError):
    """This generation drains or is closed: take another runtime."""

    code = SandboxErrorCode.LEASE_OVER
    status = 410


class InvalidRequest(SandboxError):
    """The request itself is wrong."""

    code = SandboxErrorCode.INVALID
    status = 422


class NoCapacity(SandboxError):
    """No slot came free in the time that the caller was ready to wait."""

    code = SandboxErrorCode.NO_CAPACITY
    status = 503
    retry_after_s = 5


class SandboxFailed(SandboxError):
    """Image, start, crash or engine: infrastructure, never the agent's doing."""

    code = SandboxErrorCode.FAILED
    status = 502

    def __init__(self, kind: FailureKind, detail: str) -> None:
        super().__init__(f"{kind.value}: {detail}")
        self.kind = kind
