"""``examples/sweep.py`` as a user types it, against a real server."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
import yaml
from sqlalchemy import select

from app.db.tables import Run
from app.domain.states import RunState
from app.ids import new_id
from app.main import create_app
from app.services import tokens
from app.settings import Settings
from tests.factories.builders import document
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database
from tests.factories.receiver import free_port

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "sweep.py"


@pytest.fixture
def address(database: Database, settings: Settings, clock: ManualClock) -> Iterator[str]:
    port = free_port()
    app = create_app(settings, sessions=database.sessions, clock=clock)
    config = uvicorn.Config(app, "127.0.0.1", port, log_level="error", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_script_creates_the_sweep_waits_for_its_end_and_prints_a_table(
    database: Database, clock: ManualClock, address: str, tmp_path: Path
) -> None:
    with database.sessions.begin() as session:
        _, token = tokens.create(session, "script", at=clock(), ids=new_id)
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(document()))
    command = [sys.executable, str(SCRIPT), str(spec), "--grid", "trainer.seed=1,2"]
    script = subprocess.Popen(
        [*command, "--poll", "0.1"],
        env={**os.environ, "SKYDECK_URL": address, "SKYDECK_TOKEN": token},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert script.stdout is not None
    first = script.stdout.readline()  # the sweep exists when the script says so
    assert "2 runs" in first
    with database.sessions.begin() as session:
        for run in session.scalars(select(Run)):
            run.state = RunState.SUCCEEDED
    table, _ = script.communicate(timeout=60)
    assert script.returncode == 0
    lines = table.splitlines()
    assert lines[0].split()[:3] == ["trainer.seed", "run", "state"]
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert all("SUCCEEDED" in line for line in lines[1:])
