import pytest

from app.domain.findings import explain
from app.domain.states import Reason, RunState, outcome


@pytest.mark.parametrize("reason", Reason)
def test_every_failure_has_a_next_action_and_nothing_else_has(reason: Reason) -> None:
    found = explain(reason, "")
    assert (found is not None) == (outcome(reason) is RunState.FAILED)
    assert found is None or "Next: " in found.text


@pytest.mark.parametrize(
    ("reason", "detail", "code"),
    [
        (Reason.SUBMIT_REJECTED, "sbatch: Invalid partition name", "submit_rejected.partition"),
        (Reason.SUBMIT_REJECTED, "Invalid qos specification", "submit_rejected.qos"),
        (Reason.TRAINER_FAILED, "CUDA out of memory. Tried", "trainer_failed.gpu_memory"),
        (Reason.TRAINER_FAILED, "No module named 'verl'", "trainer_failed.module_missing"),
        (Reason.TRAINER_FAILED, "something new", "trainer_failed"),
    ],
)
def test_a_known_symptom_is_named(reason: Reason, detail: str, code: str) -> None:
    found = explain(reason, detail)
    assert found is not None
    assert found.code == code
    assert detail in found.text
