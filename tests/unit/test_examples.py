"""The shipped specs and presets are valid and can run."""

from pathlib import Path

import pytest

from app.domain.plan import plan
from app.domain.spec import build_spec
from app.specfile import presets, read_document

ROOT = Path(__file__).resolve().parents[2]
PATHS = ["data.train_file=/data/train.jsonl", "trainer.model_path=/models/tiny"]


@pytest.mark.parametrize("name", ["demo", "dev"])
def test_an_example_is_valid_and_possible(name: str) -> None:
    spec, _ = build_spec(read_document(ROOT / "examples" / f"{name}.yaml"), sets=PATHS)
    assert plan(spec).problems == ()


@pytest.mark.parametrize("name", sorted(presets(ROOT / "app" / "presets")))
def test_a_preset_needs_only_a_name_and_paths(name: str) -> None:
    preset = read_document(ROOT / "app" / "presets" / f"{name}.yaml")
    spec, origins = build_spec({"name": "x"}, sets=PATHS, preset=preset)
    assert plan(spec).problems == ()
    assert origins["trainer.micro_batch"] == "preset"


def test_the_development_example_carries_the_published_test_configuration() -> None:
    spec, _ = build_spec(read_document(ROOT / "examples" / "dev.yaml"))
    trainer = spec.trainer
    assert (trainer.prompts_per_step, trainer.rollouts_per_prompt) == (1, 2)
    assert (trainer.max_model_len, trainer.gpu_memory_utilization) == (4096, 0.5)
    assert (spec.agent.max_turns, spec.runtime.slots) == (20, 7)
    assert (spec.runtime.resources.cpus, spec.runtime.resources.memory_mb) == (32, 64000)
    assert spec.trainer.resources.time_limit_s == 6 * 3600
