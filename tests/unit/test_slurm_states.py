import pytest
from hypothesis import given
from hypothesis import strategies as st

from slurm.port import FINAL_STATES, SlurmState
from slurm.states import normalise


@pytest.mark.parametrize(
    ("raw", "reason", "state"),
    [
        ("PENDING", "Priority", SlurmState.PENDING),
        ("PENDING", "None", SlurmState.PENDING),
        ("PENDING", "DependencyNeverSatisfied", SlurmState.PENDING),
        ("PENDING", "ReqNodeNotAvail, UnavailableNodes:cpu1", SlurmState.PENDING),
        ("PENDING", "JobHeldUser", SlurmState.HELD),
        ("PENDING", "JobHeldAdmin", SlurmState.HELD),
        ("PENDING", "launch failed requeued held", SlurmState.HELD),
        ("PENDING", "job requeued in held state", SlurmState.HELD),
        ("CONFIGURING", "", SlurmState.PENDING),
        ("REQUEUED", "", SlurmState.PENDING),
        ("SPECIAL_EXIT", "", SlurmState.HELD),
        ("RUNNING", "None", SlurmState.RUNNING),
        ("RUNNING", "Prolog", SlurmState.RUNNING),
        ("COMPLETING", "", SlurmState.RUNNING),
        ("SUSPENDED", "", SlurmState.RUNNING),
        ("COMPLETED", "None", SlurmState.COMPLETED),
        ("FAILED", "NonZeroExitCode", SlurmState.FAILED),
        ("FAILED", "JobLaunchFailure", SlurmState.FAILED),
        ("CANCELLED", "", SlurmState.CANCELLED),
        ("CANCELLED by 1000", "None", SlurmState.CANCELLED),
        ("CANCELLED+", "", SlurmState.CANCELLED),
        ("TIMEOUT", "TimeLimit", SlurmState.TIMEOUT),
        ("DEADLINE", "", SlurmState.TIMEOUT),
        ("OUT_OF_MEMORY", "OutOfMemory", SlurmState.OUT_OF_MEMORY),
        ("PREEMPTED", "", SlurmState.PREEMPTED),
        ("NODE_FAIL", "NodeDown", SlurmState.NODE_FAIL),
        ("BOOT_FAIL", "", SlurmState.NODE_FAIL),
        ("REVOKED", "", SlurmState.UNKNOWN),
        ("SOMETHING_NEW", "", SlurmState.UNKNOWN),
        ("", "", SlurmState.UNKNOWN),
    ],
)
def test_every_state_that_slurm_prints_has_one_meaning(
    raw: str, reason: str, state: SlurmState
) -> None:
    assert normalise(raw, reason) is state


@given(raw=st.text(), reason=st.text())
def test_text_from_a_later_slurm_is_never_a_final_state(raw: str, reason: str) -> None:
    known = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY"}
    known |= {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL"}
    word = raw.split()[0].rstrip("+").upper() if raw.split() else ""
    assert (normalise(raw, reason) in FINAL_STATES) == (word in known)
