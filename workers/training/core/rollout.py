"""The rollout driver: one task, one policy, one verdict.

A rollout takes a slot of some runtime and keeps it from the agent's sandbox to the end of grading
(the agent's is given back before the grader's is asked for, so a full pool cannot lock itself).
Whatever goes wrong outside the agent makes the try INVALID, without a reward, and is tried again
on another sandbox; both tries are reported.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from workers.contract.reports import Grade, InvalidReason, RolloutReport, RolloutState
from workers.contract.sandbox_api import SandboxCreate
from workers.contract.tasks import Task
from workers.training.core import audit
from workers.training.core.agents.shell import ShellAgent, ShellLimits, Workplace
from workers.training.core.broker_client import Broker, LeasedRuntime, RuntimeKey
from workers.training.core.clock import Clock
from workers.training.core.errors import InfrastructureFailure
from workers.training.core.graders import Grader
from workers.training.core.patches import Patch, PatchTooLarge, make_patch
from workers.training.core.policy import Message, Policy, PolicyUnavailable, TokenRecord
from workers.training.core.sandbox_client import ArchiveRefused, Sandbox, open_sandbox
from workers.training.core.setup import Workspaces
from workers.training.core.tries import RolloutTry
from workers.training.core.workspace import MAX_ARCHIVE, BadArchive, File, unpack

_LIFETIME_MARGIN_S = 120.0


PolicyFactory = Callable[[], Policy]
"""A fresh policy for each try: one that was started is spent."""


class ReportSink(Protocol):
    def put(self, report: RolloutReport) -> None:
        """Keeps the report safe before it returns; never waits for the network, never fails."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    limits: ShellLimits
    grade_timeout_s: float
    retries: int
    """Further tries after an infrastructure failure."""
    system_prompt: str | None = None
    start_wait_s: float = 120.0
    """For one sandbox: image and start, the slot being ours already."""
    grade_tries: int = 2
    max_retry_wait_s: float = 30.0


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """``record`` is there only for SCORED: an invalid rollout trains nothing."""

    report: RolloutReport
    record: TokenRecord | None

    @property
    def state(self) -> RolloutState:
        return self.report.state

    @property
    def reward(self) -> float | None:
        return self.report.reward


@dataclass(slots=True)
class _Outcome:
    result: RolloutResult
    again_after_s: float | None = None
    """None: this is the last word."""


