"""The composition root: the only importer of concrete adapters."""

import os
import random
import sys
import threading
from datetime import timedelta
from pathlib import Path

import httpx
from fastapi import FastAPI
from sqlalchemy import Engine
from sqlalchemy.engine import make_url

from app import logs, preview
from app.clock import system_clock
from app.db import installation, tokens
from app.db.engine import make_engine, make_sessions
from app.db.migrate import upgrade
from app.db.tables import ApiToken
from app.errors import Invalid
from app.ids import new_id, new_token, token_hash
from app.main import create_app
from app.reconciler.batch import WorkerCommands
from app.reconciler.loop import Reconciler
from app.schedulers import choose
from app.settings import Settings
from app.webhooks.deliver import Deliverer
from slurm.cli import CliScheduler
from slurm.local import LocalScheduler
from slurm.port import Scheduler

ROOT = Path(__file__).resolve().parent.parent


def engine(settings: Settings) -> Engine:
    return make_engine(settings.resolved_database_url)


def prepare_database(settings: Settings) -> Engine:
    """An engine whose database is at head and belongs to an installation."""
    bind = engine(settings)
    upgrade(bind)
    with make_sessions(bind).begin() as session:
        installation.ensure(session, lambda: new_id(4), system_clock())
    return bind


def shown_url(settings: Settings) -> str:
    """The database URL without its password."""
    return make_url(settings.resolved_database_url).render_as_string(hide_password=True)


def scheduler(settings: Settings) -> Scheduler:
    if choose(settings).kind == "slurm":
        return CliScheduler(deadline_s=settings.slurm_deadline.total_seconds())
    return LocalScheduler(local_folder(settings))


def local_folder(settings: Settings) -> Path:
    return settings.home / "local"


def worker_commands(settings: Settings) -> WorkerCommands:
    python = sys.executable
    return WorkerCommands(
        runtime_python=python,
        trainer_python=str(settings.train_python or python),
        pythonpath=str(ROOT),
    )


def application(settings: Settings) -> FastAPI:
    logs.configure(settings.log_level)
    commands = worker_commands(settings)
    return create_app(
        settings,
        render_script=lambda spec: preview.scripts(
            spec, runs_dir=settings.runs_dir, commands=commands, clock=system_clock
        ),
    )


def run_reconciler(settings: Settings, stop: threading.Event) -> None:
    """Reconcile in this thread, deliver webhooks in another, until ``stop``."""
    logs.configure(settings.log_level)
    if not settings.home.is_dir():
        raise Invalid(f"data folder {settings.home} does not exist; start with `skydeck up`")
    sessions = make_sessions(engine(settings))
    http = httpx.Client(trust_env=False)  # proxy variables must not decide where webhooks go
    deliverer = Deliverer(sessions, system_clock, http, random.Random(), settings)
    thread = threading.Thread(target=deliverer.run, args=(stop,), name="webhooks")
    thread.start()
    try:
        Reconciler(
            sessions=sessions,
            scheduler=scheduler(settings),
            clock=system_clock,
            ids=new_id,
            settings=settings,
            commands=worker_commands(settings),
        ).run(stop)
    finally:
        stop.set()
        thread.join()


def admin_token(settings: Settings, bind: Engine, path: Path) -> str:
    """The token in ``path`` (0600), made with its row in the database when it is missing."""
    sessions = make_sessions(bind)
    if path.exists():
        token = path.read_text().strip()
        with sessions() as session:
            if tokens.by_hash(session, token_hash(token)) is not None:
                return token
    token = new_token()
    with sessions.begin() as session:
        tokens.add(session, _token_row("up", token))
    write_secret(path, token)
    return token


def create_token(settings: Settings, name: str, days: int | None) -> str:
    token = new_token()
    row = _token_row(name, token)
    if days is not None:
        row.expires_at = row.created_at + timedelta(days=days)
    with make_sessions(engine(settings)).begin() as session:
        tokens.add(session, row)
    return token


def write_secret(path: Path, text: str) -> None:
    """A 0600 file that never exists half-written or readable by others."""
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")
    temporary.replace(path)


def _token_row(name: str, token: str) -> ApiToken:
    return ApiToken(id=new_id(), name=name, hash=token_hash(token), created_at=system_clock())
