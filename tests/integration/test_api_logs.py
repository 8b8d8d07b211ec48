"""The tail of a job's log, also after the job is gone."""

import os
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db.tables import Job
from app.domain.states import JobState
from tests.factories.builders import RUN, add_run
from tests.factories.client import TestClient
from tests.factories.databases import Database
from workers.contract.env import log_path


@pytest.fixture
def log(database: Database, tmp_path: Path) -> Path:
    with database.sessions.begin() as session:
        add_run(session, tmp_path)
    path = log_path(tmp_path / RUN / "a1", "trainer", 0, 1)
    path.parent.mkdir(parents=True)
    return path


def _tail(client: TestClient, **params: Any) -> dict[str, Any]:
    answer = client.get(f"/api/v1/runs/{RUN}/logs/trainer", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_follower_gets_every_byte_once(client: TestClient, log: Path) -> None:
    log.write_text("one\n")
    first = _tail(client)
    with log.open("a") as file:
        file.write("two\n")
    second = _tail(client, offset=first["next_offset"])
    assert (first["text"], second["text"]) == ("one\n", "two\n")
    assert _tail(client, offset=second["next_offset"])["text"] == ""


def test_tail_is_bounded_and_ends_at_the_end(client: TestClient, log: Path) -> None:
    log.write_text("".join(f"line {n}\n" for n in range(10_000)))
    shown = _tail(client, limit=100)
    assert len(shown["text"]) == 100
    assert shown["text"].endswith("line 9999\n")
    assert client.get(f"/api/v1/runs/{RUN}/logs/trainer?limit=99999999").status_code == 422


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7])
def test_slices_never_tear_a_character(client: TestClient, log: Path, limit: int) -> None:
    text = "aé漢😀b" * 3
    log.write_text(text)
    offset, seen = 0, ""
    for _ in range(100):
        shown = _tail(client, offset=offset, limit=max(limit, 4))
        seen, offset = seen + shown["text"], shown["next_offset"]
        if offset == shown["size"]:
            break
    assert seen == text
    assert "\N{REPLACEMENT CHARACTER}" not in _tail(client, limit=limit)["text"] or limit < 4


def test_bytes_that_are_no_text_do_not_stop_the_log(client: TestClient, log: Path) -> None:
    log.write_bytes(b"ok \xff\xfe\xf0 more\n")
    shown = _tail(client)
    assert shown["next_offset"] == shown["size"]
    assert shown["text"].startswith("ok ")


def test_log_outlives_its_job(client: TestClient, database: Database, log: Path) -> None:
    log.write_text("done\n")
    with database.sessions.begin() as session:
        for job in session.scalars(select(Job)):
            job.state = JobState.SUCCEEDED
    assert _tail(client)["ended"] is True
    assert _tail(client)["text"] == "done\n"


def test_log_that_is_not_there_yet_is_empty(client: TestClient, log: Path) -> None:
    shown = _tail(client)
    assert (shown["text"], shown["exists"], shown["next_offset"]) == ("", False, 0)


def test_job_that_never_was_is_not_found(client: TestClient, log: Path) -> None:
    assert client.get(f"/api/v1/runs/{RUN}/logs/trainer?index=7").status_code == 404
    assert client.get(f"/api/v1/runs/{RUN}/logs/..%2F..%2Fetc").status_code in (404, 422)


def test_link_and_pipe_in_a_logs_place_are_not_read(
    client: TestClient, log: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("private")
    log.symlink_to(secret)
    answer = client.get(f"/api/v1/runs/{RUN}/logs/trainer")
    assert (answer.status_code, "private" in answer.text) == (503, False)
    log.unlink()
    os.mkfifo(log)
    assert client.get(f"/api/v1/runs/{RUN}/logs/trainer").status_code == 503
