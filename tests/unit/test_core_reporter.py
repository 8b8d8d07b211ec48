"""The reporter: nothing is lost in an outage, nothing blocks, and 410 ends it."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from workers.contract.reports import FindingReport, PhaseReport, ReportAnswer, ReportBatch
from workers.control_plane import Rejected, Superseded, Unavailable
from workers.training.core.reporter import Reporter, ReporterSettings

QUICK = ReporterSettings(look_s=0.01, retry_s=0.01)


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
    assert len(spooled(tmp_path)) == 5
    plane.behave = lambda _: None
    assert plane.wait_for(5) == ["0", "1", "2", "3", "4"]
    sut.close()


def test_a_report_is_on_disk_while_the_network_hangs(tmp_path: Path) -> None:
    plane, hanging, released = Plane(), threading.Event(), threading.Event()

    def hang(_: ReportBatch) -> None:
        hanging.set()
        released.wait()

    plane.behave = hang
    sut = reporter(plane, tmp_path)
    sut.start()
    sut.put(phase("first"))
    assert hanging.wait(5)
    sut.put(phase("second"))
    assert len(spooled(tmp_path)) == 2
    released.set()
    assert plane.wait_for(2) == ["first", "second"]
    sut.close()


DOOMED = """
import os, signal, sys
from pathlib import Path
from workers.contract.reports import PhaseReport
from workers.control_plane import ControlPlane, Retry
from workers.training.core.reporter import Reporter

root = Path(sys.argv[1])
nobody = ControlPlane(root / "none.json", root / "none", retry=Retry(tries=1))
sut = Reporter(nobody, root / "spool", "r1", 1, "rollouts-1", now_iso=lambda: "now")
sut.start()
for number in range(24):
    sut.put(PhaseReport(phase=str(number), at="now"))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_process_killed_right_after_its_last_report_loses_none(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", DOOMED, str(tmp_path)], timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    plane = Plane()
    sidecar = reporter(plane, tmp_path, "sidecar-1", all_sources=True)
    sidecar.start()
    sidecar.close(5)
    assert plane.phases() == [str(number) for number in range(24)]
    assert (spooled(tmp_path), sidecar.left_behind()) == ([], "")


def test_close_goes_on_trying_until_the_control_plane_is_back(tmp_path: Path) -> None:
    plane, tries = Plane(), 0

    def third_time(_: ReportBatch) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise Unavailable("down")

    plane.behave = third_time
    sut = reporter(plane, tmp_path)
    sut.put(phase("last"))
    sut.start()
    sut.close(5)
    assert plane.phases() == ["last"]


def test_close_gives_up_in_time_and_says_what_is_left(tmp_path: Path) -> None:
    plane = Plane()
    plane.behave = raise_(Unavailable("down"))
    sut = reporter(plane, tmp_path)
    sut.start()
    sut.put(phase("x"))
    sut.put(phase("y"))
    sut.close(0.1)
    assert f"{tmp_path / 'spool'}: 2 found it silent, 0 were refused" in sut.left_behind()


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
    sut.close(0.1)
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
    assert sut._dropped == 1
    sut.put(phase("good"))
    assert plane.wait_for(1) == ["good"]
    sut.close()


def test_the_spool_is_bounded_and_the_loss_is_told(tmp_path: Path) -> None:
    plane = Plane()
    plane.behave = raise_(Unavailable("down"))
    sut = reporter(plane, tmp_path, settings=replace(QUICK, max_spool_bytes=5 * 4096))
    for number in range(20):
        sut.put(phase(str(number)))
    assert len(spooled(tmp_path)) == 5
    plane.behave = lambda _: None
    sut.start()
    assert plane.wait_for(5) == ["15", "16", "17", "18", "19"]
    sut.close()
    losses = [r for b in plane.accepted for r in b.reports if isinstance(r, FindingReport)]
    assert len(losses) == 5
    assert losses[-1].text.startswith("1 reports were dropped")


def test_what_was_sent_is_not_told_as_lost(tmp_path: Path) -> None:
    plane = Plane()
    sut = reporter(plane, tmp_path, settings=replace(QUICK, max_spool_bytes=3 * 4096))
    sut.start()
    for number in range(20):
        sut.put(phase(str(number)))
        plane.wait_for(number + 1)
    sut.close()
    assert not [r for b in plane.accepted for r in b.reports if isinstance(r, FindingReport)]
