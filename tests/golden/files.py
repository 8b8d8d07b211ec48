"""What each golden file must hold now. ``python -m tests.golden`` writes them anew."""

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from app.db import events
from app.db.tables import Event
from app.main import create_app
from app.settings import Settings
from slurm.script import render
from tests.unit.test_slurm_script import ODD, PLAIN
from tests.unit.test_verl_config import GOLDEN as FOLDER
from tests.unit.test_verl_config import GOLDEN_CASES, rendered


def openapi() -> str:
    """Without the version, which says nothing about the routes."""
    shape = create_app(Settings(data_dir=Path("/nowhere"))).openapi()
    shape["info"].pop("version")
    return _json(shape)


def webhook() -> str:
    event = Event(
        id=42,
        at=datetime(2026, 1, 1, 12, tzinfo=UTC),
        run_id="9xk2m4c7qd",
        kind="run.state",
        text="STOPPING -> FAILED: out_of_memory",
        data={"from": "STOPPING", "to": "FAILED", "attempt": 1, "reason": "out_of_memory"},
        actor="",
    )
    return _json(json.loads(events.payload(event)))


def _json(value: object) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


FILES: Mapping[str, Callable[[], str]] = {
    "openapi.json": openapi,
    "webhook_run_failed.json": webhook,
    "slurm_job_plain.sh": lambda: render(PLAIN),
    "slurm_job_odd.sh": lambda: render(ODD),
    **{
        name: lambda trainer=trainer, resume=resume: "\n".join(rendered(trainer, resume)) + "\n"
        for name, trainer, resume in GOLDEN_CASES
    },
}

__all__ = ["FILES", "FOLDER"]
