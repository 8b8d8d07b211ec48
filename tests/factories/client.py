"""A client of the real application on a test's database."""

import warnings
from typing import Any

from pydantic import BaseModel

from app.clock import Clock
from app.ids import new_id
from app.main import create_app
from app.services import tokens
from app.settings import Settings
from tests.factories.databases import Database

with warnings.catch_warnings():
    # Starlette advises a client library that the project does not use elsewhere.
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient


def make_client(database: Database, settings: Settings, clock: Clock) -> TestClient:
    """Nobody is signed in; see :func:`sign_in`."""
    app = create_app(settings, sessions=database.sessions, clock=clock)
    return TestClient(app, raise_server_exceptions=False)


def sign_in(client: TestClient, database: Database, clock: Clock, name: str = "ada") -> str:
    """Send a fresh token with every request of this client; returns it."""
    with database.sessions.begin() as session:
        _, token = tokens.create(session, name, at=clock(), ids=new_id)
    client.headers["Authorization"] = f"Bearer {token}"
    return token


def post(client: TestClient, path: str, message: BaseModel, token: str) -> Any:
    """A worker's request."""
    return client.post(
        f"/api/internal{path}",
        content=message.model_dump_json(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
