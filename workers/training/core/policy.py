"""What the rollout core asks of a policy, and what it gets back.

The core speaks messages and text; a trainer integration turns them into the exact
token ids its engine sampled. The core never tokenises, so ids, mask and log-probs
of a finished rollout are those of the engine and of nobody else.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Message = Mapping[str, Any]
"""One chat message: at least ``role`` and ``content`` (text)."""

ToolSchema = Mapping[str, Any]
"""One tool in the JSON form that chat templates take."""

StopCause = Literal["eos", "length"]


class PolicyUnavailable(Exception):
    """The engine behind the policy failed to answer; the rollout has no reward."""


class PolicyOutOfRoom(Exception):
    """The next messages leave no room for another sampled token.

    The rollout ends here by ``max_tokens``. What was recorded so far stays valid:
    the messages that did not fit are not part of the record.
    """


@dataclass(frozen=True, slots=True)
class Turn:
    """One sampled assistant message.

    ``text`` is the decoded ``token_ids`` without special tokens. After ``length``
    no further ``observe`` is legal: the message has no end token, so every later
    token would be conditioned on a conversation the model's template cannot render.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stop: StopCause
    policy_version: int


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """Everything a trainer needs of one finished rollout.

    ``response_ids``, ``mask`` and ``logprobs`` have one length; mask 1 marks sampled
    tokens, 0 marks context (observations, template) whose log-prob is 0.0.
    ``policy_version`` is the version of the weights that sampled the first turn.
    """

    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    mask: tuple[int, ...]
    logprobs: tuple[float, ...]
    policy_version: int

    @property
    def trainable_tokens(self) -> int:
        return sum(self.mask)


class Policy(Protocol):
    """The policy of one rollout. Calls come strictly one after another.

    Order: ``start`` once, then ``turn``, then any number of (``observe``, ``turn``).
    Every call may raise ``PolicyUnavailable``; after it the policy is spent, and another try
    of the rollout takes a fresh one.
    """

    async def start(self, messages: Sequence[Message], tools: Sequence[ToolSchema]) -> None:
        """Raises ``PolicyOutOfRoom`` when the first prompt does not fit."""
        ...

    async def turn(self, max_tokens: int) -> Turn:
        """Samples one assistant message of at most ``max_tokens`` tokens.

        The policy may allow fewer when the rollout's total budget is nearly used up;
        a turn cut that way stops with ``length``.
        """
        ...

    async def observe(self, messages: Sequence[Message]) -> None:
        """Appends tool or user messages after the last turn. Never an assistant message.

        Raises ``PolicyOutOfRoom`` and changes nothing when they leave no room to answer.
        """
        ...

    def record(self) -> TokenRecord:
        """The record so far. Legal at any time after ``start``, also after a failure."""
        ...
