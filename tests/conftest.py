"""Fixtures of all tests. ``database`` runs a test on SQLite and on PostgreSQL."""

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app.settings import Settings
from tests.factories.clocks import ManualClock
from tests.factories.databases import (
    Database,
    migrate,
    postgres_database,
    postgres_emptied,
    sqlite_copy,
)
from tests.factories.postgres import postgres_server

if TYPE_CHECKING:
    from fastapi.testclient import TestClient


PART_IS_MISSING = re.compile("not installed|no Slurm on this machine|needs ")
"""Reasons of skips that the machine is to blame for; others name a gap of the tested thing."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Under CI every real part is installed: what is missing there is a failure, not a skip."""
    report = yield
    if report.skipped and os.environ.get("CI") and PART_IS_MISSING.search(str(report.longrepr)):
        report.outcome = "failed"
    return report


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a server that lives as long as the test session."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_migrated(postgres: str) -> Iterator[str]:
    with postgres_database(postgres, "migrated") as url:
        migrate(url)
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A migrated, empty database of this test alone."""
    if request.param == "sqlite":
        copy = sqlite_copy(request.getfixturevalue("sqlite_template"), tmp_path)
    else:
        copy = postgres_emptied(request.getfixturevalue("postgres_migrated"))
    with copy as opened:
        yield opened


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def visitor(database: Database, settings: Settings, clock: ManualClock) -> "TestClient":
    """A client without a token."""
    from tests.factories.client import make_client

    return make_client(database, settings, clock)


@pytest.fixture
def client(visitor: "TestClient", database: Database, clock: ManualClock) -> "TestClient":
    """A client with a person's token."""
    from tests.factories.client import sign_in

    sign_in(visitor, database, clock)
    return visitor
