"""Registration, heartbeats and leases through the workers' routes."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from app.db.tables import Event, Lease, Run, Runtime, Sandbox
from app.domain.states import CloseReason, Desired, RunState, RuntimeState
from app.settings import Settings
from tests.factories.builders import (
    RUN,
    add_run,
    add_runtime,
    register_runtime,
    register_trainer,
    runtime_heartbeat,
    runtime_token,
    sandbox,
    trainer_token,
)
from tests.factories.client import TestClient, make_client, post
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database
from workers.contract.leases import LeaseRequest
from workers.contract.registration import TrainerHeartbeat


@pytest.fixture
def run(database: Database, tmp_path: Path) -> str:
    with database.sessions.begin() as session:
        add_run(session, tmp_path)
    return RUN


def _register(client: TestClient, token: str | None = None, **keys: Any) -> Any:
    message = register_runtime(**keys)
    return post(client, "/runtimes/register", message, token or runtime_token())


def _beat(client: TestClient, **keys: Any) -> Any:
    return post(client, "/runtimes/heartbeat", runtime_heartbeat(**keys), runtime_token())


def _lease(client: TestClient, *held: str) -> Any:
    request = LeaseRequest(run_id=RUN, attempt=1, held=held)
    return post(client, "/leases", request, trainer_token())


def _change(database: Database, row: type[Any], **values: Any) -> None:
    with database.sessions.begin() as session:
        for found in session.scalars(select(row)):
            for name, value in values.items():
                setattr(found, name, value)


def test_first_registration_makes_the_generation_active_with_one_event(
    visitor: TestClient, database: Database, run: str
) -> None:
    for _ in range(2):
        answer = _register(visitor)
        assert answer.json() == {"heartbeat_s": 10.0}
    with database.sessions() as session:
        assert session.scalars(select(Runtime)).one().state is RuntimeState.ACTIVE
        events = list(session.scalars(select(Event).where(Event.kind == "runtime.state")))
    assert [event.data["to"] for event in events] == ["ACTIVE"]


def test_same_job_registers_again_after_its_server_crashed(
    visitor: TestClient, database: Database, run: str
) -> None:
    _register(visitor)
    assert _register(visitor, pid=99, url="http://node1:9001").status_code == 200
    with database.sessions() as session:
        assert session.scalars(select(Runtime)).one().url == "http://node1:9001"


def test_second_copy_of_the_job_is_a_conflict(
    visitor: TestClient, database: Database, run: str
) -> None:
    _register(visitor)
    answer = _register(visitor, scheduler_job_id="101", hostname="node3", url="http://node3:1")
    assert (answer.status_code, answer.json()["error"]) == (409, "second_registrant")
    with database.sessions() as session:
        assert session.scalars(select(Runtime)).one().url == "http://node1:9000"


def test_job_that_is_not_the_recorded_one_is_a_conflict(visitor: TestClient, run: str) -> None:
    answer = _register(visitor, job_name="sd-other-run-a1-runtime0-g1")
    assert (answer.status_code, answer.json()["error"]) == (409, "not_this_job")


def test_two_registrations_at_once_leave_one_owner(
    database: Database, settings: Settings, clock: ManualClock, run: str
) -> None:
    app: Any = make_client(database, settings, clock).app

    def one(number: int) -> int:
        keys = {"scheduler_job_id": str(number), "hostname": f"node{number}"}
        return _register(TestClient(app), **keys).status_code

    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(one, range(4)))
    assert codes == [200, 409, 409, 409]


def test_old_attempt_is_told_to_stop(
    visitor: TestClient, database: Database, tmp_path: Path
) -> None:
    with database.sessions.begin() as session:
        add_run(session, tmp_path, attempt=2)
    answer = _register(visitor, attempt=1)
    assert (answer.status_code, answer.json()["error"]) == (410, "superseded")
    assert _beat(visitor).json()["stop"] is True


def test_old_generation_is_told_to_stop(visitor: TestClient, database: Database, run: str) -> None:
    with database.sessions.begin() as session:
        add_runtime(session, generation=2)
    assert _register(visitor).status_code == 410
    assert _register(visitor, generation=2).status_code == 200


def test_closed_generation_is_told_to_stop_and_changes_nothing(
    visitor: TestClient, database: Database, clock: ManualClock, run: str
) -> None:
    _register(visitor)
    closed = {"state": RuntimeState.CLOSED, "close_reason": CloseReason.HEARTBEAT_LOST}
    _change(database, Runtime, **closed)
    clock.advance(500)
    assert _beat(visitor, slots_used=5).json() == {"stop": True, "drain": False}
    assert _register(visitor).status_code == 410
    with database.sessions() as session:
        runtime = session.scalars(select(Runtime)).one()
        assert (runtime.state, runtime.slots_used) == (RuntimeState.CLOSED, 0)


def test_other_contract_version_is_refused_with_the_mend(visitor: TestClient, run: str) -> None:
    answer = _register(visitor, contract_version=99)
    assert (answer.status_code, answer.json()["error"]) == (422, "contract_version")
    assert "same Skydeck" in answer.json()["detail"]


def test_token_of_another_run_is_forbidden(
    visitor: TestClient, database: Database, tmp_path: Path, run: str
) -> None:
    with database.sessions.begin() as session:
        add_run(session, tmp_path, run_id="run0000002")
    assert _register(visitor, token=runtime_token("run0000002")).status_code == 403


def test_heartbeat_keeps_the_newest_word_on_each_sandbox(
    visitor: TestClient, database: Database, run: str
) -> None:
    _register(visitor)
    _beat(visitor, sandboxes=[sandbox("a"), sandbox("b")])
    gone = sandbox("a", state="GONE", stop_reason="released", ended_at="2026-01-01T12:01:00+00:00")
    assert _beat(visitor, sandboxes=[gone]).json() == {"stop": False, "drain": False}
    with database.sessions() as session:
        states = {one.id: one.state.value for one in session.scalars(select(Sandbox))}
    assert states == {"a": "GONE", "b": "READY"}


def test_sandboxes_of_a_run_are_paged_and_each_is_shown_once(client: TestClient, run: str) -> None:
    _register(client)
    names = [f"box{n}" for n in range(5)]
    _beat(client, sandboxes=[sandbox(name) for name in names])
    seen: list[str] = []
    cursor: str | None = None
    for _ in range(3):
        query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = client.get(f"/api/v1/runs/{run}/sandboxes", params=query).json()
        seen += [one["id"] for one in page["items"]]
        cursor = page["next_cursor"]
    assert (sorted(seen), cursor) == (names, None)


def test_heartbeat_before_registration_is_a_conflict(visitor: TestClient, run: str) -> None:
    assert _beat(visitor).json()["error"] == "not_registered"


def test_lease_is_given_and_renewed_for_a_fresh_runtime(
    visitor: TestClient, clock: ManualClock, run: str
) -> None:
    _register(visitor)
    first = _lease(visitor).json()["leases"][0]
    assert (first["url"], first["generation"]) == ("http://node1:9000", 1)
    clock.advance(30)
    again = _lease(visitor, first["lease_id"]).json()["leases"][0]
    assert again["lease_id"] == first["lease_id"]
    assert again["expires_at"] > first["expires_at"]


def test_lease_that_ran_out_is_not_renewed_but_replaced(
    visitor: TestClient, database: Database, clock: ManualClock, run: str
) -> None:
    _register(visitor)
    first = _lease(visitor).json()["leases"][0]
    clock.advance(61)
    _beat(visitor)
    again = _lease(visitor, first["lease_id"]).json()["leases"][0]
    assert again["lease_id"] != first["lease_id"]
    with database.sessions() as session:
        assert [lease.id for lease in session.scalars(select(Lease))] == [again["lease_id"]]


def test_stale_runtime_gets_no_lease_until_it_is_heard_again(
    visitor: TestClient, clock: ManualClock, run: str
) -> None:
    _register(visitor)
    lease = _lease(visitor).json()["leases"][0]["lease_id"]
    clock.advance(46)
    answer = _lease(visitor, lease)
    assert (answer.status_code, answer.json()["error"]) == (503, "no_runtime")
    assert int(answer.headers["Retry-After"]) > 0
    _beat(visitor)
    assert _lease(visitor, lease).status_code == 200


def test_draining_runtime_gets_no_lease(visitor: TestClient, database: Database, run: str) -> None:
    _register(visitor)
    for _ in range(2):
        assert _beat(visitor, draining=True).json() == {"stop": False, "drain": True}
    assert _lease(visitor).status_code == 503
    with database.sessions() as session:
        events = list(session.scalars(select(Event).where(Event.kind == "runtime.state")))
    assert [event.data["to"] for event in events] == ["ACTIVE", "DRAINING"]


def test_planned_successor_ends_the_leases_of_the_old_generation(
    visitor: TestClient, database: Database, run: str
) -> None:
    _register(visitor)
    lease = _lease(visitor).json()["leases"][0]["lease_id"]
    with database.sessions.begin() as session:
        add_runtime(session, generation=2)
    assert _lease(visitor, lease).status_code == 503


@pytest.mark.parametrize(
    "change", [{"desired": Desired.CANCELLED}, {"state": RunState.STOPPING}, {"attempt": 2}]
)
def test_run_that_stops_gives_no_lease(
    visitor: TestClient, database: Database, run: str, change: dict[str, Any]
) -> None:
    _register(visitor)
    _change(database, Run, **change)
    assert _lease(visitor).status_code == 410


def test_trainer_registers_once_and_its_second_copy_is_refused(
    visitor: TestClient, database: Database, run: str
) -> None:
    for _ in range(2):
        answer = post(visitor, "/trainers/register", register_trainer(), trainer_token())
        assert answer.status_code == 200
    copy = register_trainer(scheduler_job_id="201", hostname="node9")
    assert post(visitor, "/trainers/register", copy, trainer_token()).status_code == 409
    with database.sessions() as session:
        kinds = list(session.scalars(select(Event.kind)))
    assert kinds == ["trainer.registered"]


def test_trainer_heartbeat_shows_its_step_and_tells_it_to_stop(
    visitor: TestClient, database: Database, run: str
) -> None:
    post(visitor, "/trainers/register", register_trainer(), trainer_token())
    beat = TrainerHeartbeat(
        run_id=RUN,
        attempt=1,
        generation=1,
        job_name="any",
        phase="training",
        step=3,
        steps_total=10,
    )
    assert post(visitor, "/trainers/heartbeat", beat, trainer_token()).json()["stop"] is False
    _change(database, Run, state=RunState.STOPPING)
    assert post(visitor, "/trainers/heartbeat", beat, trainer_token()).json()["stop"] is True


def test_registration_wakes_the_reconciler(
    visitor: TestClient, database: Database, clock: ManualClock, run: str
) -> None:
    later = clock.advance(60)
    _change(database, Run, next_check_at=later)
    clock.advance(-30)
    _register(visitor)
    with database.sessions() as session:
        assert session.get_one(Run, RUN).next_check_at == clock()
