"""Runs migrations on a connection that the caller passes, else on the configured database."""

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from app.db.engine import make_engine
from app.db.tables import Base
from app.db.types import EnumText, UTCDateTime
from app.settings import load_settings


def render_item(kind: str, item: Any, autogen: Any) -> str | Literal[False]:
    """A migration is frozen: it names SQL types, never our classes, which go on changing."""
    if kind == "type" and isinstance(item, UTCDateTime):
        return "sa.DateTime(timezone=True)"
    if kind == "type" and isinstance(item, EnumText):
        return "sa.String(length=32)"
    return False


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=True,  # SQLite cannot alter columns in place
        compare_type=True,
        render_item=render_item,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        run(connection)
        return
    engine = make_engine(load_settings().resolved_database_url)
    with engine.begin() as own:
        run(own)
    engine.dispose()


main()
