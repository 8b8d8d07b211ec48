"""Notices checkpoints by the integration's rule and tells of each change once.

What is complete, the trainer's integration decides; what is kept, the trainer itself does.
"""

import os
from collections.abc import Callable
from pathlib import Path

from workers.contract.attempt import AttemptFile
from workers.contract.reports import CheckpointReport
from workers.training.integrations.base import Completeness, Integration


class CheckpointWatcher:
    """Call :meth:`news` now and then. A folder that shrank or vanished is told of too."""

    def __init__(
        self, integration: Integration, attempt: AttemptFile, now_iso: Callable[[], str]
    ) -> None:
        self._integration = integration
        self._attempt = attempt
        self._now_iso = now_iso
        self._told: dict[Path, tuple[Completeness, int]] = {}

    def news(self, *, final: bool = False) -> tuple[CheckpointReport, ...]:
        """Reports of folders that became complete, or changed since. Partial ones are being
        written as a rule: they are told of when something newer exists, or at the end."""
        folders = self._integration.checkpoints(self._attempt)
        reports: list[CheckpointReport] = []
        for folder in folders:
            seen = (self._integration.complete(folder), size_of(folder))
            settled = seen[0].complete or final or folder != folders[-1]
            if seen[0].pruned or not settled or self._told.get(folder) == seen:
                continue
            self._told[folder] = seen
            reports.append(self._report(folder, *seen))
        return (*reports, *self._gone(set(folders)))

    def _report(self, folder: Path, seen: Completeness, size: int) -> CheckpointReport:
        missing = ", ".join(seen.missing)
        return CheckpointReport(
            step=seen.step,
            path=str(folder),
            complete=seen.complete,
            bytes=size,
            parts=dict(seen.parts),
            detail=f"missing: {missing}" if missing else "",
            at=self._now_iso(),
        )

    def _gone(self, present: set[Path]) -> tuple[CheckpointReport, ...]:
        """Complete ones that the trainer has deleted or pruned since: no resume from there."""
        reports: list[CheckpointReport] = []
        for folder, (seen, _) in list(self._told.items()):
            if folder in present and not self._integration.complete(folder).pruned:
                continue
            del self._told[folder]
            reports.append(
                CheckpointReport(
                    step=seen.step,
                    path=str(folder),
                    complete=False,
                    bytes=0,
                    detail="deleted by the trainer",
                    at=self._now_iso(),
                )
            )
        return tuple(reports)


def size_of(folder: Path) -> int:
    """Bytes of all files below; files that vanish meanwhile count nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += Path(root, name).lstat().st_size
            except FileNotFoundError:
                continue
    return total
