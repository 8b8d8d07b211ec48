"""The failure tree of training. Whose fault it is decides what a rollout is worth."""

from workers.contract.reports import InvalidReason


class TrainingError(Exception):
    """Something went wrong in the training job."""


class AttemptSuperseded(TrainingError):
    """The control plane ended this attempt: write the exit record and stop."""


class InfrastructureFailure(TrainingError):
    """Our fault, never the agent's: the rollout becomes INVALID and carries no reward."""

    def __init__(
        self,
        reason: InvalidReason,
        detail: str,
        *,
        retryable: bool = True,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.retryable = retryable
        """False where another sandbox would fail the same way."""
        self.retry_after_s = retry_after_s


class AgentFailure(TrainingError):
    """The agent's own doing: graded like any other end."""


class PreflightFailed(TrainingError):
    """This node or this configuration cannot do the work; nothing was begun."""
