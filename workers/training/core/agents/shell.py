"""The light native agent: the policy writes shell commands, the sandbox runs them.

The loop lives in the trainer, every command in the sandbox: nothing the model writes is executed
here. How the rollout ended is set where it happens and never read out of text.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from workers.contract.reports import InvalidReason, RolloutEnd, Turn
from workers.contract.sandbox_api import ExecRequest
from workers.training.core.audit import CallLedger
from workers.training.core.clock import Clock
from workers.training.core.errors import InfrastructureFailure
from workers.training.core.policy import Message, Policy, PolicyOutOfRoom
from workers.training.core.policy import Turn as PolicyTurn
from workers.training.core.sandbox_client import CommandResult, Sandbox
from workers.training.core.toolcalls import SCHEMAS, Parsed, Tool, ToolCall, parse

MARKER = "\n[... {dropped} characters dropped ...]\n"
_OUTPUT_BYTES_PER_CHAR = 4
_MIN_COMMAND_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ShellLimits:
    max_turns: int
    turn_tokens: int
    total_tokens: int
    """Sampled tokens of the whole rollout; the policy itself bounds prompt plus everything."""
    wall_s: float
    command_timeout_s: float
    observation_chars: int
    stuck_after: int = 4
    """Equal actions with equal outcomes in a row that count as stuck."""


@dataclass(frozen=True, slots=True)
class Workplace:
    """A sandbox made ready for an agent."""

    sandbox: Sandbox
    workdir: str
    hostname: str
    """As a command inside printed it."""


@dataclass(slots=True)
class AgentRun:
    """What happened, filled while it happens, so that a failure leaves its traces."""

    ledger: CallLedger = field(default_factory=CallLedger)
    turns: list[Turn] = field(default_factory=list[Turn])
    end: RolloutEnd | None = None
    policy_s: float = 0.0
    tools_s: float = 0.0


class _WallTimeOver(Exception):
    """The rollout's time ended while the policy was at work."""