class RolloutDriver:
    """Runs rollouts; as many at once as the leased runtimes have slots."""

    def __init__(
        self,
        broker: Broker,
        grader: Grader,
        reports: ReportSink,
        settings: RolloutSettings,
        *,
        ids: Callable[[], str],
        clock: Clock | None = None,
    ) -> None:
        self._broker = broker
        self._grader = grader
        self._reports = reports
        self._settings = settings
        self._ids = ids
        self._clock = clock or Clock()
        self._workspaces = Workspaces()

    async def close(self) -> None:
        """Gives back what the driver stands on. Call it in the event loop that used it."""
        await self._broker.close()
        await asyncio.to_thread(self._reports.close)

    async def run(
        self,
        task: Task,
        *,
        step: int,
        group: str,
        sample: int,
        policy: PolicyFactory,
        validation: bool = False,
    ) -> RolloutResult:
        """Ends with SCORED or INVALID. Raises only ``AttemptSuperseded``, when the attempt is
        over, and ``CancelledError``; both leave a CANCELLED report and no sandbox.

        Each try asks for a fresh policy and starts it with the same prompt.
        """
        name = self._ids()
        avoid: set[RuntimeKey] = set()
        number = 1
        while True:
            about = RolloutTry(
                f"{name}-{number}", task, step, group, sample, number, validation, self._clock
            )
            outcome = await self._once(about, policy(), frozenset(avoid))
            if outcome.again_after_s is None or number > self._settings.retries:
                return outcome.result
            number += 1
            if about.runtime is not None:
                avoid.add(about.runtime)
            await self._clock.sleep(outcome.again_after_s)

    async def _once(
        self, about: RolloutTry, policy: Policy, avoid: frozenset[RuntimeKey]
    ) -> _Outcome:
        again_after_s: float | None = None
        try:
            await self._score(about, policy, avoid)
        except InfrastructureFailure as failure:
            about.invalid(failure.reason, str(failure))
            if failure.retryable:
                wait = failure.retry_after_s or 0.0
                again_after_s = min(wait, self._settings.max_retry_wait_s)
        except PolicyUnavailable as failure:
            about.invalid(InvalidReason.GATEWAY_FAILED, f"the policy did not answer: {failure}")
            again_after_s = 0.0
        except BaseException as over:
            # Cancelled, superseded or a mistake of ours: the rollout still ends once, and says so.
            about.cancelled(f"{type(over).__name__}: {over}")
            self._reports.put(about.report())
            raise
        report = about.report()
        self._reports.put(report)
        return _Outcome(RolloutResult(report, about.record), again_after_s)

    async def _score(self, about: RolloutTry, policy: Policy, avoid: frozenset[RuntimeKey]) -> None:
        async with self._broker.reserve(avoid) as runtime:
            about.acquiring(runtime.index, runtime.generation)
            patch = await self._act(about, policy, runtime)
            about.grading(patch)
            audit.check(about.agent.ledger.counts())
            grade = await self._grade(about, patch, runtime)
        about.scored(grade, policy.record())

    async def _act(self, about: RolloutTry, policy: Policy, runtime: LeasedRuntime) -> Patch:
        """The agent's part, from a fresh sandbox to the patch."""
        limits = self._settings.limits
        async with AsyncExitStack() as stack:
            with about.phase("acquire"):
                request = self._request(about, "agent", limits.wall_s)
                sandbox = await stack.enter_async_context(open_sandbox(runtime.client, request))
            about.sandbox_id = sandbox.id
            with about.phase("setup"):
                hostname, base = await self._workspaces.prepare(about.task, sandbox)
            about.running(hostname)
            place = Workplace(sandbox, about.task.workdir, hostname)
            agent = ShellAgent(policy, place, limits, self._clock)
            await agent.run(self._prompt(about.task), about.agent)
            with about.phase("patch"):
                return await _patch(about.task, sandbox, base)

    async def _grade(self, about: RolloutTry, patch: Patch, runtime: LeasedRuntime) -> Grade:
        """Grades again where that may help: the agent's work is done and need not be repeated."""
        needless = self._grader.needless(about.task, patch)
        if needless is not None:
            return needless
        for number in range(1, self._settings.grade_tries + 1):
            try:
                with about.phase("grade"):
                    return await self._grade_once(about, patch, runtime, number)
            except InfrastructureFailure as failure:
                if number == self._settings.grade_tries or failure.reason is InvalidReason.NO_TESTS:
                    raise
        raise AssertionError("grade_tries must be at least 1")

    async def _grade_once(
        self, about: RolloutTry, patch: Patch, runtime: LeasedRuntime, number: int
    ) -> Grade:
        timeout_s = self._settings.grade_timeout_s
        request = self._request(about, f"grader-{number}", timeout_s)
        async with open_sandbox(runtime.client, request) as sandbox:
            return await self._grader.grade(about.task, patch, sandbox, timeout_s)

    def _request(self, about: RolloutTry, role: str, work_s: float) -> SandboxCreate:
        return SandboxCreate(
            client_key=f"{about.rollout_id}-{role}",
            image=about.task.image,
            purpose=role.partition("-")[0],
            wait_s=self._settings.start_wait_s,
            lifetime_s=self._settings.start_wait_s + work_s + _LIFETIME_MARGIN_S,
            labels={"rollout": about.rollout_id, "task": about.task.task_id},
        )

    def _prompt(self, task: Task) -> Sequence[Message]:
        given = [{"role": m.role, "content": m.content} for m in task.prompt]
        system = self._settings.system_prompt
        return [{"role": "system", "content": system}, *given] if system else given


async def _patch(task: Task, sandbox: Sandbox, base: Mapping[str, File]) -> Patch:
    """The agent's changes. That they are too many, or unreadable, is its own doing: it gets no
    patch, and so no reward."""
    try:
        tar = await sandbox.fetch(task.workdir, MAX_ARCHIVE)
        # In a thread: comparing hostile files takes its time, and all rollouts share this loop.
        return await asyncio.to_thread(lambda: make_patch(base, unpack(tar, task.workdir)))
    except (ArchiveRefused, PatchTooLarge) as error:
        return Patch(notes=(f"no patch: {error}",))
    except BadArchive as error:
        raise InfrastructureFailure(InvalidReason.SANDBOX_LOST, str(error)) from error
