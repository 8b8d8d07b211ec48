"""Can workers be heard at all?"""

from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass(frozen=True)
class Hearing:
    """Since when some worker has been heard without a break.

    Heartbeats arrive through the web process. While that is down nobody is heard, which says
    nothing of the runtimes: their silence is counted from when hearing came back.
    """

    since: datetime | None = None

    def after(self, last_heard: datetime | None, now: datetime, patience: timedelta) -> "Hearing":
        if last_heard is None or now - last_heard > patience:
            return Hearing()
        return self if self.since is not None else Hearing(since=now)
