"""What a spec becomes on verl's command line."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from workers import ownership
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.spec import DataSpec, RunSpec, TrainerSpec
from workers.contract.tasks import ChatMessage, Task
from workers.training.integrations.base import IntegrationError
from workers.training.integrations.verl.config import (
    Places,
    RowCounts,
    arguments,
    micro_batch,
    overrides,
)
from workers.training.integrations.verl.integration import VerlIntegration

GOLDEN = Path(__file__).parents[1] / "golden"
ROWS = RowCounts(train=16, evaluation=4)
PLACES = Places(
    train_rows=Path("/run/a1/verl/train.jsonl"),
    eval_rows=Path("/run/a1/verl/eval.jsonl"),
    checkpoints=Path("/run/a1/checkpoints"),
    agent_loops=Path("/run/a1/verl/agent_loops.yaml"),
    router=Path("/run/a1/verl/router.yaml"),
    work=Path("/run/a1/verl"),
)
CPU: dict[str, object] = {"model_path": "/models/tiny"}
GPU: dict[str, object] = {
    "model_path": "/models/qwen",
    "device": "gpu",
    "engine": "vllm",
    "tensor_parallel": 2,
    "param_offload": True,
    "resources": {"gres": "gpu:mig:2"},
}


def rendered(trainer: dict[str, object], resume: str | None = None) -> tuple[str, ...]:
    return arguments(overrides(TrainerSpec.model_validate(trainer), PLACES, ROWS, resume))


GOLDEN_CASES: tuple[tuple[str, dict[str, object], str | None], ...] = (
    ("verl_cpu.txt", CPU, None),
    ("verl_cpu_resume.txt", CPU | {"evaluate_before_after": True}, "/run/a0/global_step_10"),
    ("verl_gpu.txt", GPU, None),
)


@pytest.mark.parametrize(("name", "trainer", "resume"), GOLDEN_CASES)
def test_overrides_are_those_of_the_golden_file(
    name: str, trainer: dict[str, object], resume: str | None
) -> None:
    assert "\n".join(rendered(trainer, resume)) + "\n" == (GOLDEN / name).read_text()


def test_free_override_replaces_ours_in_place_and_a_new_one_follows() -> None:
    base = rendered(CPU)
    extra = {"algorithm.norm_adv_by_std_in_grpo": False, "data.shuffle": False}
    changed = rendered(CPU | {"overrides": extra})
    assert changed[:-1] == tuple(
        "data.shuffle=false" if text == "data.shuffle=true" else text for text in base
    )
    assert changed[-1] == "algorithm.norm_adv_by_std_in_grpo=false"


def test_free_override_reaches_a_key_that_needs_a_plus() -> None:
    key = "actor_rollout_ref.model.override_config.attn_implementation"
    assert f"+{key}=sdpa" in rendered(CPU | {"overrides": {key: "sdpa"}})


@pytest.mark.parametrize("key", ["trainer.resume_mode", "+trainer.default_local_dir"])
def test_free_override_cannot_contradict_the_attempt(key: str) -> None:
    with pytest.raises(IntegrationError, match="decided by the spec"):
        rendered(CPU | {"overrides": {key: "auto"}})


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({}, "model_path is empty"),
        (CPU | {"algorithm": "ppo"}, "needs a GPU"),
        (CPU | {"engine": "vllm"}, "hf_cpu goes with cpu"),
        (GPU | {"engine": "hf_cpu"}, "hf_cpu goes with cpu"),
        (CPU | {"prompts_per_step": 17}, "holds 16 tasks"),
        (CPU | {"max_prompt_tokens": 600, "max_response_tokens": 600}, "exceed max_model_len"),
    ],
)
def test_spec_that_cannot_run_is_refused_with_the_mend(
    trainer: dict[str, object], message: str
) -> None:
    with pytest.raises(IntegrationError, match=message):
        rendered(trainer)


def test_text_that_hydra_would_parse_is_quoted() -> None:
    odd = rendered({"model_path": "/a b/it's,{x}=\\1"})
    assert "actor_rollout_ref.model.path='/a b/it\\'s,{x}=\\\\1'" in odd


@pytest.mark.parametrize(
    ("prompts", "rollouts", "wish", "want"),
    [(4, 8, 4, 4), (4, 8, 5, 4), (3, 5, 100, 15), (3, 5, 4, 3), (1, 7, 4, 1)],
)
def test_micro_batch_divides_a_step(prompts: int, rollouts: int, wish: int, want: int) -> None:
    spec = TrainerSpec(prompts_per_step=prompts, rollouts_per_prompt=rollouts, micro_batch=wish)
    assert micro_batch(spec) == want


@pytest.fixture
def attempt(tmp_path: Path) -> AttemptFile:
    tasks = [
        Task(
            task_id=f"t{number}",
            prompt=(ChatMessage(role="user", content="é"),),
            files={f"only{number}.txt": "x"},
            test_command="true",
        )
        for number in range(4)
    ]
    data = tmp_path / "tasks.jsonl"
    data.write_text("".join(task.model_dump_json() + "\n" for task in tasks))
    folder, model = tmp_path / "a1", tmp_path / "model"
    folder.mkdir()
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        (model / name).write_text("{}")
    return AttemptFile(
        contract_version=1,
        installation="i",
        run_id="r",
        attempt=1,
        attempt_dir=str(folder),
        control_plane_file=str(tmp_path / "control-plane.json"),
        spec=RunSpec(
            name="n",
            data=DataSpec(train_file=str(data)),
            trainer=TrainerSpec(model_path=str(model), environment={"EXTRA": "1"}),
        ),
    )


def test_prepared_command_is_stock_verl_with_the_attempts_files(
    attempt: AttemptFile, tmp_path: Path
) -> None:
    command = VerlIntegration(python="/venv/bin/python", scratch=tmp_path / "s").prepare(attempt)
    assert command.argv[:3] == ("/venv/bin/python", "-m", "verl.trainer.main_ppo")
    assert command.environment[env.ATTEMPT_FILE] == str(tmp_path / "a1" / "attempt.json")
    assert command.environment["EXTRA"] == "1"
    assert "driver_factory" in (tmp_path / "a1/verl/agent_loops.yaml").read_text()


def test_no_secret_is_in_the_command_or_its_environment(
    attempt: AttemptFile, tmp_path: Path
) -> None:
    command = VerlIntegration(scratch=tmp_path / "s").prepare(attempt)
    token_file = Path(command.environment["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
    token = token_file.read_text()
    assert len(token) == 64
    assert token not in " ".join([*command.argv, *command.environment.values()])


def test_the_scratch_of_a_killed_trainer_is_removed_and_a_living_one_s_is_not(
    attempt: AttemptFile, tmp_path: Path
) -> None:
    integration = VerlIntegration(scratch=tmp_path / "s")
    (dead,), (living,) = (integration.prepare(attempt).scratch for _ in range(2))
    ended = subprocess.Popen(["true"])
    ended.wait()
    owner = (dead / ownership.OWNER_FILE).read_text().split("\n")
    (dead / ownership.OWNER_FILE).write_text("\n".join([str(ended.pid), *owner[1:]]))
    (own,) = integration.prepare(attempt).scratch
    assert set((tmp_path / "s").iterdir()) == {living, own}


def test_rows_carry_whole_tasks_and_know_that_they_are_evaluation(
    attempt: AttemptFile, tmp_path: Path
) -> None:
    VerlIntegration(scratch=tmp_path / "s").prepare(attempt)
    train, evaluation = (
        [json.loads(line) for line in (tmp_path / f"a1/verl/{name}.jsonl").open()]
        for name in ("train", "eval")
    )
    assert [Task.model_validate_json(row["task"]).task_id for row in train] == [
        "t0", "t1", "t2", "t3",
    ]  # fmt: skip
    assert Task.model_validate_json(train[2]["task"]).files == {"only2.txt": "x"}
    assert {row["validation"] for row in train} == {False}
    assert {row["validation"] for row in evaluation} == {True}


def test_bad_task_names_file_and_line(attempt: AttemptFile, tmp_path: Path) -> None:
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write('{"task_id": "x"}\n')
    with pytest.raises(IntegrationError, match=r"tasks\.jsonl:5: prompt: Field required"):
        VerlIntegration(scratch=tmp_path / "s").prepare(attempt)


@pytest.mark.parametrize(
    ("name", "message"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights")],
)
def test_model_folder_without_a_needed_file_is_refused_before_the_start(
    attempt: AttemptFile, tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "model" / name).unlink()
    with pytest.raises(IntegrationError, match=message):
        VerlIntegration(scratch=tmp_path / "s").prepare(attempt)


def test_unreadable_weights_are_told_with_the_mend(
    attempt: AttemptFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root reads everything, so the answer of the system is set here.
    monkeypatch.setattr("os.access", lambda path, _: path.name != "model.safetensors")
    with pytest.raises(IntegrationError, match=r"model\.safetensors: not readable.*chmod"):
        VerlIntegration(scratch=tmp_path / "s").prepare(attempt)


def test_resume_from_an_incomplete_checkpoint_is_refused(
    attempt: AttemptFile, tmp_path: Path
) -> None:
    folder = tmp_path / "global_step_3"
    (folder / "actor").mkdir(parents=True)
    again = attempt.model_copy(update={"resume_from": str(folder)})
    with pytest.raises(IntegrationError, match="missing: data, fsdp_config"):
        VerlIntegration(scratch=tmp_path / "s").prepare(again)


def test_core_and_pure_modules_import_neither_trainer_nor_torch() -> None:
    code = (
        "import sys, workers.training.core.policy, "
        "workers.training.integrations.verl.integration as _\n"
        "print(sorted({'verl', 'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
