"""What cannot fit is said before anything is launched."""

from typing import Any

import pytest

from app.domain.plan import plan
from app.domain.spec import build_spec

GOOD: dict[str, Any] = {
    "name": "demo",
    "data": {"train_file": "/data/train.jsonl"},
    "trainer": {"model_path": "/models/tiny"},
}


def planned(*sets: str) -> Any:
    return plan(build_spec(GOOD, sets=sets)[0])


def test_the_defaults_fit() -> None:
    assert planned().possible


@pytest.mark.parametrize(
    ("sets", "expected"),
    [
        (["trainer.prompts_per_step=64", "trainer.rollouts_per_prompt=8"], "use at least 64 slots"),
        (["trainer.max_prompt_tokens=900"], "= 1412 exceed trainer.max_model_len 1024"),
        (["trainer.max_turn_tokens=600"], "exceeds the whole trajectory's budget"),
        (["trainer.rollouts_per_prompt=1"], "every advantage would be zero"),
        (["trainer.algorithm=ppo"], "needs a GPU"),
        (["trainer.engine=vllm"], "does not run on trainer.device cpu"),
        (["trainer.micro_batch=5"], "does not divide the 32 rollouts"),
        (["runtime.warm=9"], "exceeds runtime.slots 8"),
        (["trainer.model_path=null"], "trainer.model_path is not set"),
        (["data.train_file=null"], "data.train_file is not set"),
        (["trainer.integration=command"], "trainer.command is empty"),
        (
            ["trainer.tensor_parallel=2", "trainer.resources.gres=gpu:mig:2"],
            "one process sees one MIG slice",
        ),
        (
            ["trainer.tensor_parallel=4", "trainer.resources.gres=gpu:a100:2"],
            "asks for 2",
        ),
    ],
)
def test_impossible_numbers_are_problems_with_a_mend(sets: list[str], expected: str) -> None:
    problems = planned(*sets).problems
    assert any(expected in problem for problem in problems), problems


def test_several_rounds_of_the_slots_are_a_warning_only() -> None:
    result = planned("runtime.slots=4")
    assert result.possible
    assert "8 rounds each step" in result.warnings[0]


def test_a_runtime_alone_needs_no_model() -> None:
    spec, _ = build_spec({"name": "r", "kind": "runtime-only"})
    assert plan(spec).possible
