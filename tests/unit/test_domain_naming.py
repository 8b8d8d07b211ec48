from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.naming import (
    JobKey,
    attempt_directory,
    job_name,
    name_prefix,
    parse_attempt_directory,
    parse_job_name,
)
from app.domain.states import Role

IDS = st.text("0123456789abcdefghjkmnpqrstvwxyz", min_size=1, max_size=16)
KEYS = st.builds(
    JobKey,
    run_id=IDS,
    attempt=st.integers(1, 999),
    role=st.sampled_from(Role),
    index=st.integers(0, 99),
    generation=st.integers(1, 999),
)


@given(installation=IDS, key=KEYS)
def test_a_job_name_is_parsed_back_to_what_it_stands_for(installation: str, key: JobKey) -> None:
    name = job_name(installation, key)
    assert parse_job_name(name) == (installation, key)
    assert name.startswith(name_prefix(installation))


@given(one=IDS, other=IDS, key=KEYS)
def test_no_installation_takes_the_jobs_of_another_for_its_own(
    one: str, other: str, key: JobKey
) -> None:
    assert job_name(other, key).startswith(name_prefix(one)) == (one == other)


@given(run=IDS, attempt=st.integers(1, 999))
def test_an_attempt_directory_is_parsed_back(run: str, attempt: int) -> None:
    path = attempt_directory(Path("/data/runs"), run, attempt)
    assert parse_attempt_directory(path) == (run, attempt)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "bash",
        "sd-x-y",
        "sd-x-y-a0-runtime0-g1",
        "sd-x-y-a1-runtime00-g1",
        "sd-x-y-a1-driver0-g1",
        "sd-x-y-a1-runtime0-g1-copies",
        " sd-x-y-a1-runtime0-g1",
        "sd-x-y-a1-runtime0-g1\n",
    ],
)
def test_a_name_that_is_not_ours_is_none(name: str) -> None:
    assert parse_job_name(name) is None
