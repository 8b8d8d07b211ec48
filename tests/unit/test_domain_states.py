"""The tables of states agree with each other and with what is decided from them."""

import pytest

from app.domain.admit import Waiting, admitted
from app.domain.retry import ALWAYS, IF_IT_GOT_FURTHER
from app.domain.states import (
    JOB_ALLOWED,
    RUN_ALLOWED,
    RUN_FINAL,
    JobState,
    Reason,
    RunState,
    outcome,
)


def test_final_states_are_left_by_nothing_and_reached_from_stopping_only() -> None:
    for state in RUN_FINAL:
        assert RUN_ALLOWED[state] == frozenset()
        assert [old for old, to in RUN_ALLOWED.items() if state in to] == [RunState.STOPPING]


def test_every_run_and_every_job_can_come_to_an_end() -> None:
    for table in (RUN_ALLOWED, JOB_ALLOWED):
        ending = {state for state, leaves in table.items() if not leaves}
        while more := {s for s, leaves in table.items() if leaves & ending} - ending:
            ending |= more
        assert ending == set(table)


@pytest.mark.parametrize("reason", Reason)
def test_only_failures_are_tried_again(reason: Reason) -> None:
    if reason in ALWAYS | IF_IT_GOT_FURTHER:
        assert outcome(reason) is RunState.FAILED
    assert not ALWAYS & IF_IT_GOT_FURTHER


def test_a_job_that_ended_or_was_refused_never_moves_again() -> None:
    for state in (JobState.VANISHED, JobState.REJECTED, JobState.NOT_SUBMITTED):
        assert JOB_ALLOWED[state] == frozenset()


def test_a_sweep_admits_its_runs_in_the_order_of_the_grid() -> None:
    waiting = [Waiting("c", 2), Waiting("a", 0), Waiting("b", 1)]
    assert admitted(waiting, active=0, parallel=2) == {"a", "b"}
    assert admitted(waiting, active=1, parallel=2) == {"a"}
    assert admitted(waiting, active=5, parallel=2) == frozenset()
