"""The reporter: nothing is lost in an outage, nothing blocks, and 410 ends it."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from workers.contract.reports import FindingReport, PhaseReport, ReportAnswer, ReportBatch
from workers.control_plane import Rejected, Superseded, Unavailable
from workers.training.core.reporter import Reporter, ReporterSettings

QUICK = ReporterSettings(flush_s=0.01, retry_s=0.01, close_s=5)


class Plane:
    """Accepts batches, or behaves as told."""

    def __init__(self) -> None:
        self.accepted: list[ReportBatch] = []
        self.behave: Callable[[ReportBatch], None] = lambda _: None
        self.changed = threading.Condition()

    def report(self, batch: ReportBatch) -> ReportAnswer:
        self.behave(batch)
        with self.changed:
            self.accepted.append(batch)
            self.changed.notify_all()
        return ReportAnswer(accepted=True)

    def wait_for(self, reports: int) -> list[str]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.phases()) >= reports, timeout=5)
        return self.phases()

    def phases(self) -> list[str]:
        return [r.phase for b in self.accepted for r in b.reports if isinstance(r, PhaseReport)]


def reporter(
    plane: Plane,
    root: Path,
    source: str = "a",
    settings: ReporterSettings = QUICK,
    *,
    all_sources: bool = False,
) -> Reporter:
    return Reporter(
        plane,  # type: ignore[arg-type]
        root / "spool",
        "r1",
        1,
        source,
        now_iso=lambda: "now",
        settings=settings,
        all_sources=all_sources,
    )


def phase(name: str) -> PhaseReport:
    return PhaseReport(phase=name, at="now")


def raise_(error: Exception) -> Callable[[ReportBatch], None]:
    def behave(batch: ReportBatch) -> None:
        raise error

    return behave


def spooled(root: Path) -> list[Path]:
    return sorted((root / "spool").rglob("*.json"))


def test_reports_arrive_in_order_and_leave_nothing_on_disk(tmp_path: Path) -> None:
    plane = Plane()
    sut = reporter(plane, tmp_path)
    sut.start()
    for number in range(120):
        sut.put(phase(str(number)))
    assert plane.wait_for(120) == [str(n) for n in range(120)]
    sut.close()
    assert [b.sequence for b in plane.accepted] == list(range(1, len(plane.accepted) + 1))
    assert spooled(tmp_path) == []


def test_an_outage_is_spooled_and_replayed_in_order(tmp_path: Path) -> None:
    plane = Plane()
    plane.behave = raise_(Unavailable("down"))
    sut = reporter(plane, tmp_path)
    sut.start()
    for number in range(5):
        sut.put(phase(str(number)))
    wait_until(lambda: bool(spooled(tmp_path)))
    plane.behave = lambda _: None
    assert plane.wait_for(5) == ["0", "1", "2", "3", "4"]
    sut.close()


def wait_until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        threading.Event().wait(0.01)
    raise AssertionError("did not happen")


def test_what_a_dead_process_left_is_sent_by_the_sidecar(tmp_path: Path) -> None:
    plane = Plane()
    plane.behave = raise_(Unavailable("down"))
    dead = reporter(plane, tmp_path, "rollouts-1")
    dead.start()
    dead.put(phase("of the dead"))
    dead.close()
    assert len(spooled(tmp_path)) == 1
    plane.behave = lambda _: None
    sidecar = reporter(plane, tmp_path, "sidecar-1", all_sources=True)
    sidecar.start()
    assert plane.wait_for(1) == ["of the dead"]
    sidecar.close()
    assert plane.accepted[0].source == "rollouts-1"


def test_close_stores_what_was_just_put(tmp_path: Path) -> None:
    plane = Plane()
    plane.behave = raise_(Unavailable("down"))
    sut = reporter(plane, tmp_path)
    sut.start()
    for number in range(200):
        sut.put(phase(str(number)))
    sut.close()
    stored = [json.loads(path.read_text()) for path in spooled(tmp_path)]
    assert sum(len(batch["reports"]) for batch in stored) == 200


def test_superseded_stops_sending_for_good(tmp_path: Path) -> None:
    plane = Plane()
    plane.behave = raise_(Superseded("old"))
    sut = reporter(plane, tmp_path)
    sut.start()
    sut.put(phase("x"))
    assert sut.superseded.wait(5)
    sut.close()
    assert plane.accepted == []


def test_a_refused_batch_is_kept_aside_and_does_not_hold_up_the_rest(tmp_path: Path) -> None:
    plane = Plane()

    def refuse_first(batch: ReportBatch) -> None:
        if batch.sequence == 1:
            raise Rejected("422")

    plane.behave = refuse_first
    sut = reporter(plane, tmp_path)
    sut.start()
    sut.put(phase("bad"))
    wait_until(lambda: bool(list((tmp_path / "spool").rglob("*.refused"))))
    sut.put(phase("good"))
    assert plane.wait_for(1) == ["good"]
    sut.close()


def test_a_broken_file_in_the_spool_is_no_obstacle(tmp_path: Path) -> None:
    plane = Plane()
    sut = reporter(plane, tmp_path)
    (tmp_path / "spool" / "a" / "0000000000.json").write_text("{")
    sut.start()
    sut.put(phase("x"))
    assert plane.wait_for(1) == ["x"]
    sut.close()


def test_a_text_that_cannot_be_written_costs_its_batch_and_not_the_reporter(
    tmp_path: Path,
) -> None:
    plane = Plane()
    sut = reporter(plane, tmp_path)
    sut.start()
    sut.put(phase("\ud800"))
    wait_until(lambda: sut._dropped > 0)
    sut.put(phase("good"))
    assert plane.wait_for(1) == ["good"]
    sut.close()


@pytest.mark.parametrize(
    "settings",
    [
        ReporterSettings(flush_s=0.01, retry_s=0.01, max_queue=3),
        ReporterSettings(flush_s=0.01, retry_s=0.01, max_batch=1, max_spool_bytes=600),
    ],
)
def test_bounds_are_kept_and_the_loss_is_told(tmp_path: Path, settings: ReporterSettings) -> None:
    plane = Plane()
    plane.behave = raise_(Unavailable("down"))
    sut = reporter(plane, tmp_path, settings=settings)
    for number in range(20):
        sut.put(phase(str(number)))
    sut.start()
    for number in range(20):
        sut.put(phase(str(number)))
        threading.Event().wait(0.005)
    plane.behave = lambda _: None
    wait_until(lambda: any(isinstance(r, FindingReport) for b in plane.accepted for r in b.reports))
    sut.close()
    assert len(plane.phases()) < 40
