"""One true run per scheduler: real containers, real verl steps, processes killed on the way."""

import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.cli.client import ApiClient
from app.specfile import read_document
from examples.demo import __main__ as demo
from examples.demo.places import LocalPlace
from examples.demo.watch import pages

FINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}
SMALL = [
    "trainer.steps=3",
    "trainer.prompts_per_step=2",
    "trainer.rollouts_per_prompt=4",
    "trainer.micro_batch=8",
    "trainer.save_every=2",
    "trainer.evaluate_before_after=false",
    "runtime.slots=4",
    "runtime.warm=2",
]
DEADLINE_S = 420


@pytest.fixture(scope="module")
def paths() -> dict[str, str]:
    return demo._paths()


@pytest.fixture(scope="module")
def world(paths: dict[str, str]) -> Path:
    return demo.make_world(paths, seed=1)


@pytest.fixture(
    params=["local", pytest.param("slurm", marks=pytest.mark.slurm)],
)
def place(
    request: pytest.FixtureRequest, paths: dict[str, str], tmp_path: Path
) -> Iterator[LocalPlace]:
    made = demo.make_place(request.param, paths)
    # Short: unix sockets lie below it. The Slurm user must reach it, so not pytest's 0700 folder.
    made.home = Path("/var/tmp") / f"skydeck-test-{uuid.uuid4().hex[:8]}"
    made.log = tmp_path / "up.log"
    made.prepare()
    yield made
    made.stop()


@pytest.mark.timeout(DEADLINE_S + 120)
def test_a_run_trains_for_real_although_both_processes_are_killed_on_the_way(
    place: LocalPlace, world: Path, paths: dict[str, str]
) -> None:
    api, homes = place.start(), _homes()
    run = _launch(api, place, world, paths)
    running = _until(api, run["id"], lambda r: r["state"] == "RUNNING" or r["state"] in FINAL)
    assert running["state"] == "RUNNING", _why(api, running, place)
    before = {job["name"]: job["scheduler_id"] for job in running["jobs"]}

    _kill_child(place, "reconciler")
    _kill_child(place, "web")
    ended = _until(api, run["id"], lambda r: r["state"] in FINAL)

    assert ended["state"] == "SUCCEEDED", _why(api, ended, place)
    assert {job["name"]: job["scheduler_id"] for job in ended["jobs"]} == before
    assert ended["attempt"] == 1
    _assert_four_truths(api, ended)
    _assert_commands_ran_in_sandboxes(api, ended)
    _assert_nothing_of_the_agents_is_on_the_host(place)
    assert _homes() <= homes, "the runtime left its folder behind"


@pytest.mark.timeout(DEADLINE_S)
@pytest.mark.parametrize("victim", ["runtime", "trainer"])
def test_when_one_job_dies_the_other_is_released_and_the_run_says_why(
    place: LocalPlace, world: Path, paths: dict[str, str], victim: str
) -> None:
    api = place.start()
    extra = ["policy.max_attempts=1", "runtime.max_replacements=0", "trainer.steps=500"]
    run = _launch(api, place, world, paths, *extra)
    running = _until(api, run["id"], lambda r: r["state"] in {"RUNNING", *FINAL})
    assert running["state"] == "RUNNING", _why(api, running, place)

    _kill_worker(running["id"], victim)
    ended = _until(api, run["id"], lambda r: r["state"] in FINAL, seconds=90)

    assert ended["state"] == "FAILED", _why(api, ended, place)
    assert ended["reason"].startswith(victim) or ended["reason"] == "exit_record_missing"
    ends = sorted(job["ended_at"] for job in ended["jobs"])
    assert all(ends), "a job was left behind"
    from datetime import datetime

    apart = datetime.fromisoformat(ends[1]) - datetime.fromisoformat(ends[0])
    assert apart.total_seconds() < 60


