"""Facts on their way to the control plane: numbered, on disk first, never in the way of training.

``put`` stores the report itself, before it returns: whatever then happens to this process, the
report is there. A thread sends what is stored, oldest first, and deletes what the control plane
has accepted. An outage only makes the spool grow, up to a bound, after which the oldest reports go
and a finding says how many. Repeats are harmless: batches are idempotent by (source, sequence).
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from workers.contract.reports import FindingReport, Report, ReportBatch
from workers.contract.version import CONTRACT_VERSION
from workers.control_plane import Conflict, ControlPlane, Rejected, Superseded, Unavailable

log = logging.getLogger(__name__)

_SUFFIX = ".json"
_REFUSED = ".refused"
_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class ReporterSettings:
    look_s: float = 0.5
    """Pause between looks for what other processes have stored."""
    retry_s: float = 2.0
    """Pause after the control plane was found silent."""
    max_spool_bytes: int = 256 * 2**20
    """Of one source, counted in whole blocks as a disk does."""


class Spool:
    """Batches of one source in one folder, one file each.

    A file is whole or not there, also when the process is killed. It is not forced to the disk's
    surface: that would make rollouts wait, and only a crash of the node could tell.
    """

    def __init__(self, root: Path, source: str, max_bytes: int) -> None:
        self.root = root
        self._folder = root / source
        self._max_bytes = max_bytes
        self._written: deque[tuple[Path, int]] = deque()
        """Oldest first; those already sent are still counted, and the first to be forgotten."""
        self._bytes = 0
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, batch: ReportBatch) -> int:
        """Stores the batch; returns how many old ones had to go for it."""
        path = self._folder / f"{batch.sequence:010d}{_SUFFIX}"
        partial = path.with_suffix(".partial")
        content = batch.model_dump_json().encode()
        partial.write_bytes(content)
        partial.replace(path)
        size = -(-len(content) // _BLOCK) * _BLOCK
        self._written.append((path, size))
        self._bytes += size
        return self._trim()

    def _trim(self) -> int:
        dropped = 0
        while self._bytes > self._max_bytes and len(self._written) > 1:
            path, size = self._written.popleft()
            self._bytes -= size
            dropped += path.exists()
            path.unlink(missing_ok=True)
        return dropped

    def waiting(self, *, all_sources: bool) -> Iterator[Path]:
        """Batches not yet accepted, oldest first within each source."""
        for folder in self._folders(all_sources):
            yield from sorted(folder.glob(f"*{_SUFFIX}"))

    def count(self, suffix: str, *, all_sources: bool) -> int:
        folders = self._folders(all_sources)
        return sum(1 for folder in folders for _ in folder.glob(f"*{suffix}"))

    def _folders(self, all_sources: bool) -> list[Path]:
        return sorted(self.root.iterdir()) if all_sources else [self._folder]


class Reporter:
    """One source of reports. :meth:`put` is safe from every thread."""

    def __init__(
        self,
        control_plane: ControlPlane,
        spool_root: Path,
        run_id: str,
        attempt: int,
        source: str,
        *,
        now_iso: Callable[[], str],
        settings: ReporterSettings | None = None,
        all_sources: bool = False,
    ) -> None:
        """``source`` is unique to this start of this process. ``all_sources``: also send what
        processes of this attempt left behind that ended before they could."""
        self._control_plane = control_plane
        self._settings = settings or ReporterSettings()
        self._spool = Spool(spool_root, source, self._settings.max_spool_bytes)
        self._identity = (run_id, attempt, source)
        self._now_iso = now_iso
        self._all_sources = all_sources
        self._storing = threading.Lock()
        self._sequence = 0
        self._dropped = 0
        self._news = threading.Event()
        self._closing = threading.Event()
        self._giving_up = threading.Event()
        self.superseded = threading.Event()
        """Set when the control plane said that the attempt is over."""
        self._thread = threading.Thread(target=self._work, name=f"reporter-{source}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, report: Report) -> None:
        """Stores the report before it returns, without a word to the network. Never fails: what
        cannot be stored (a full disk, a text that is none) is dropped and counted."""
        if self.superseded.is_set():
            return
        with self._storing:
            try:
                self._store(report)
            except (OSError, PydanticSerializationError) as error:
                self._dropped += 1
                log.error("a report cannot be stored: %s", error)
        self._news.set()

    def close(self, within_s: float = 2.0) -> None:
        """Goes on sending until nothing is left or the time is over; what is left stays stored."""
        self._closing.set()
        self._news.set()
        self._thread.join(within_s)
        self._giving_up.set()

    def left_behind(self) -> str:
        """For people: what could not be sent, and where it lies. Empty when nothing is left."""
        if self.superseded.is_set():
            return ""
        silent = self._spool.count(_SUFFIX, all_sources=self._all_sources)
        refused = self._spool.count(_REFUSED, all_sources=self._all_sources)
        if not silent and not refused:
            return ""
        return (
            f"reports that did not reach the control plane are kept in {self._spool.root}:"
            f" {silent} found it silent, {refused} were refused (the job's log says why)"
        )

    def _store(self, report: Report) -> None:
        run_id, attempt, source = self._identity
        self._sequence += 1
        reports = (report, self._loss()) if self._dropped else (report,)
        lost = self._spool.write(
            ReportBatch(
                contract_version=CONTRACT_VERSION,
                run_id=run_id,
                attempt=attempt,
                source=source,
                sequence=self._sequence,
                reports=reports,
            )
        )
        # Only now has the loss so far been told.
        self._dropped = lost

    def _loss(self) -> FindingReport:
        return FindingReport(
            code="reports_dropped",
            severity="warning",
            text=f"{self._dropped} reports were dropped: the control plane was silent for long,"
            " or the disk was full",
            at=self._now_iso(),
        )

    def _work(self) -> None:
        while not self._giving_up.is_set():
            last = self._closing.is_set()
            try:
                reached = self._send()
            except OSError as error:
                # A file system in trouble must not end the thread: it may come back.
                log.error("stored reports cannot be sent: %s", error)
                reached = False
            if self.superseded.is_set() or (reached and last):
                return
            self._pause(reached)

    def _pause(self, reached: bool) -> None:
        if reached:
            self._news.wait(self._settings.look_s)
            self._news.clear()
        elif self._closing.is_set():
            self._giving_up.wait(min(self._settings.retry_s, self._settings.look_s))
        else:
            self._closing.wait(self._settings.retry_s)

    def _send(self) -> bool:
        """Sends until nothing waits. False when the control plane is silent."""
        for path in self._spool.waiting(all_sources=self._all_sources):
            if self._giving_up.is_set():
                return False
            batch = _read(path)
            if batch is None:
                continue
            try:
                self._control_plane.report(batch)
            except Unavailable:
                return False
            except Superseded:
                self.superseded.set()
                return True
            except (Conflict, Rejected) as error:
                log.error("%s was refused and is kept as %s: %s", path, _REFUSED, error)
                path.rename(path.with_suffix(_REFUSED))
                continue
            path.unlink(missing_ok=True)
        return True


def _read(path: Path) -> ReportBatch | None:
    """None when the file has gone (another sender was faster) or is not a batch."""
    try:
        return ReportBatch.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        log.error("%s is not a batch and is kept as %s: %s", path, _REFUSED, error)
        path.rename(path.with_suffix(_REFUSED))
        return None
