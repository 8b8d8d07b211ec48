"""What trainers report, and what people see of it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from app.db.tables import Event, Finding, Job, Rollout, Run
from app.domain.states import JobState, Role, RunState
from app.services import checkpoints
from app.settings import Settings
from tests.factories.builders import (
    NOON,
    RUN,
    add_run,
    add_runtime,
    batch,
    rollout,
    trainer_token,
)
from tests.factories.client import TestClient, make_client, post
from tests.factories.clocks import ManualClock
from tests.factories.databases import Database
from workers.contract.reports import (
    CheckpointReport,
    FindingReport,
    InvalidReason,
    PhaseReport,
    RolloutState,
    StepReport,
    Turn,
)


@pytest.fixture(autouse=True)
def run(database: Database, tmp_path: Path) -> str:
    with database.sessions.begin() as session:
        add_run(session, tmp_path)
    return RUN


def _report(client: TestClient, *reports: Any, **keys: Any) -> Any:
    return post(client, "/reports", batch(*reports, **keys), trainer_token())


def _findings(database: Database) -> list[tuple[str, int | None]]:
    with database.sessions() as session:
        rows = session.scalars(select(Finding).order_by(Finding.id))
        return [(row.code, row.step) for row in rows]


def _group(*rewards: float, step: int = 1, group: str = "g1", **keys: Any) -> list[Any]:
    return [
        rollout(f"{step}-{group}-{n}", step=step, group=group, sample=n, reward=reward, **keys)
        for n, reward in enumerate(rewards)
    ]


def test_repeated_batch_is_accepted_and_changes_nothing(
    client: TestClient, database: Database
) -> None:
    assert _report(client, rollout("r1")).json() == {"accepted": True}
    assert _report(client, rollout("r2")).json() == {"accepted": False}
    assert _report(client, rollout("r2"), source="rollouts-2").json() == {"accepted": True}
    with database.sessions() as session:
        assert set(session.scalars(select(Rollout.id))) == {"r1", "r2"}


def test_same_batch_at_once_is_stored_once(
    database: Database, settings: Settings, clock: ManualClock
) -> None:
    app: Any = make_client(database, settings, clock).app

    def one(_: int) -> bool:
        return _report(TestClient(app), rollout("r1")).json()["accepted"]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(one, range(4)))
    assert sorted(answers) == [False, False, False, True]
    with database.sessions() as session:
        assert session.scalar(select(func.count()).select_from(Event)) == 1


def test_batches_of_one_source_at_once_are_all_stored(
    database: Database, settings: Settings, clock: ManualClock
) -> None:
    app: Any = make_client(database, settings, clock).app

    def one(number: int) -> int:
        return _report(TestClient(app), rollout(f"r{number}"), sequence=number + 1).status_code

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(one, range(8))) == [200] * 8
    with database.sessions() as session:
        assert session.scalar(select(func.count()).select_from(Rollout)) == 8


def test_attempt_that_is_over_may_report_nothing(client: TestClient, database: Database) -> None:
    with database.sessions.begin() as session:
        session.get_one(Run, RUN).state = RunState.FAILED
    assert _report(client, rollout("r1")).status_code == 410
    with database.sessions() as session:
        assert session.scalar(select(func.count()).select_from(Rollout)) == 0


def test_transcript_comes_back_as_it_was_reported(client: TestClient) -> None:
    hostile = "<script>alert(1)</script>\x00\x1b[31m"
    turn = Turn(role="tool", text=hostile, command="hostname", exit_code=0, hostname="sb-host")
    assert _report(client, rollout("r1", turns=(turn,), detail="a\x00b")).status_code == 200
    shown = client.get(f"/api/v1/runs/{RUN}/rollouts/r1").json()
    assert shown["turns"][0]["text"] == hostile
    assert shown["turns"][0]["hostname"] == "sb-host"
    assert shown["grade"]["passed"] is True
    assert shown["patch"].startswith("--- a")
    assert shown["unreadable"] == ""


def test_rollout_of_another_run_is_not_shown(client: TestClient) -> None:
    _report(client, rollout("r1"))
    assert client.get("/api/v1/runs/other/rollouts/r1").status_code == 404


@pytest.mark.parametrize("state", [RolloutState.INVALID, RolloutState.CANCELLED])
def test_infrastructure_failure_never_keeps_a_reward(
    client: TestClient, database: Database, state: RolloutState
) -> None:
    bad = rollout("r1", state=state, invalid_reason=InvalidReason.SANDBOX_LOST, grade=None)
    assert _report(client, bad).status_code == 200
    with database.sessions() as session:
        assert session.get_one(Rollout, "r1").reward is None
    assert ("reward_without_grade", 1) in _findings(database)


def test_mean_reward_counts_scored_training_rollouts_only(client: TestClient) -> None:
    invalid = rollout(
        "bad",
        sample=9,
        state=RolloutState.INVALID,
        reward=None,
        grade=None,
        invalid_reason="fenced",
    )
    validation = rollout("val", validation=True, reward=0.0)
    _report(client, *_group(1.0, 0.0), invalid, validation)
    step = client.get(f"/api/v1/runs/{RUN}/steps").json()["items"][0]
    assert step["reward"] == 0.5
    assert (step["rollouts"], step["scored"], step["invalid"]) == (3, 2, 1)
    assert (step["groups"], step["groups_with_advantage"]) == (1, 1)


def test_what_was_not_scored_counts_neither_as_graded_nor_as_trainable(client: TestClient) -> None:
    lost = rollout("bad", sample=9, state=RolloutState.INVALID, reward=None, trainable_tokens=50)
    _report(client, *_group(1.0, 0.0, trainable_tokens=7), lost)
    shown = client.get(f"/api/v1/runs/{RUN}").json()
    assert shown["totals"]["trainable_tokens"] == 14
    assert shown["totals"]["graded"] == shown["totals"]["scored"] == 2
    assert "0 scored without a patch" in shown["truths"]["graded"]["text"]
    step = client.get(f"/api/v1/runs/{RUN}/steps").json()["items"][0]
    assert (step["graded"], step["trainable_tokens"]) == (2, 14)


def test_jobs_are_up_when_the_successor_of_a_lost_runtime_runs(
    client: TestClient, database: Database
) -> None:
    with database.sessions.begin() as session:
        session.scalars(select(Job).where(Job.role == Role.RUNTIME)).one().state = JobState.FAILED
        add_runtime(session, generation=2)
    truth = client.get(f"/api/v1/runs/{RUN}").json()["truths"]["jobs"]
    assert (truth["verdict"], truth["text"]) == ("yes", "2 of 2 jobs running")


def test_step_without_advantage_is_found_once_all_samples_are_in(
    client: TestClient, database: Database
) -> None:
    _report(client, *_group(1.0, 1.0), sequence=1)
    assert _findings(database) == []
    _report(client, *_group(0.0, 0.0, group="g2"), sequence=2)
    assert _findings(database) == [("no_advantage", 1)]
    _report(client, *_group(0.0, 0.0, group="g2"), sequence=3)
    assert _findings(database) == [("no_advantage", 1)]


def test_one_group_with_unequal_rewards_is_enough(client: TestClient, database: Database) -> None:
    _report(client, *_group(1.0, 1.0), *_group(0.0, 1.0, group="g2"))
    assert _findings(database) == []


def test_step_without_trainable_tokens_is_an_error(client: TestClient, database: Database) -> None:
    groups = [*_group(1.0, 0.0, trainable_tokens=0)]
    groups += _group(1.0, 0.0, group="g2", trainable_tokens=0)
    _report(client, *groups)
    assert _findings(database) == [("no_trainable_tokens", 1)]


def test_incomplete_step_is_judged_when_the_trainer_went_on(
    client: TestClient, database: Database
) -> None:
    _report(client, *_group(1.0, 1.0), sequence=1)
    _report(client, StepReport(step=2, metrics={"loss": 0.1}, at=NOON), sequence=2)
    assert _findings(database) == [("no_advantage", 1)]


def test_share_of_infrastructure_failures_is_found(client: TestClient, database: Database) -> None:
    bad = {"state": RolloutState.INVALID, "invalid_reason": "image_failed", "grade": None}
    lost = [rollout(f"x{n}", group="g2", sample=n, reward=None, **bad) for n in range(2)]
    _report(client, *_group(1.0, 0.0), *lost)
    assert _findings(database) == [("infrastructure_failures", 1)]


def test_metrics_that_are_no_numbers_are_kept_as_null(client: TestClient) -> None:
    _report(client, StepReport(step=1, metrics={"loss": float("nan"), "lr": 0.5}, at=NOON))
    metrics = client.get(f"/api/v1/runs/{RUN}/metrics").json()["items"]
    assert metrics[0]["metrics"] == {"loss": None, "lr": 0.5}


def test_newest_complete_checkpoint_is_never_a_partial_one(
    client: TestClient, database: Database
) -> None:
    def saved(step: int, complete: bool) -> CheckpointReport:
        path = f"/runs/a1/checkpoints/global_step_{step}"
        return CheckpointReport(step=step, path=path, complete=complete, bytes=10, at=NOON)

    _report(client, saved(5, True), saved(10, False), sequence=1)
    with database.sessions() as session:
        newest = checkpoints.newest_complete(session, RUN)
        assert newest is not None
        assert newest.step == 5
    _report(client, saved(10, True), sequence=2)
    with database.sessions() as session:
        newest = checkpoints.newest_complete(session, RUN)
        assert newest is not None
        assert newest.step == 10
    shown = client.get(f"/api/v1/runs/{RUN}/checkpoints").json()["items"]
    assert [(one["step"], one["complete"]) for one in shown] == [(10, True), (5, True)]


def test_reported_finding_and_phase_are_shown(client: TestClient) -> None:
    found = FindingReport(code="slow", severity="warning", text="slow node", at=NOON)
    _report(client, found, PhaseReport(phase="saving", step=3, seconds=1.5, at=NOON))
    shown = client.get(f"/api/v1/runs/{RUN}/findings").json()["items"]
    assert [one["code"] for one in shown] == ["slow"]
    events = client.get(f"/api/v1/runs/{RUN}/events").json()["items"]
    assert {event["kind"] for event in events} == {"finding.reported", "trainer.phase"}


def test_rollouts_are_filtered_and_paged(client: TestClient) -> None:
    _report(client, *_group(1.0, 0.0), *_group(1.0, 1.0, step=2))
    path = f"/api/v1/runs/{RUN}/rollouts"
    assert len(client.get(path, params={"step": 2}).json()["items"]) == 2
    assert len(client.get(path, params={"passed": "false"}).json()["items"]) == 1
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "3", **({"cursor": cursor} if cursor else {})}
        page = client.get(path, params=params).json()
        seen += [one["id"] for one in page["items"]]
        if (cursor := page["next_cursor"]) is None:
            break
    assert len(seen) == len(set(seen)) == 4
