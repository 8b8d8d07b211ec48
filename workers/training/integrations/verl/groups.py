"""Groups agree on their survivors before any of them returns to verl."""

import asyncio
from dataclasses import dataclass, field

SMALLEST_GROUP = 2
"""GRPO compares siblings. Alone, a survivor's advantage would be its raw reward."""


@dataclass(slots=True)
class _Group:
    size: int
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    survivors: int = 0
    settled: int = 0


class Groups:
    """All rollouts of one prompt run in one event loop, so they can wait for each other.

    Every member must call ``settle`` exactly once, whatever became of it; waiting costs
    nothing, for the step needs the whole group anyway.
    """

    def __init__(self) -> None:
        self._open: dict[str, _Group] = {}

    async def settle(self, uid: str, size: int, survived: bool) -> bool:
        """True if this member's result may be used."""
        group = self._open.setdefault(uid, _Group(size))
        group.settled += 1
        group.survivors += survived
        if group.settled == group.size:
            del self._open[uid]
            group.decided.set()
        await group.decided.wait()
        return survived and (group.size == 1 or group.survivors >= SMALLEST_GROUP)
