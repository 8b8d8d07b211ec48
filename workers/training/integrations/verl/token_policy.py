"""The core's :class:`Policy` over verl's engine client and continuous-token builder.

No import of verl: its objects arrive from the agent loop, so tests can hand in the same
builder with another engine.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import uuid4

from workers.training.core.policy import (
    Message,
    PolicyOutOfRoom,
    PolicyUnavailable,
    StopCause,
    TokenRecord,
    ToolSchema,
    Turn,
)


class Engine(Protocol):
    """verl's ``LLMServerClient``: token ids in, token ids and log-probs out."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Any: ...


class TokenBuilder(Protocol):
    """The part of verl's ``ContinuousTokenBuilder`` that is used here."""

    def build_initial_tokens(self, messages: list[Any], *, tools: Any = None) -> list[int]: ...

    def merge_assistant_tokens(self, ids: list[int], assistant_ids: list[int]) -> Any: ...

    def merge_context_tokens(
        self, previous: list[Any], updated: list[Any], ids: list[int], *, tools: Any = None
    ) -> Any: ...

    def align_response_metadata(
        self, merge: Any, mask: list[int], logprobs: Any, *, assistant_logprobs: Any = None
    ) -> tuple[list[int], list[float]]: ...


class Tokenizer(Protocol):
    eos_token_id: int

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str: ...


@dataclass(frozen=True, slots=True)
class Limits:
    prompt_tokens: int
    response_tokens: int
    """Everything after the prompt: all turns and all observations."""


