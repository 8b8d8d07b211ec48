"""What goes wrong around Skydeck is told with the place and the mend, by the real programs.

Full and read-only disks are real ones: small file systems in a mount namespace of their own.
"""

import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import select

from app.__main__ import parser
from app.cli import runs
from app.cli.client import ApiClient
from app.cli.exit_codes import Exit
from app.db.tables import Finding, Run, Runtime
from app.domain.spec import build_spec
from app.domain.states import RunState
from app.reconciler.probe import http_probe
from app.services.visibility import unseen
from app.settings import Settings
from tests.factories.builders import (
    RUN,
    add_run,
    batch,
    register_runtime,
    register_trainer,
    runtime_token,
    trainer_token,
)
from tests.factories.client import TestClient, make_client, post, sign_in
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database, opened
from tests.factories.world import World
from workers.contract.leases import LeaseRequest
from workers.contract.reports import FindingReport
from workers.control_plane import ControlPlane, Retry
from workers.training.core.reporter import Reporter, ReporterSettings

ROOT = Path(__file__).resolve().parents[2]
SPEC = {
    "name": "small",
    "data": {"train_file": "/nowhere/train.jsonl"},
    "trainer": {
        "model_path": "/nowhere/model",
        "python": sys.executable,
        "prompts_per_step": 1,
    },
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


def skydeck(
    *argv: str,
    prepare: str = "true",
    environ: Mapping[str, str] | None = None,
    end_after_s: int = 60,
) -> subprocess.CompletedProcess[str]:
    """The command line in a mount namespace of its own, after ``prepare`` (shell) made its disks.

    Without root a user namespace gives the right to mount.
    """
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "-r"]
    script = f'set -e; {prepare}; exec timeout {end_after_s} "$@"'
    return subprocess.run(
        [*unshare, "sh", "-c", script, "sh", sys.executable, "-m", "app", *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environ or {})},
        check=False,
    )


def told(done: subprocess.CompletedProcess[str], *texts: str) -> None:
    """It ended by itself, said why in one line, and showed nobody a traceback."""
    assert done.returncode in (1, 2), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr


def disk(folder: Path, size: str) -> str:
    folder.mkdir(exist_ok=True)
    return f"mount -t tmpfs -o size={size} tmpfs {folder}"


def fill(folder: Path) -> str:
    return f"cat /dev/zero > {folder}/filler 2>/dev/null || true"


# skydeck up


def test_up_on_a_full_disk_names_the_folder_and_the_mend(tmp_path: Path) -> None:
    home = tmp_path / "data"
    full = f"{disk(home, '64k')}; {fill(home)}"
    done = skydeck("up", "--port", "0", "--data-dir", str(home), prepare=full)
    told(done, f"data folder {home}: No space left on device", "free space there")


def test_up_whose_disk_has_no_room_for_the_database_names_the_file(tmp_path: Path) -> None:
    home = tmp_path / "data"
    done = skydeck("up", "--port", "0", "--data-dir", str(home), prepare=disk(home, "200k"))
    told(done, "free space", str(home / "skydeck.db"))


def test_up_in_a_folder_that_cannot_be_written_names_it(tmp_path: Path) -> None:
    home = tmp_path / "data"
    read_only = f"{disk(home, '1m')}; mount -o remount,ro {home}"
    done = skydeck("up", "--port", "0", "--data-dir", str(home), prepare=read_only)
    told(done, f"data folder {home}: Read-only file system", "choose another with --data-dir")


def test_doctor_finds_a_data_folder_that_cannot_be_written(tmp_path: Path) -> None:
    home = tmp_path / "data"
    read_only = f"{disk(home, '1m')}; mount -o remount,ro {home}"
    done = skydeck("doctor", "--json", "--data-dir", str(home), prepare=read_only)
    assert done.returncode == Exit.UNHEALTHY
    found = {check["name"]: check for check in json.loads(done.stdout)}["data folder"]
    assert (found["verdict"], found["text"]) == ("error", f"{home} cannot be written")
    assert "use another --data-dir" in found["mend"]


def test_up_with_a_site_profile_that_is_missing_says_so_before_it_starts_children(
    tmp_path: Path,
) -> None:
    profile = {"SKYDECK_SITE_PROFILE": "/nowhere/site.yaml"}
    done = skydeck("up", "--port", "0", "--data-dir", str(tmp_path), environ=profile)
    told(done, "/nowhere/site.yaml: cannot be read")