class ShellAgent:
    """One rollout's agent. Drive it once with :meth:`run`."""

    def __init__(self, policy: Policy, place: Workplace, limits: ShellLimits, clock: Clock) -> None:
        self._policy = policy
        self._place = place
        self._limits = limits
        self._clock = clock
        self._deadline = clock.monotonic() + limits.wall_s
        self._sampled = 0
        self._recent: list[tuple[str, str]] = []

    async def run(self, prompt: Sequence[Message], run: AgentRun) -> None:
        """Sets ``run.end``. Raises ``InfrastructureFailure`` and ``PolicyUnavailable`` as they
        come; ``run`` then tells how far it got."""
        run.turns += [_context_turn(message) for message in prompt]
        await self._start(prompt, run)
        try:
            run.end = await self._loop(run)
        except PolicyOutOfRoom:
            run.end = RolloutEnd.MAX_TOKENS
        except _WallTimeOver:
            run.end = RolloutEnd.WALL_TIME

    async def _start(self, prompt: Sequence[Message], run: AgentRun) -> None:
        """Before the first turn nothing is the agent's doing."""
        try:
            await self._ask(run, self._policy.start(prompt, SCHEMAS))
        except PolicyOutOfRoom as error:
            raise InfrastructureFailure(
                InvalidReason.GATEWAY_FAILED,
                f"the prompt leaves no room to answer: raise trainer.max_prompt_tokens ({error})",
                retryable=False,
            ) from error
        except _WallTimeOver as error:
            raise InfrastructureFailure(
                InvalidReason.GATEWAY_FAILED, "the policy did not start within the rollout's time"
            ) from error

    async def _loop(self, run: AgentRun) -> RolloutEnd:
        for number in range(1, self._limits.max_turns + 1):
            if self._left() <= 0:
                return RolloutEnd.WALL_TIME
            budget = min(self._limits.turn_tokens, self._limits.total_tokens - self._sampled)
            if budget <= 0:
                return RolloutEnd.MAX_TOKENS
            run.ledger.offered()
            turn = await self._sample(budget, run)
            end, observations = await self._act(turn, run)
            if end is not None:
                return end
            if turn.stop == "length":
                return RolloutEnd.MAX_TOKENS
            if self._is_stuck(turn.text, observations):
                return RolloutEnd.STUCK
            if number < self._limits.max_turns:
                await self._ask(run, self._policy.observe(observations))
        return RolloutEnd.MAX_STEPS

    async def _ask(self, run: AgentRun, asked: Awaitable[T]) -> T:
        """One call of the policy, within what is left of the rollout's time."""
        began = self._clock.monotonic()
        scope = asyncio.timeout(max(0.0, self._left()))
        try:
            async with scope:
                return await asked
        except TimeoutError as error:
            if scope.expired():
                raise _WallTimeOver from error
            raise
        finally:
            run.policy_s += self._clock.monotonic() - began

    async def _sample(self, budget: int, run: AgentRun) -> PolicyTurn:
        turn = await self._ask(run, self._policy.turn(budget))
        self._sampled += len(turn.token_ids)
        run.turns.append(
            Turn(role="assistant", text=turn.text, tokens=len(turn.token_ids), trainable=True)
        )
        return turn

    async def _act(
        self, turn: PolicyTurn, run: AgentRun
    ) -> tuple[RolloutEnd | None, list[Message]]:
        """Executes the calls of one turn in order; ``finish`` ends at once."""
        parsed = parse(turn.text)
        run.ledger.malformed(parsed.malformed)
        observations: list[Message] = []
        for call in parsed.calls:
            if call.tool is Tool.FINISH:
                return RolloutEnd.FINISHED, observations
            observations.append(await self._execute(call, run))
        if not observations:
            observations.append(_complaint(parsed))
            run.turns.append(_context_turn(observations[0]))
        return None, observations

    async def _execute(self, call: ToolCall, run: AgentRun) -> Message:
        number = run.ledger.parsed()
        result = await self._place.sandbox.run(self._request(call.command))
        run.ledger.executed(number)
        run.tools_s += result.seconds
        text = observation(result, self._limits.observation_chars)
        run.turns.append(
            Turn(
                role="tool",
                text=text,
                tool=call.tool,
                command=call.command,
                exit_code=result.exit_code,
                timed_out=result.timed_out,
                hostname=self._place.hostname,
                seconds=result.seconds,
            )
        )
        return {"role": "tool", "content": text}

    def _request(self, command: str) -> ExecRequest:
        return ExecRequest(
            command=command,
            cwd=self._place.workdir,
            timeout_s=max(_MIN_COMMAND_S, min(self._limits.command_timeout_s, self._left())),
            output_limit=self._limits.observation_chars * _OUTPUT_BYTES_PER_CHAR,
        )

    def _is_stuck(self, text: str, observations: Sequence[Message]) -> bool:
        self._recent.append((text, str(observations)))
        del self._recent[: -self._limits.stuck_after]
        return len(self._recent) == self._limits.stuck_after and len(set(self._recent)) == 1

    def _left(self) -> float:
        return self._deadline - self._clock.monotonic()


def observation(result: CommandResult, limit: int) -> str:
    """What the model sees of a command: its output, and of silence only what it must know."""
    text = "\n".join(part for part in (result.stdout.strip(), result.stderr.strip()) if part)
    if result.timed_out:
        text = f"{text}\n[timed out after {result.seconds:.0f} s]".strip()
    elif not text and result.exit_code != 0:
        text = f"[exit code {result.exit_code}]"
    return truncate_middle(text, limit)


def truncate_middle(text: str, limit: int) -> str:
    """Errors stand at the end, context at the start: both stay. At most ``limit`` characters,
    unless the marker alone is longer."""
    if len(text) <= limit:
        return text
    marker = MARKER.format(dropped=len(text) - limit)
    kept = max(0, limit - len(marker))
    tail = kept // 2
    return text[: kept - tail] + marker + (text[-tail:] if tail else "")


def _complaint(parsed: Parsed) -> Message:
    return {"role": "user", "content": f"No tool was run: {parsed.malformed[0]}."}


def _context_turn(message: Message) -> Turn:
    role = message["role"]
    return Turn(
        role=role if role in ("system", "user", "assistant") else "tool",
        text=str(message["content"]),
    )
