"""One look at one job: state in, observation, state out."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from app.domain.model import Absent, Copy, JobView, Policy, Seen, Unreachable
from app.domain.project import id_order, project, settled
from app.domain.states import JOB_ALLOWED, JOB_ENDED, JobState, Role
from workers.contract.exit_record import ExitRecord, ExitResult

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = Policy()
ACCEPTED = {JobState.HELD, JobState.QUEUED, JobState.RUNNING}


def _job(state: JobState, **known: object) -> JobView:
    accepted = state not in (JobState.PLANNED, JobState.SUBMITTING)
    job = JobView(
        name="sd-i-r-a1-trainer0-g1",
        attempt=1,
        role=Role.TRAINER,
        index=0,
        generation=1,
        state=state,
        state_since=NOW,
        scheduler_id="5" if accepted else None,
    )
    return replace(job, **known)


def _look(job: JobView, seen: Seen | Absent | Unreachable, at: datetime = NOW) -> JobView:
    return project(job, seen, None, at, POLICY)


@pytest.mark.parametrize("state", JobState)
def test_unreachable_changes_no_state_and_breaks_the_row_of_absences(state: JobState) -> None:
    after = _look(_job(state), Unreachable())
    assert after.state is state
    assert after.absent_since is None


@pytest.mark.parametrize("state", JobState)
@pytest.mark.parametrize("seen", [None, *sorted(ACCEPTED | JOB_ENDED)])
def test_every_projection_is_an_allowed_transition(state: JobState, seen: JobState | None) -> None:
    after = _look(_job(state), Seen((Copy("5", seen),)))
    assert after.state is state or after.state in JOB_ALLOWED[state]


def test_a_job_never_moves_back() -> None:
    assert _look(_job(JobState.RUNNING), Seen((Copy("5", JobState.QUEUED),))).state == "RUNNING"


def test_a_job_held_by_a_person_after_our_release_is_queued_with_the_reason() -> None:
    held = Copy("5", JobState.HELD, pending_reason="JobHeldUser")
    after = _look(_job(JobState.QUEUED), Seen((held,)))
    assert (after.state, after.pending_reason) == (JobState.QUEUED, "JobHeldUser")


def test_an_unknown_raw_state_of_an_unanswered_submission_proves_that_it_was_accepted() -> None:
    after = _look(_job(JobState.SUBMITTING), Seen((Copy("7", None, raw_state="ODD"),)))
    assert (after.state, after.scheduler_id) == (JobState.HELD, "7")


def test_the_lowest_id_wins_while_none_is_recorded() -> None:
    copies = Seen((Copy("10", JobState.HELD), Copy("9", JobState.HELD)))
    after = _look(_job(JobState.SUBMITTING), copies)
    assert (after.scheduler_id, after.duplicates) == ("9", ("10",))


def test_a_recorded_id_is_never_replaced() -> None:
    copies = Seen((Copy("4", JobState.HELD), Copy("5", JobState.HELD)))
    after = _look(_job(JobState.HELD), copies)
    assert (after.scheduler_id, after.duplicates) == ("5", ("4",))


def test_a_copy_does_not_stand_for_a_recorded_job_that_is_gone() -> None:
    after = _look(_job(JobState.RUNNING), Seen((Copy("6", JobState.HELD),)))
    assert (after.state, after.absent_since, after.duplicates) == ("RUNNING", NOW, ("6",))


def test_a_copy_that_has_ended_needs_no_cancel() -> None:
    copies = Seen((Copy("5", JobState.RUNNING), Copy("6", JobState.CANCELLED)))
    assert _look(_job(JobState.HELD), copies).duplicates == ()


def test_absence_settles_a_submission_only_after_the_whole_window() -> None:
    job = _look(_job(JobState.SUBMITTING), Absent())
    assert not settled(job, NOW + POLICY.settle_window - timedelta(seconds=1), POLICY)
    assert settled(job, NOW + POLICY.settle_window, POLICY)
    assert not settled(_look(job, Unreachable()), NOW + POLICY.settle_window, POLICY)


@pytest.mark.parametrize("state", sorted(ACCEPTED))
def test_an_accepted_job_vanishes_only_beyond_the_grace_and_when_accounting_is_silent(
    state: JobState,
) -> None:
    absent = _look(_job(state), Absent())
    late = NOW + POLICY.vanish_grace
    assert _look(absent, Absent(), late - timedelta(seconds=1)).state is state
    assert _look(absent, Absent(accounted=False), late).state is state
    assert _look(absent, Absent(), late).state is JobState.VANISHED


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (ExitResult.COMPLETED, JobState.SUCCEEDED),
        (ExitResult.DRAINED, JobState.SUCCEEDED),
        (ExitResult.FAILED, JobState.FAILED),
    ],
)
def test_an_exit_record_tells_the_end_of_a_job_that_has_left_the_queue(
    result: ExitResult, state: JobState
) -> None:
    record = ExitRecord(
        contract_version=1,
        run_id="r",
        attempt=1,
        role="trainer",
        index=0,
        generation=1,
        result=result,
        exit_code=0,
    )
    job = _job(JobState.RUNNING)
    assert project(job, Absent(), record, NOW, POLICY).state is state
    assert project(job, Unreachable(), record, NOW, POLICY).state is JobState.RUNNING
    old = record.model_copy(update={"attempt": 7})
    assert project(job, Absent(), old, NOW, POLICY).state is JobState.RUNNING


def test_a_planned_job_adopts_a_submission_that_landed_after_all() -> None:
    after = _look(_job(JobState.PLANNED), Seen((Copy("3", JobState.HELD),)))
    assert after.state is JobState.SUBMITTING
    assert _look(after, Seen((Copy("3", JobState.HELD),))).state is JobState.HELD


def test_ids_are_ordered_as_numbers() -> None:
    assert sorted(["10", "9", "100"], key=id_order) == ["9", "10", "100"]
