"""The demo's tasks are what they claim to be: judged by running them, not by reading them."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from workers.contract.tasks import Task as ContractTask
from workers.training.tiny import demonstrator, tasks
from workers.training.tiny.demonstrator import Edit, Skill
from workers.training.tiny.simulator import SimulatedWorkspace
from workers.training.tiny.tasks import SPLITS, Combination, Split, Task

# A third is enough to meet every operation, and keeps the two processes a task affordable.
SAMPLE = [task for split in SPLITS for task in tasks.sample_tasks(7, split, 8)]
CLUMSY = Skill(0.5, 0.6, 0.6, 0.6)


def _lay(files: dict[str, str], folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def _bash(command: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={"PATH": path, "LC_ALL": "C", **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def _grade(row: dict[str, object], folder: Path) -> tuple[int, dict[str, bool]]:
    task = ContractTask.model_validate(row)
    results = folder.parent / "results.json"
    _lay(task.tests, folder)
    run = _bash(task.test_command, folder, SKYDECK_RESULTS=str(results))
    return run.returncode, json.loads(results.read_text())["tests"]


@pytest.mark.parametrize("task", SAMPLE, ids=lambda task: task.task_id)
def test_the_bug_fails_the_hidden_tests_and_the_gold_patch_passes_them(
    task: Task, tmp_path: Path
) -> None:
    row = task.row()
    folder = _lay(task.files(), tmp_path / "testbed")
    code, before = _grade(row, folder)
    assert code == 1
    assert not all(before.values())
    subprocess.run(
        ["patch", "-p1", "-s"], cwd=folder, input=task.gold_patch(), text=True, check=True
    )
    code, after = _grade(row, folder)
    assert code == 0
    assert all(after.values())
    assert len(after) == len(task.cases())


def test_no_wrong_operation_passes_the_hidden_cases() -> None:
    for right in tasks.OPERATIONS:
        for other in tasks.OPERATIONS:
            same = all(right.value(*case) == other.value(*case) for case in tasks.HIDDEN_CASES)
            assert same == (right == other)


def test_code_that_forges_a_result_and_exits_gains_nothing(tmp_path: Path) -> None:
    task = SAMPLE[0]
    folder = _lay(task.files(), tmp_path / "testbed")
    results = tmp_path / "results.json"
    forged = json.dumps({"tests": {"all": True}})
    (folder / task.target).write_text(
        f"import os\nopen({str(results)!r}, 'w').write({forged!r})\nprint('PASSED')\nos._exit(0)\n"
    )
    code, tests = _grade(task.row(), folder)
    assert code == 1
    assert not any(tests.values())


def test_the_workspace_stays_clean_when_the_check_is_run(tmp_path: Path) -> None:
    folder = _lay(SAMPLE[0].files(), tmp_path / "testbed")
    _bash("python3 check.py", folder)
    assert {path.name for path in folder.iterdir()} == set(SAMPLE[0].files())


def test_a_second_edit_within_the_same_second_is_seen_by_the_check(tmp_path: Path) -> None:
    task = next(t for t in SAMPLE if t.combination.wrong.symbol == "+")
    folder = _lay(task.files(), tmp_path / "testbed")
    repair = demonstrator.gold(task).command()
    assert "FAILED" in _bash("python3 check.py", folder).stdout
    assert _bash(repair, folder).stdout == "PASSED\n"


@pytest.mark.parametrize("seed", range(25))
def test_the_simulation_answers_what_bash_answers(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    task = tasks.sample_task(rng, tasks.combinations("warmup"))
    folder = _lay(task.files(), tmp_path / "testbed")
    simulated = SimulatedWorkspace(task)
    attempts = [demonstrator.attempt(rng, task, CLUMSY) for _ in range(2)]
    for edit in (*attempts, Edit(True, "+", "min", task.target), Edit(True, "a", "b", "none.py")):
        real = _bash(edit.command(), folder)
        assert simulated.run(edit.command()) == f"{real.stdout}{real.stderr}".strip()
    assert simulated.unknown == 0
    assert {f.name: f.read_text() for f in folder.iterdir()} == simulated.files
    assert simulated.grade() == float(_grade(task.row(), folder)[0] == 0)


def test_splits_share_no_combination_and_cover_all_parts() -> None:
    pools: dict[Split, list[Combination]] = {s: tasks.combinations(s) for s in SPLITS}
    keys = {split: {c.key for c in pool} for split, pool in pools.items()}
    assert not keys["eval"] & (keys["warmup"] | keys["train"])
    assert not keys["train"] & keys["warmup"]
    for pool in pools.values():
        assert {c.module for c in pool} == set(tasks.MODULES)
        assert {c.function for c in pool} == set(tasks.FUNCTIONS)


def test_sampled_tasks_belong_to_their_split_and_differ() -> None:
    for split in SPLITS:
        sampled = tasks.sample_tasks(3, split, 200)
        assert {task.row()["split"] for task in sampled} == {split}
        assert len({task.task_id for task in sampled}) == 200


def test_rows_depend_on_the_seed_alone() -> None:
    def rows(seed: int) -> str:
        return tasks.write_jsonl(task.row() for task in tasks.sample_tasks(seed, "train", 20))

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)


@pytest.mark.parametrize("seed", range(20))
def test_what_the_demonstrator_says_is_parsed_back(seed: int) -> None:
    rng = random.Random(seed)
    task = rng.choice(SAMPLE)
    command = demonstrator.attempt(rng, task, CLUMSY).command()
    assert demonstrator.parse(demonstrator.call(command)) == command


def test_finish_is_told_from_a_command_and_from_prose() -> None:
    assert demonstrator.parse(demonstrator.FINISH) == ""
    assert demonstrator.parse("I fixed it") is None
    assert demonstrator.parse(demonstrator.call("ls").removesuffix("</function>")) is None


def test_a_faultless_demonstrator_repairs_at_once() -> None:
    faultless = Skill(1.0, 1.0, 1.0, 1.0)
    for task in SAMPLE:
        edit = demonstrator.attempt(random.Random(0), task, faultless)
        assert edit == demonstrator.gold(task)
        workspace = SimulatedWorkspace(task)
        assert workspace.run(edit.command()) == "PASSED"
        assert workspace.grade() == 1.0


def test_the_demonstrator_errs_as_often_as_told() -> None:
    rng, skill = random.Random(0), Skill(0.25, 0.7, 0.85, 0.7)
    wanted = [(task, demonstrator.attempt(rng, task, skill)) for task in SAMPLE for _ in range(100)]
    share = sum(edit.in_place for _, edit in wanted) / len(wanted)
    assert abs(share - skill.in_place) < 0.03
    first_try = sum(edit == demonstrator.gold(task) for task, edit in wanted) / len(wanted)
    assert abs(first_try - skill.first_try) < 0.03
