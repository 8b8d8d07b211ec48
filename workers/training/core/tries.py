"""One try of a rollout: its state machine, its clock and the report that remains of it."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

from workers.contract.reports import Grade, InvalidReason, RolloutReport, RolloutState
from workers.contract.tasks import Task
from workers.training.core.agents.shell import AgentRun
from workers.training.core.clock import Clock
from workers.training.core.patches import Patch
from workers.training.core.policy import TokenRecord

_END = frozenset({RolloutState.INVALID, RolloutState.CANCELLED})
ALLOWED: Mapping[RolloutState, frozenset[RolloutState]] = {
    RolloutState.QUEUED: _END | {RolloutState.ACQUIRING},
    RolloutState.ACQUIRING: _END | {RolloutState.RUNNING},
    RolloutState.RUNNING: _END | {RolloutState.GRADING},
    RolloutState.GRADING: _END | {RolloutState.SCORED},
    RolloutState.SCORED: frozenset(),
    RolloutState.INVALID: frozenset(),
    RolloutState.CANCELLED: frozenset(),
}


class RolloutTry:
    """Moves only along :data:`ALLOWED`; ends once, with a grade or a reason."""

    def __init__(
        self,
        rollout_id: str,
        task: Task,
        step: int,
        group: str,
        sample: int,
        number: int,
        validation: bool,
        clock: Clock,
    ) -> None:
        self.rollout_id = rollout_id
        self.task = task
        self.state = RolloutState.QUEUED
        self.agent = AgentRun()
        self.record: TokenRecord | None = None
        self.runtime: tuple[int, int] | None = None
        self.sandbox_id: str | None = None
        self._place = (step, group, sample, number, validation)
        self._clock = clock
        self._started_at = clock.iso()
        self._phases: dict[str, float] = {}
        self._hostname: str | None = None
        self._patch = Patch()
        self._grade: Grade | None = None
        self._invalid: InvalidReason | None = None
        self._detail = ""

    @contextmanager
    def phase(self, name: str) -> Generator[None, None, None]:
        """Adds the time spent inside to the phase, however it ends."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            spent = self._clock.monotonic() - began
            self._phases[name] = self._phases.get(name, 0.0) + spent

    def acquiring(self, index: int, generation: int) -> None:
        self._move(RolloutState.ACQUIRING)
        self.runtime = (index, generation)

    def running(self, hostname: str) -> None:
        self._move(RolloutState.RUNNING)
        self._hostname = hostname

    def grading(self, patch: Patch) -> None:
        self._move(RolloutState.GRADING)
        self._patch = patch
        self._detail = "\n".join(patch.notes)

    def scored(self, grade: Grade, record: TokenRecord) -> None:
        self._move(RolloutState.SCORED)
        self._grade = grade
        self.record = record

    def invalid(self, reason: InvalidReason, detail: str) -> None:
        self._move(RolloutState.INVALID)
        self._invalid = reason
        self._detail = detail

    def cancelled(self, why: str) -> None:
        self._move(RolloutState.CANCELLED)
        self._detail = why

    def _move(self, state: RolloutState) -> None:
        if state not in ALLOWED[self.state]:
            raise AssertionError(f"rollout {self.rollout_id}: {self.state} -> {state}")
        self.state = state

    def report(self) -> RolloutReport:
        step, group, sample, number, validation = self._place
        index, generation = self.runtime or (None, None)
        record = self.record or TokenRecord((), (), (), (), 0)
        return RolloutReport(
            rollout_id=self.rollout_id,
            step=step,
            group=group,
            sample=sample,
            try_number=number,
            task_id=self.task.task_id,
            validation=validation,
            state=self.state,
            end=self.agent.end,
            invalid_reason=self._invalid,
            detail=self._detail,
            reward=float(self._grade.passed) if self._grade is not None else None,
            grade=self._grade,
            patch=self._patch.text,
            calls=self.agent.ledger.counts(),
            turns=tuple(self.agent.turns),
            prompt_tokens=len(record.prompt_ids),
            response_tokens=len(record.response_ids),
            trainable_tokens=record.trainable_tokens,
            policy_version=record.policy_version,
            runtime_index=index,
            runtime_generation=generation,
            sandbox_id=self.sandbox_id,
            hostname=self._hostname,
            started_at=self._started_at,
            ended_at=self._clock.iso(),
            phase_s={
                **self._phases,
                "policy": self.agent.policy_s,
                "tools": self.agent.tools_s,
            },
        )
