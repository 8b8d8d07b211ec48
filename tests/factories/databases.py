"""Migrated databases for tests: a template is migrated once, each test gets a copy."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from app.db.engine import Sessions, make_engine, make_sessions
from app.db.migrate import upgrade


@dataclass(frozen=True)
class Database:
    url: str
    engine: Engine
    sessions: Sessions


@contextmanager
def opened(url: str) -> Iterator[Database]:
    engine = make_engine(url)
    try:
        yield Database(url, engine, make_sessions(engine))
    finally:
        engine.dispose()


def migrate(url: str) -> None:
    with opened(url) as database:
        upgrade(database.engine)


@contextmanager
def sqlite_copy(template: Path, folder: Path) -> Iterator[Database]:
    path = folder / "skydeck.db"
    shutil.copyfile(template, path)
    with opened(f"sqlite:///{path}") as database:
        yield database


@contextmanager
def postgres_copy(server: str, template: str | None, name: str) -> Iterator[Database]:
    """A database of its own on the session's server; without ``template`` it is empty."""
    source = template or "template0"
    _execute(server, f'CREATE DATABASE "{name}" TEMPLATE "{source}"')
    try:
        with opened(postgres_url(server, name)) as database:
            yield database
    finally:
        _execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def postgres_url(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _execute(server: str, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