@dataclass(slots=True)
class _State:
    """What is known so far; a failed call changes nothing."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    ids: list[int]
    prompt_length: int
    mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: int = 0
    version: int = 0
    last_stop: StopCause | None = None


class VerlPolicy:
    """One rollout. ``extra_fields`` are those of the last turn, as verl's metrics want them."""

    def __init__(
        self,
        engine: Engine,
        builder: TokenBuilder,
        tokenizer: Tokenizer,
        limits: Limits,
        sampling: Mapping[str, Any],
        seed_of: Callable[[int], int],
        clock: Callable[[], float],
    ) -> None:
        self._engine = engine
        self._builder = builder
        self._tokenizer = tokenizer
        self._limits = limits
        self._sampling = dict(sampling)
        self._seed_of = seed_of
        self._clock = clock
        # One id for all turns: the same replica and its prefix cache.
        self._request_id = uuid4().hex
        self._state: _State | None = None
        self.extra_fields: dict[str, Any] = {}
        self.seconds = 0.0
        """Spent waiting for the engine."""

    async def start(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> None:
        plain = [dict(message) for message in messages]
        schemas = [dict(tool) for tool in tools] or None
        # Not verl's ct_build_initial_tokens: that cuts a long prompt on the left and goes on.
        ids = await asyncio.to_thread(self._builder.build_initial_tokens, plain, tools=schemas)
        self._state = _State(plain, schemas, list(ids), len(ids))
        if len(ids) > self._limits.prompt_tokens:
            raise PolicyOutOfRoom(
                f"the prompt has {len(ids)} tokens, trainer.max_prompt_tokens is "
                f"{self._limits.prompt_tokens}"
            )

    async def turn(self, max_tokens: int) -> Turn:
        state = self._started()
        room = self._limits.response_tokens - (len(state.ids) - state.prompt_length)
        if room < 1:
            raise PolicyOutOfRoom("the response budget is used up")
        limit = min(max_tokens, room)
        output = await self._generate(state, limit)
        token_ids, logprobs = _checked(output, limit)
        stop: StopCause = "eos" if token_ids[-1] == self._tokenizer.eos_token_id else "length"
        version = int(output.extra_fields.get("global_steps") or 0)
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        self._append_turn(state, token_ids, logprobs, text, stop, version)
        self._note_extra(output.extra_fields)
        return Turn(text, tuple(token_ids), tuple(logprobs), stop, version)

    async def observe(self, messages: Sequence[Message]) -> None:
        state = self._started()
        if state.last_stop != "eos":
            raise RuntimeError("observe() after a turn without an end token: end the rollout there")
        plain = [dict(message) for message in messages]
        updated = state.messages + plain
        merge = await asyncio.to_thread(
            self._builder.merge_context_tokens,
            state.messages,
            updated,
            state.ids,
            tools=state.tools,
        )
        if len(merge.token_ids) - state.prompt_length >= self._limits.response_tokens:
            raise PolicyOutOfRoom("the observation leaves no room for another turn")
        mask, logprobs = self._builder.align_response_metadata(merge, state.mask, state.logprobs)
        state.messages, state.ids = updated, list(merge.token_ids)
        state.mask, state.logprobs, state.last_stop = mask, logprobs, None

    def record(self) -> TokenRecord:
        state = self._started()
        response = state.ids[state.prompt_length :]
        if not len(response) == len(state.mask) == len(state.logprobs):
            raise RuntimeError("token record out of step: ids, mask and log-probs differ in length")
        return TokenRecord(
            prompt_ids=tuple(state.ids[: state.prompt_length]),
            response_ids=tuple(response),
            mask=tuple(state.mask),
            logprobs=tuple(state.logprobs),
            policy_version=state.version,
        )

    @property
    def chat_turns(self) -> int:
        """User, assistant and tool messages, as verl counts ``num_turns``."""
        state = self._started()
        return sum(message["role"] != "system" for message in state.messages)

    async def _generate(self, state: _State, limit: int) -> Any:
        params = self._sampling | {
            "max_tokens": limit,
            "seed": self._seed_of(state.turns),
        }
        began = self._clock()
        try:
            return await self._engine.generate(
                self._request_id, prompt_ids=list(state.ids), sampling_params=params
            )
        except Exception as error:
            raise PolicyUnavailable(f"the engine failed: {error}") from error
        finally:
            self.seconds += self._clock() - began

    def _append_turn(
        self,
        state: _State,
        token_ids: list[int],
        logprobs: list[float],
        text: str,
        stop: StopCause,
        version: int,
    ) -> None:
        merge = self._builder.merge_assistant_tokens(state.ids, token_ids)
        mask, merged = self._builder.align_response_metadata(
            merge, state.mask, state.logprobs, assistant_logprobs=logprobs
        )
        state.ids, state.mask, state.logprobs = list(merge.token_ids), mask, merged
        state.messages = [*state.messages, {"role": "assistant", "content": text}]
        state.version = state.version if state.turns else version
        state.turns += 1
        state.last_stop = stop

    def _note_extra(self, fields: Mapping[str, Any]) -> None:
        first = self.extra_fields.get("min_global_steps", fields.get("min_global_steps"))
        self.extra_fields = dict(fields) | {"min_global_steps": first}

    def _started(self) -> _State:
        if self._state is None:
            raise RuntimeError("the policy was not started")
        return self._state


def _checked(output: Any, limit: int) -> tuple[list[int], list[float]]:
    """Ids and log-probs of an engine answer that can be trained on, or ``PolicyUnavailable``."""
    token_ids, logprobs = list(output.token_ids), output.log_probs
    if output.stop_reason in {"aborted", "abort"} or not token_ids:
        raise PolicyUnavailable(f"the engine gave up a turn ({output.stop_reason or 'no tokens'})")
    if logprobs is None or len(logprobs) != len(token_ids):
        raise PolicyUnavailable("the engine returned no log-probability for some sampled token")
    if len(token_ids) > limit:
        raise PolicyUnavailable(f"the engine sampled {len(token_ids)} tokens, {limit} were allowed")
    return token_ids, list(logprobs)


def derived_seed(*parts: object) -> int:
    """A 31-bit seed that depends on every part; equal parts give equal seeds anywhere."""
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4]) >> 1