def _launch(
    api: ApiClient, place: LocalPlace, world: Path, paths: dict[str, str], *extra: str
) -> dict[str, Any]:
    sets = [
        f"data.train_file={world / 'train.jsonl'}",
        f"data.eval_file={world / 'eval.jsonl'}",
        f"trainer.model_path={world / 'model'}",
        f"trainer.python={paths['train_python']}",
        f'runtime.image_archives=["{paths["image_archive"]}"]',
        *SMALL,
        *extra,
    ]
    return api.post("/runs", {"spec": read_document(demo.SPEC), "sets": sets})


def _until(
    api: ApiClient,
    run_id: str,
    done: Callable[[dict[str, Any]], bool],
    seconds: float = DEADLINE_S,
) -> dict[str, Any]:
    pause = threading.Event().wait
    for _ in range(int(seconds)):
        run = api.get(f"/runs/{run_id}")
        if done(run):
            return run
        pause(1.0)
    return run


def _why(api: ApiClient, run: dict[str, Any], place: LocalPlace) -> str:
    logs = [api.get(f"/runs/{run['id']}/logs/{role}")["text"][-3000:] for role in _roles(run)]
    return f"{run['state']} {run['reason']} {run['reason_detail']}\n" + "\n".join(
        [*logs, place.log.read_text()[-2000:]]
    )


def _roles(run: dict[str, Any]) -> set[str]:
    return {job["role"] for job in run["jobs"]}


def _kill_child(place: LocalPlace, name: str) -> None:
    """Kill -9 one of the two processes that `skydeck up` keeps alive."""
    found = [child for child in _tree(place) if child.cmdline()[1:4] == ["-m", "app", name]]
    assert found, f"no {name} process"
    found[0].send_signal(signal.SIGKILL)
    found[0].wait(10)


def _tree(place: LocalPlace) -> list[psutil.Process]:
    assert place.process is not None
    return psutil.Process(place.process.pid).children(recursive=True)


def _kill_worker(run_id: str, role: str) -> None:
    """Kill -9 the worker process of a job, found by the variables that only it has."""
    module = {"runtime": "workers.runtime", "trainer": "workers.training"}[role]
    for process in psutil.process_iter():
        try:
            argv, environment = process.cmdline(), process.environ()
        except psutil.Error:
            continue
        if module in argv and f"-{run_id}-" in environment.get("SKYDECK_JOB_NAME", ""):
            os.kill(process.pid, signal.SIGKILL)


def _assert_four_truths(api: ApiClient, run: dict[str, Any]) -> None:
    totals = run["totals"]
    assert totals["executed"] > 0, "no tool call was executed"
    assert totals["graded"] > 0, "no rollout was graded by tests"
    assert totals["trainable_tokens"] > 0, "no token was trainable"
    steps = pages(api, f"/runs/{run['id']}/steps")
    assert [step["number"] for step in steps] == [1, 2, 3]
    assert any(step["groups_with_advantage"] for step in steps), "no group had an advantage"
    marks = pages(api, f"/runs/{run['id']}/checkpoints")
    assert any(mark["complete"] for mark in marks), "no checkpoint is complete"


def _assert_commands_ran_in_sandboxes(api: ApiClient, run: dict[str, Any]) -> None:
    sandboxes = {row["id"] for row in pages(api, f"/runs/{run['id']}/sandboxes")}
    rollouts = pages(api, f"/runs/{run['id']}/rollouts")
    shown = [
        api.get(f"/runs/{run['id']}/rollouts/{row['id']}")
        for row in rollouts
        if row["calls_executed"]
    ]
    hostnames = {
        turn["hostname"] for row in shown for turn in row["turns"] if turn["exit_code"] is not None
    }
    assert hostnames
    assert socket.gethostname() not in hostnames
    assert {row["sandbox_id"] for row in shown} <= sandboxes


def _assert_nothing_of_the_agents_is_on_the_host(place: LocalPlace) -> None:
    """The workspaces' check.py must exist nowhere but inside containers, which are gone."""
    assert list(place.home.rglob("check.py")) == []
    assert not Path("/testbed").exists()


def _homes() -> set[Path]:
    """Folders of the runtimes' private podmans."""
    return set(Path("/tmp").glob("sd-*"))
