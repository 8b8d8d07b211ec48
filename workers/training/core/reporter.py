"""Facts on their way to the control plane: numbered, on disk first, never in the way of training.

``put`` only appends to a queue. A thread writes batches to the spool (one file each, durable
before it is sent) and sends them oldest first; a batch is deleted when the control plane has
accepted it. An outage only makes the spool grow, up to a bound, after which the oldest batches go
and a finding says how many. Repeats are harmless: batches are idempotent by (source, sequence).
"""

import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from workers.contract.reports import FindingReport, Report, ReportBatch
from workers.contract.version import CONTRACT_VERSION
from workers.control_plane import ControlPlane, Rejected, Superseded, Unavailable

log = logging.getLogger(__name__)

_SUFFIX = ".json"
_REFUSED = ".refused"


@dataclass(frozen=True, slots=True)
class ReporterSettings:
    max_batch: int = 20
    flush_s: float = 0.5
    """How long a report may wait in memory for others."""
    retry_s: float = 2.0
    """Pause after the control plane was found silent."""
    max_queue: int = 10_000
    max_spool_bytes: int = 256 * 2**20
    close_s: float = 10.0
    """How long :meth:`Reporter.close` waits for the last batches to be accepted."""


class Spool:
    """Batches of one source in one folder, one durable file each."""

    def __init__(self, root: Path, source: str, max_bytes: int) -> None:
        self._root = root
        self._folder = root / source
        self._max_bytes = max_bytes
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, batch: ReportBatch) -> int:
        """Stores the batch; returns how many old ones had to go for it."""
        path = self._folder / f"{batch.sequence:010d}{_SUFFIX}"
        partial = path.with_suffix(".partial")
        with partial.open("wb") as out:
            out.write(batch.model_dump_json().encode())
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
        return self._trim()

    def _trim(self) -> int:
        waiting = list(self.waiting(all_sources=False))
        excess = sum(_size(path) for path in waiting) - self._max_bytes
        dropped = 0
        for path in waiting[:-1]:
            if excess <= 0:
                break
            excess -= _size(path)
            path.unlink(missing_ok=True)
            dropped += 1
        return dropped

    def waiting(self, *, all_sources: bool) -> Iterator[Path]:
        """Batches not yet accepted, oldest first within each source."""
        folders = sorted(self._root.iterdir()) if all_sources else [self._folder]
        for folder in folders:
            yield from sorted(folder.glob(f"*{_SUFFIX}"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


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
        self._queue: queue.Queue[Report] = queue.Queue(self._settings.max_queue)
        self._sequence = 0
        self._dropped = 0
        self._closing = threading.Event()
        self.superseded = threading.Event()
        """Set when the control plane said that the attempt is over."""
        self._thread = threading.Thread(target=self._work, name=f"reporter-{source}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, report: Report) -> None:
        """Never blocks and never fails; a full queue drops the report and counts it."""
        try:
            self._queue.put_nowait(report)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Stores what is queued, and sends while there is time; what is stored is not lost."""
        self._closing.set()
        self._thread.join(self._settings.close_s)

    def _work(self) -> None:
        last = False
        while not last:
            last = self._closing.is_set()
            try:
                self._store(self._collect(wait=not last))
                reached = self.superseded.is_set() or self._send()
            except (OSError, PydanticSerializationError) as error:
                # A full disk or one bad text must not end the thread: the next batch may fit.
                self._dropped += 1
                log.error("a batch of reports cannot be stored: %s", error)
                reached = False
            if not reached and not last:
                self._closing.wait(self._settings.retry_s)

    def _collect(self, *, wait: bool) -> list[Report]:
        """Up to a batch of reports; waits for the first for one flush interval."""
        reports: list[Report] = []
        try:
            if wait:
                reports.append(self._queue.get(timeout=self._settings.flush_s))
            while len(reports) < self._settings.max_batch or not wait:
                reports.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return reports

    def _store(self, reports: list[Report]) -> None:
        if self._dropped:
            reports = [*reports, self._loss()]
        if not reports or self.superseded.is_set():
            return
        run_id, attempt, source = self._identity
        self._sequence += 1
        self._dropped += self._spool.write(
            ReportBatch(
                contract_version=CONTRACT_VERSION,
                run_id=run_id,
                attempt=attempt,
                source=source,
                sequence=self._sequence,
                reports=tuple(reports),
            )
        )

    def _loss(self) -> FindingReport:
        lost, self._dropped = self._dropped, 0
        return FindingReport(
            code="reports_dropped",
            severity="warning",
            text=f"{lost} reports or batches were dropped: the control plane was silent for long",
            at=self._now_iso(),
        )

    def _send(self) -> bool:
        """Sends until nothing waits. False when the control plane is silent."""
        for path in self._spool.waiting(all_sources=self._all_sources):
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
            except Rejected as error:
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
