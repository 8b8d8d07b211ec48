"""Which PENDING runs may start. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Waiting:
    """A PENDING run of a sweep, in the order of its grid."""

    run_id: str
    sweep_index: int


def admitted(waiting: Sequence[Waiting], active: int, parallel: int) -> frozenset[str]:
    """The runs of one sweep that may start while `active` of its runs are under way."""
    free = max(0, parallel - active)
    in_order = sorted(waiting, key=lambda run: (run.sweep_index, run.run_id))
    return frozenset(run.run_id for run in in_order[:free])
