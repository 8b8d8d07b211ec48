from pathlib import Path

import pytest

from app.db.migrate import at_head, current, differences, head, require_head, upgrade
from app.errors import Unavailable
from tests.factories.databases import Database, opened, postgres_database


def test_migrated_database_has_exactly_what_the_mapped_classes_say(database: Database) -> None:
    assert differences(database.engine) == []
    assert at_head(database.engine)


def test_upgrading_again_changes_nothing(database: Database) -> None:
    upgrade(database.engine)
    assert current(database.engine) == head()


def test_database_that_was_never_migrated_is_refused_with_the_mend(tmp_path: Path) -> None:
    with (
        opened(f"sqlite:///{tmp_path / 'new.db'}") as database,
        pytest.raises(Unavailable, match="run `skydeck migrate`"),
    ):
        require_head(database.engine)


def test_empty_postgresql_comes_to_head(postgres: str) -> None:
    with postgres_database(postgres, "from_empty") as url, opened(url) as database:
        upgrade(database.engine)
        require_head(database.engine)
