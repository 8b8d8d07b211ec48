"""Engines and sessions: SQLite for one machine, PostgreSQL for more."""

from pathlib import Path
from typing import Any, Protocol, TypeVar, TypeVarTuple

from sqlalchemy import Connection, Engine, Result, ScalarResult, Select, create_engine, event
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session, sessionmaker

from app.errors import Invalid, Unavailable

Sessions = sessionmaker[Session]
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "cifs", "smb3", "smbfs", "beegfs", "ceph", "afs", "9p"}
    | {"glusterfs", "panfs", "pvfs2", "wekafs", "orangefs", "vastnfs"}
    | {"fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.ceph-fuse", "fuse.s3fs"}
)
BUSY_TIMEOUT_MS = 10_000
_READ_ONLY = "skydeck_read_only"


class ReadSession(Protocol):
    """The part of a Session that cannot write: a function that only reads takes this.

    Any Session fits; the type checker then finds the write that was not meant.
    """

    def get(self, entity: type[T], ident: Any, /) -> T | None: ...
    def scalar(self, statement: Select[T], /) -> T | None: ...
    def scalars(self, statement: Select[T], /) -> ScalarResult[T]: ...
    def execute(self, statement: Select[*Ts], /) -> Result[*Ts]: ...


def make_engine(url: str, *, mountinfo: str | None = None) -> Engine:
    """An engine for ``url``; a missing folder of a SQLite file is created.

    Raises Invalid when the SQLite file would lie on a network file system.
    """
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        engine = create_engine(parsed, pool_pre_ping=True)
    else:
        engine = _sqlite(parsed, mountinfo)
    event.listen(engine, "handle_error", _translate)
    return engine


def make_sessions(engine: Engine) -> Sessions:
    """Sessions that write. ``expire_on_commit`` is off: what was committed may still be shown."""
    return sessionmaker(engine, expire_on_commit=False)


def open_read(sessions: Sessions) -> Session:
    """A session that never waits for a writer; the database refuses its writes on PostgreSQL."""
    engine: Engine = sessions.kw["bind"]
    options: dict[str, Any] = {_READ_ONLY: True}
    if engine.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    return sessions(bind=engine.execution_options(**options))


def _sqlite(url: URL, mountinfo: str | None) -> Engine:
    if url.database and url.database != ":memory:":
        path = Path(url.database).expanduser().absolute()
        refuse_network_file_system(path, mountinfo)
        _make_folder(path.parent)
        url = url.set(database=str(path))
    engine = create_engine(url)
    event.listen(engine, "connect", _pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Invalid(
            f"cannot create the data folder {folder}: {error.strerror}. "
            "Set SKYDECK_DATA_DIR to a folder that you may write."
        ) from error


def _pragmas(connection: Any, record: object) -> None:
    # The driver's own transaction control would begin late and never immediately.
    connection.isolation_level = None
    for pragma in (
        "journal_mode = WAL",
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
        "synchronous = NORMAL",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # A deferred transaction that writes after it has read fails at once when another writer was
    # faster, whatever the busy timeout. Writers therefore queue at the door.
    reading = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def refuse_network_file_system(path: Path, mountinfo: str | None = None) -> None:
    """Raise Invalid if ``path`` lies where SQLite's locks cannot be trusted."""
    if mountinfo is None:
        source = Path("/proc/self/mountinfo")
        mountinfo = source.read_text() if source.exists() else ""
    kind = file_system_of(path.resolve(), mountinfo)
    if kind in NETWORK_FILE_SYSTEMS:
        raise Invalid(
            f"{path} lies on a network file system ({kind}), where SQLite loses data. Mend: set "
            "SKYDECK_DATABASE_URL to a SQLite file on a local disk "
            "(sqlite:////var/tmp/you/skydeck.db) or to PostgreSQL (postgresql+psycopg://...). "
            "SKYDECK_DATA_DIR itself may stay where it is."
        )


def file_system_of(path: Path, mountinfo: str) -> str:
    """Type of the file system that holds ``path``; the longest, then the latest mount wins."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if not separator or len(fields) < 5:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))  # a space is \040 there
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), after.split()[0]
    return kind


_SQLITE_TROUBLE = {
    "database or disk is full": "the disk that holds the database is full: free space, then retry",
    "attempt to write a readonly database": "the database is read-only: check its owner, its mode "
    "and the mount",
    "database is locked": "the database is busy: retry",
    "disk I/O error": "the disk that holds the database fails: see the kernel's log",
    "unable to open database file": "the database cannot be opened: check that its folder exists "
    "and may be written",
}
_POSTGRES_TROUBLE = {
    "53": "the database server has run out of disk, memory or connections: see its log",
    "25006": "the database is read-only (a standby?): point SKYDECK_DATABASE_URL at the primary",
    "40": "the database chose this transaction as the loser of a conflict: retry",
    "57": "the database server is shutting down: retry",
    "08": "the connection to the database server broke: retry",
}


def _translate(context: ExceptionContext) -> None:
    """Trouble around the database becomes Unavailable; faults of ours stay what they are."""
    error = context.original_exception
    if isinstance(context.sqlalchemy_exception, DataError):
        raise Invalid("the request holds a text or a number that the database cannot") from error
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        text = next((t for code, t in _POSTGRES_TROUBLE.items() if state.startswith(code)), None)
    elif type(error).__module__.startswith("psycopg") and context.is_disconnect:
        text = "the database server does not answer: retry"
    else:
        text = next((t for known, t in _SQLITE_TROUBLE.items() if known in str(error)), None)
    if text is not None:
        url = context.engine.url if context.engine is not None else None
        where = f" ({url.database})" if url is not None and url.drivername == "sqlite" else ""
        raise Unavailable(f"{text}{where}", code="database_unavailable") from error
