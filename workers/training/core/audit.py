"""Were the offered tools really used? Counted where it happens, and checked at the end.

A run in which calls are parsed but nothing is executed trains on nothing while every chart looks
alive. So each parsed command is paired with the outcome of its execution, and a rollout whose
books do not balance is invalid.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from workers.contract.reports import CallCounts, InvalidReason
from workers.training.core.errors import InfrastructureFailure
from workers.training.core.toolcalls import Malformed


@dataclass(slots=True)
class CallLedger:
    """The books of one rollout. ``finish`` is an end, not a command: it is never entered."""

    turns: int = 0
    _open: set[int] = field(default_factory=set[int])
    _parsed: int = 0
    _executed: int = 0
    _malformed: Counter[str] = field(default_factory=Counter[str])

    def offered(self) -> None:
        """The policy got a turn."""
        self.turns += 1

    def malformed(self, kinds: Iterable[Malformed]) -> None:
        self._malformed.update(kind.value for kind in kinds)

    def parsed(self) -> int:
        """Enters a command that must now be executed; returns its number."""
        self._parsed += 1
        self._open.add(self._parsed)
        return self._parsed

    def executed(self, number: int) -> None:
        """The sandbox ran it, whatever its exit code."""
        self._open.remove(number)
        self._executed += 1

    def counts(self) -> CallCounts:
        return CallCounts(
            turns=self.turns,
            parsed=self._parsed,
            executed=self._executed,
            malformed=dict(self._malformed),
        )


def check(counts: CallCounts) -> None:
    """Raises ``audit_failed`` when commands were parsed and not one was executed, or when more
    ran than were asked for."""
    if (counts.parsed > 0 and counts.executed == 0) or counts.executed > counts.parsed:
        raise InfrastructureFailure(
            InvalidReason.AUDIT_FAILED,
            f"{counts.parsed} commands were parsed, {counts.executed} executed in the sandbox",
        )