def test_up_on_a_taken_port_ends_with_the_mend(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = skydeck("up", "--port", port, "--data-dir", str(tmp_path))
    told(done, f"cannot listen on 127.0.0.1 port {port}", "--port")


def test_a_second_up_on_the_same_folder_ends_with_the_pid_of_the_first(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "app", "up", "--port", "0", "--data-dir", str(tmp_path)]
    first = subprocess.Popen(
        [*argv, "--scheduler", "local"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout is not None
        assert "Skydeck" in first.stdout.readline()
        told(skydeck(*argv[3:]), f"with pid {first.pid}", "stop that one")
    finally:
        first.terminate()
        first.communicate(timeout=60)


def test_a_database_that_became_read_only_ends_the_reconciler_s_work_without_tracebacks(
    sqlite_template: Path, tmp_path: Path
) -> None:
    shutil.copy(sqlite_template, tmp_path / "skydeck.db")
    read_only = f"mount --bind {tmp_path} {tmp_path}; mount -o remount,bind,ro {tmp_path}"
    done = skydeck("token", "create", "ada", "--data-dir", str(tmp_path), prepare=read_only)
    told(done, "may be written", str(tmp_path / "skydeck.db"))
    home = ("--data-dir", str(tmp_path))
    done = skydeck("reconciler", *home, prepare=read_only, end_after_s=8)
    assert "Traceback" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["logger"] for line in lines} >= {"app.reconciler.loop", "app.webhooks.deliver"}
    assert all("may be written" in line["text"] for line in lines)


# A disk that fills up while Skydeck works


@contextmanager
def small_disk(folder: Path, size: str = "1m") -> Iterator[Callable[[], Callable[[], None]]]:
    """A file system of that size at ``folder``; yields what fills it and returns the mend."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    def fill_up() -> Callable[[], None]:
        filler = folder / "filler"
        with suppress(OSError), filler.open("wb", buffering=0) as out:
            while out.write(b"\0" * 4096):
                pass
        assert shutil.disk_usage(folder).free == 0
        return filler.unlink

    try:
        yield fill_up
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@needs_root
def test_a_launch_on_a_full_disk_is_refused_for_now_and_works_when_there_is_room(
    sqlite_template: Path, tmp_path: Path, settings: Settings, clock: ManualClock
) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "2m") as fill_up:
        shutil.copy(sqlite_template, disk / "skydeck.db")
        with opened(f"sqlite:///{disk / 'skydeck.db'}") as database:
            client = make_client(database, settings, clock)
            sign_in(client, database, clock)
            make_room = fill_up()
            # Long enough not to fit into pages that the database holds already.
            body = {"spec": {**SPEC, "description": "x" * 2**19}}
            answer = client.post("/api/v1/runs", json=body)
            assert (answer.status_code, answer.json()["error"]) == (503, "database_unavailable")
            assert "free space" in answer.json()["detail"]
            assert str(disk / "skydeck.db") in answer.json()["detail"]
            assert client.get("/api/v1/runs").json() == {"items": [], "next_cursor": None}
            make_room()
            assert client.post("/api/v1/runs", json={"spec": SPEC}).status_code == 201


@needs_root
def test_a_run_whose_directory_finds_no_room_says_so_and_starts_when_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    run = world.launch()
    world.settings.runs_dir.mkdir()
    with small_disk(world.settings.runs_dir) as fill_up:
        make_room = fill_up()
        world.run_for(100)
        assert world.cluster.submitted() == ()
        assert caplog.text.count("cannot be prepared") <= 5, "tried again at every tick"
        assert "Traceback" not in caplog.text
        with world.sessions() as session:
            found = session.scalars(select(Finding)).one()
        assert found.code == "attempt_unprepared"
        assert f"{world.settings.runs_dir} cannot be written: No space left" in found.text
        assert "free space there" in found.text
        make_room()
        world.until(run, RunState.RUNNING, limit_s=300)


@needs_root
def test_reports_that_find_no_room_cost_themselves_and_the_loss_is_told(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    # No control plane answers: everything goes through the spool.
    nobody = ControlPlane(tmp_path / "none.json", tmp_path / "none", retry=Retry(tries=1))
    settings = ReporterSettings(look_s=0.01, retry_s=0.01)
    with small_disk(spool) as fill_up:
        reporter = Reporter(
            nobody, spool, "r1", 1, "t", now_iso=lambda: "2026-01-01T00:00:00Z", settings=settings
        )
        make_room = fill_up()
        reporter.start()
        reporter.put(_report("lost"))
        _until(lambda: reporter._dropped > 0)
        make_room()
        reporter.put(_report("kept"))
        reporter.close()
        stored = "".join(path.read_text() for path in sorted(spool.rglob("*.json")))
    assert "kept" in stored
    assert "reports_dropped" in stored


def _report(text: str) -> FindingReport:
    return FindingReport(code="x", severity="info", text=text, at="2026-01-01T00:00:00Z")


def _until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen within ten seconds")


# Specs that name what is not there


def test_paths_that_cannot_be_seen_are_warned_of_and_never_refused(client: TestClient) -> None:
    answer = client.post("/api/v1/runs?dry_run=true", json={"spec": SPEC}).json()
    assert answer["plan"]["problems"] == []
    assert [text.split(" is not visible")[0] for text in answer["plan"]["warnings"]] == [
        "trainer.model_path /nowhere/model",
        "data.train_file /nowhere/train.jsonl",
    ]
    run = client.post("/api/v1/runs", json={"spec": SPEC}).json()["id"]
    found = client.get(f"/api/v1/runs/{run}/findings").json()["items"]
    assert sorted(finding["text"] for finding in found) == sorted(answer["plan"]["warnings"])
    assert {finding["severity"] for finding in found} == {"warning"}


def test_a_launch_on_the_command_line_prints_what_cannot_be_seen(
    client: TestClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.yaml").write_text(json.dumps(SPEC))
    token = client.headers["Authorization"].removeprefix("Bearer ")
    api = ApiClient(str(client.base_url), token, transport=client._transport)
    args = parser().parse_args(["launch", str(tmp_path / "spec.yaml"), "--json"])
    assert runs.launch(args, api) is Exit.OK
    printed = capsys.readouterr()
    assert "warning: trainer.model_path /nowhere/model is not visible from here" in printed.err
    assert json.loads(printed.out)["state"] == "PENDING", "what programs read stays what it was"


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["trainer.python=/x/python"], ["trainer.python /x/python"]),
        (["data.eval_file=/x/eval.jsonl"], ["data.eval_file /x/eval.jsonl"]),
        (['runtime.image_archives=["/x/a.tar"]'], ["runtime.image_archives /x/a.tar"]),
        (["trainer.model_path=/", "kind=runtime-only"], []),
        (["trainer.model_path=/"], []),
    ],
)
def test_each_path_is_looked_for_where_the_kind_of_run_needs_it(
    sets: Sequence[str], expected: Sequence[str]
) -> None:
    spec, _ = build_spec({"name": "x"}, sets=sets)
    assert [text.split(" is not visible")[0] for text in unseen(spec)] == expected


def test_an_attached_run_with_an_impossible_address_is_told_what_is_wrong() -> None:
    assert "does not answer" in http_probe("http://[::1")


# Workers whose right or time is over


@pytest.fixture
def run(database: Database, tmp_path: Path) -> str:
    with database.sessions.begin() as session:
        add_run(session, tmp_path)
    return RUN


@pytest.mark.parametrize("token", ["wrong", trainer_token(), runtime_token("run0000009")])
def test_a_runtime_with_a_strange_token_learns_why_and_what_to_do(
    visitor: TestClient, database: Database, run: str, token: str
) -> None:
    answer = post(visitor, "/runtimes/register", register_runtime(), token)
    assert (answer.status_code, answer.json()["error"]) == (401, "unauthenticated")
    assert "no runtime token of any attempt" in answer.json()["detail"]
    assert "cancel the job and launch the run again" in answer.json()["detail"]
    with database.sessions() as session:
        assert session.scalars(select(Runtime)).one().registered_at is None


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED])
def test_a_trainer_whose_run_is_over_is_told_to_stop_whatever_it_asks(
    visitor: TestClient, database: Database, run: str, state: RunState
) -> None:
    with database.sessions.begin() as session:
        session.get_one(Run, run).state = state
    asked: dict[str, BaseModel] = {
        "/trainers/register": register_trainer(),
        "/leases": LeaseRequest(run_id=run, attempt=1, held=()),
        "/reports": batch(_report("late")),
    }
    for path, message in asked.items():
        answer = post(visitor, path, message, trainer_token())
        assert (answer.status_code, answer.json()["error"]) == (410, "superseded"), path
        assert f"attempt 1 of run {run} is over: stop" in answer.json()["detail"]
    with database.sessions() as session:
        assert session.scalars(select(Finding)).all() == []


def test_an_unreadable_run_is_shown_with_what_to_do(tmp_path: Path) -> None:
    world = World(tmp_path)
    run = world.launch()
    with world.sessions.begin() as session:
        session.get_one(Run, run).spec = {"name": "x", "colour": "blue"}
    logging.getLogger("app.reconciler.loop").setLevel(logging.CRITICAL)
    try:
        world.run_for(100)
    finally:
        logging.getLogger("app.reconciler.loop").setLevel(logging.NOTSET)
    with world.sessions() as session:
        found: Any = session.scalars(select(Finding)).one()
    assert found.code == "step_failed"
    assert "see the log of the reconciler" in found.text
