"""Brings a database to the newest schema, and says whether it is there."""

from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from app.db.tables import Base
from app.errors import Unavailable

_INI = Path(__file__).resolve().parents[2] / "alembic.ini"
_POSTGRES_LOCK = 7_253_001


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run all missing migrations in one transaction. Harmless when repeated; two at once queue."""
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})")
        command.upgrade(_config(connection), revision)


def current(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def head() -> str | None:
    return ScriptDirectory.from_config(Config(_INI)).get_current_head()


def at_head(engine: Engine) -> bool:
    return current(engine) == head()


def require_head(engine: Engine) -> None:
    """Raises Unavailable when the database is older or newer than this program."""
    found, wanted = current(engine), head()
    if found != wanted:
        raise Unavailable(
            f"the database is at revision {found or 'none'}, this program needs {wanted}: "
            "run `skydeck migrate`",
            code="database_not_at_head",
        )


def differences(engine: Engine) -> list[object]:
    """What the mapped classes have and the migrated database lacks, or the other way round."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))


def _config(connection: Connection) -> Config:
    config = Config(_INI)
    config.attributes["connection"] = connection
    return config
