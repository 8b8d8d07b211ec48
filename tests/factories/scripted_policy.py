"""A policy that says what a test wants it to say."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.training.core.policy import (
    Message,
    PolicyOutOfRoom,
    PolicyUnavailable,
    StopCause,
    TokenRecord,
    ToolSchema,
    Turn,
)


def bash(command: str) -> str:
    return f"<function=execute_bash><parameter=command>{command}</parameter></function>"


FINISH = "<function=finish></function>"


@dataclass
class ScriptedPolicy:
    """Says the texts one after another, then FINISH for ever. One byte is one token."""

    texts: Sequence[str]
    stop: StopCause = "eos"
    """Of the last text."""
    fail_turns: set[int] = field(default_factory=set)
    """Numbers of turns, over all tries from 1, that raise PolicyUnavailable."""
    room: int = 1_000_000
    hang_on: int | None = None
    """This turn never ends."""
    starts: list[list[Message]] = field(default_factory=list)
    observed: list[str] = field(default_factory=list)
    asked: int = 0
    _said: int = 0
    _response: list[int] = field(default_factory=list)
    _mask: list[int] = field(default_factory=list)

    async def start(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> None:
        self.starts.append(list(messages))
        self._said = 0
        self._response, self._mask, self.observed = [], [], []

    async def turn(self, max_tokens: int) -> Turn:
        self.asked += 1
        if self.asked in self.fail_turns:
            raise PolicyUnavailable("the engine is away")
        if self.asked == self.hang_on:
            await asyncio.Event().wait()
        text = self.texts[self._said] if self._said < len(self.texts) else FINISH
        self._said += 1
        last = self._said == len(self.texts)
        ids = tuple(text.encode())
        self._response += ids
        self._mask += [1] * len(ids)
        return Turn(text, ids, (0.0,) * len(ids), self.stop if last else "eos", 7)

    async def observe(self, messages: Sequence[Message]) -> None:
        texts = [str(message["content"]) for message in messages]
        if len("".join(texts)) > self.room:
            raise PolicyOutOfRoom("full")
        self.observed += texts
        self._response += [0] * len("".join(texts))
        self._mask += [0] * len("".join(texts))

    def record(self) -> TokenRecord:
        zeros = (0.0,) * len(self._response)
        return TokenRecord((1, 2, 3), tuple(self._response), tuple(self._mask), zeros, 7)
