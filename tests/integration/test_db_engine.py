from pathlib import Path

import pytest
from sqlalchemy import text

from app.db.engine import file_system_of, make_engine, open_read
from app.db.tables import Experiment
from app.errors import Invalid, Unavailable
from tests.factories.clocks import START
from tests.factories.databases import Database, opened

MOUNTS = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 21 0:35 / /home rw,relatime shared:2 - nfs4 server:/home rw,vers=4.2
41 40 0:36 / /home/ada/local rw - xfs /dev/sdb1 rw
42 21 0:37 / /n/with\\040space rw - lustre 10.0.0.1@tcp:/fs rw
43 21 0:38 / /old rw - nfs a:/x rw
44 21 0:39 / /old rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/tmp/skydeck.db", "ext4"),
        ("/home/bob/skydeck.db", "nfs4"),
        ("/home/ada/local/skydeck.db", "xfs"),
        ("/home/ada/localish/skydeck.db", "nfs4"),
        ("/n/with space/skydeck.db", "lustre"),
        ("/old/skydeck.db", "tmpfs"),
    ],
)
def test_the_innermost_and_latest_mount_decides_the_file_system(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


def test_sqlite_on_a_network_file_system_is_refused_with_the_mend(tmp_path: Path) -> None:
    mounts = f"1 0 0:1 / {tmp_path.resolve()} rw - nfs4 server:/x rw"
    with pytest.raises(Invalid, match=r"nfs4.*SKYDECK_DATABASE_URL"):
        make_engine(f"sqlite:///{tmp_path / 'skydeck.db'}", mountinfo=mounts)


def test_sqlite_keeps_foreign_keys_and_a_write_ahead_log(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'new' / 'x.db'}") as database, database.engine.begin() as c:
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert c.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_full_disk_becomes_unavailable_with_the_mend(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "full.db"
    path.write_bytes(sqlite_template.read_bytes())
    with opened(f"sqlite:///{path}") as database, database.sessions() as session:
        session.execute(text("PRAGMA max_page_count = 1"))  # SQLite then answers as on a full disk
        session.add_all(_experiment(f"e{n}", description="x" * 4000) for n in range(500))
        with pytest.raises(Unavailable, match="free space"):
            session.flush()


def test_read_only_database_becomes_unavailable(sqlite_template: Path, tmp_path: Path) -> None:
    path = tmp_path / "fixed.db"
    path.write_bytes(sqlite_template.read_bytes())
    with opened(f"sqlite:///{path}") as database, database.sessions() as session:
        session.execute(text("PRAGMA query_only = ON"))
        session.add(_experiment("e1"))
        with pytest.raises(Unavailable, match="read-only"):
            session.flush()


def test_writer_that_waited_too_long_is_told_to_retry(database: Database) -> None:
    if database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL lets writers of different rows go on side by side")
    with database.sessions.begin() as first:
        first.add(_experiment("e1"))
        first.flush()
        with database.engine.connect() as raw:
            raw.connection.driver_connection.execute("PRAGMA busy_timeout = 0")  # type: ignore[union-attr]
            with pytest.raises(Unavailable, match="busy"):
                raw.exec_driver_sql("SELECT 1")
            raw.connection.driver_connection.execute("PRAGMA busy_timeout = 10000")  # type: ignore[union-attr]


def test_reader_goes_on_while_a_writer_holds_the_database(database: Database) -> None:
    with database.sessions.begin() as writer:
        writer.add(_experiment("e1"))
        writer.flush()
        with open_read(database.sessions) as reader:
            assert reader.get(Experiment, "e1") is None


def test_postgresql_refuses_writes_of_a_read_session(database: Database) -> None:
    if database.engine.dialect.name != "postgresql":
        pytest.skip("SQLite has no read-only transactions: there only the type checker refuses")
    with open_read(database.sessions) as session:
        session.add(_experiment("e1"))
        with pytest.raises(Unavailable, match="read-only"):
            session.flush()


def _experiment(identity: str, description: str = "") -> Experiment:
    return Experiment(id=identity, name=identity, description=description, created_at=START)
