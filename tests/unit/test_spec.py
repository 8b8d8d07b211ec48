"""Layers, origins and errors of a run's spec."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.spec import build_spec, flatten, known_keys, nest
from app.errors import Invalid
from app.specfile import parse_document

BASE = {"name": "demo"}


def problems(document: dict[str, object], **layers: object) -> str:
    with pytest.raises(Invalid) as caught:
        build_spec(document, **layers)  # type: ignore[arg-type]
    return caught.value.detail


def test_later_layers_win_and_the_origin_of_each_value_is_kept() -> None:
    spec, origins = build_spec(
        {"name": "demo", "trainer": {"steps": 3, "seed": 7}},
        profile={"trainer": {"steps": 1, "resources": {"partition": "gpu_test"}}},
        preset={"trainer": {"steps": 2, "micro_batch": 2}},
        sets=["trainer.seed=9"],
    )
    assert (spec.trainer.steps, spec.trainer.micro_batch, spec.trainer.seed) == (3, 2, 9)
    assert spec.trainer.resources.partition == "gpu_test"
    assert origins["trainer.steps"] == "spec"
    assert origins["trainer.micro_batch"] == "preset"
    assert origins["trainer.resources.partition"] == "profile"
    assert origins["trainer.seed"] == "set"
    assert origins["trainer.temperature"] == "default"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"trainer": {"learning_rat": 1}}, "trainer.learning_rat (spec): unknown key; did you"),
        ({"steps": 4}, "steps (spec): unknown key; did you mean trainer.steps?"),
        ({"trainer": {"steps": "many"}}, "trainer.steps (spec): Input should be a valid integer"),
        ({"trainer": {"steps": 0}}, "greater than or equal to 1, not 0"),
        ({"runtime": {"count": 1, "min_count": 2}}, "min_count is larger than runtime.count"),
        ({"kind": "attached"}, "runtime_url goes with kind: attached"),
    ],
)
def test_a_wrong_spec_names_the_place_and_the_mend(
    document: dict[str, object], expected: str
) -> None:
    assert expected in problems({**BASE, **document})


def test_every_problem_is_told_at_once() -> None:
    text = problems({"name": "x", "trainer": {"steps": "many", "seed": -1}, "extra": 1})
    assert len(text.splitlines()) == 3


def test_a_set_without_equals_sign_says_how_to_write_it() -> None:
    assert "key.subkey=value" in problems(BASE, sets=["trainer.steps"])


def test_a_key_written_twice_is_refused_with_its_line() -> None:
    with pytest.raises(Invalid, match=r"line 2.*written twice"):
        parse_document("name: a\nname: b\n")


def test_a_document_that_is_a_list_is_refused() -> None:
    with pytest.raises(Invalid, match="top level must be a mapping"):
        parse_document("- a\n- b\n")


_KEYS = st.sampled_from(sorted(known_keys()))


@given(st.dictionaries(_KEYS, st.integers(), max_size=5))
def test_nest_is_the_inverse_of_flatten(flat: dict[str, int]) -> None:
    assert dict(flatten(nest(flat))) == flat
