"""Migrated databases for tests: migrated once, empty again for each test."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import make_url

from app.db.engine import Sessions, make_engine, make_sessions
from app.db.migrate import upgrade
from app.db.tables import Base


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
def postgres_database(server: str, name: str) -> Iterator[str]:
    """URL of a new, empty database on the session's server."""
    _execute(server, f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        yield postgres_url(server, name)
    finally:
        _execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def postgres_emptied(url: str) -> Iterator[Database]:
    """A migrated database without rows. To copy one for each test would take seconds."""
    with opened(url) as database:
        with database.engine.begin() as connection:
            # A session that an earlier test leaked would otherwise block for ever.
            connection.execute(text("SET LOCAL lock_timeout = '5s'"))
            for table in reversed(Base.metadata.sorted_tables):
                connection.execute(table.delete())
        yield database


def postgres_url(server: str, name: str) -> str:
    return make_url(server).set(database=name).render_as_string(hide_password=False)


def _execute(server: str, statement: str) -> None:
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(statement))
    finally:
        engine.dispose()
