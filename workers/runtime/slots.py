"""Slots: how many sandboxes may live at once, and who waits for one, in order of arrival."""

import asyncio
from collections import deque

from workers.runtime.errors import NoCapacity


class Slots:
    def __init__(self, total: int) -> None:
        self.total = total
        self.used = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    @property
    def free(self) -> int:
        return self.total - self.used

    async def acquire(self, wait_s: float) -> None:
        """First come, first served. Raises NoCapacity after ``wait_s`` seconds."""
        if self.used < self.total and not self._waiters:
            self.used += 1
            return
        place = asyncio.get_running_loop().create_future()
        self._waiters.append(place)
        try:
            await asyncio.wait_for(place, wait_s)
        except BaseException as error:
            self._give_up(place)
            if isinstance(error, TimeoutError):
                raise NoCapacity(
                    f"all {self.total} slots were in use for {wait_s:.0f} s; "
                    "raise runtime.slots or runtime.count, or run fewer rollouts at once"
                ) from None
            raise

    def _give_up(self, place: "asyncio.Future[None]") -> None:
        if place in self._waiters:
            self._waiters.remove(place)
        elif place.done() and not place.cancelled():
            self.release()  # the slot came in the moment we left

    def release(self) -> None:
        while self._waiters:
            place = self._waiters.popleft()
            if not place.done():
                place.set_result(None)  # the slot changes hands, the count stays
                return
        self.used -= 1
