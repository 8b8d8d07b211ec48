"""Scripted rollouts on the real runtime and real podman: what the stub cannot prove."""

import asyncio
import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.factories.http_control_plane import serving
from tests.factories.scripted_policy import FINISH, ScriptedPolicy, bash
from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.leases import LeaseOut
from workers.contract.reports import InvalidReason, RolloutEnd, RolloutReport, RolloutState
from workers.contract.spec import DataSpec, RunKind, RunSpec, RuntimeSpec
from workers.contract.tasks import Task
from workers.contract.version import CONTRACT_VERSION
from workers.training.core.agents.shell import ShellLimits
from workers.training.core.broker_client import AttachedBroker
from workers.training.core.build import open_driver
from workers.training.core.graders import HiddenTestsGrader
from workers.training.core.rollout import RolloutDriver, RolloutResult, RolloutSettings
from workers.training.core.sandbox_client import SandboxClient
from workers.training.tiny.tasks import sample_tasks

SLOTS = 4
START_S = 120.0
LIMITS = ShellLimits(
    max_turns=4,
    turn_tokens=4000,
    total_tokens=20_000,
    wall_s=30,
    command_timeout_s=10,
    observation_chars=2000,
)


@dataclass
class Runtime:
    url: str
    token: str
    process: subprocess.Popen[bytes]
    directory: Path

    def client(self) -> SandboxClient:
        return SandboxClient(self.url, self.token)


@pytest.fixture(scope="module")
def task_image() -> Path:
    """The archive of the small task image; built once, then taken from the cache."""
    built = subprocess.run(
        [sys.executable, "-m", "workers.runtime.images", "build-task", "--cache", str(_cache())],
        capture_output=True,
        text=True,
        timeout=280,
    )
    if built.returncode != 0:
        pytest.fail(f"the task image cannot be built:\n{built.stderr[-2000:]}")
    return Path(built.stdout.strip().splitlines()[-1])


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "skydeck"


@pytest.fixture(scope="module")
def runtime(task_image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """One real runtime job without a control plane."""
    # Unix sockets have short names, and pytest's folders do not.
    directory = tmp_path_factory.mktemp("r")
    directory.chmod(0o700)
    for name in (env.TOKEN_SANDBOX, env.TOKEN_RUNTIME):
        (directory / name).touch(mode=0o600)
        (directory / name).write_text(secrets.token_hex(16))
    spec = RunSpec(
        name="core",
        kind=RunKind.RUNTIME_ONLY,
        runtime=RuntimeSpec(slots=SLOTS, image_archives=(str(task_image),)),
    )
    attempt = AttemptFile(
        contract_version=CONTRACT_VERSION,
        installation="test",
        run_id="core",
        attempt=1,
        attempt_dir=str(directory),
        control_plane_file=str(directory / env.CONTROL_PLANE_FILE),
        spec=spec,
    )
    (directory / env.ATTEMPT_FILE_NAME).write_text(attempt.model_dump_json())
    log = directory / "runtime.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers.runtime"],
            env={
                **os.environ,
                env.ATTEMPT_FILE: str(directory / env.ATTEMPT_FILE_NAME),
                env.ROLE: "runtime",
                env.INDEX: "0",
                env.GENERATION: "1",
                env.JOB_NAME: f"sd-core-{directory.name}",
            },
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = asyncio.run(_serving(process, log))
        yield Runtime(url, (directory / env.TOKEN_SANDBOX).read_text(), process, directory)
    finally:
        process.terminate()
        process.wait(60)


async def _serving(process: subprocess.Popen[bytes], log: Path) -> str:
    for _ in range(int(START_S / 0.1)):
        words = log.read_text(errors="replace").split("serving at ")
        if len(words) > 1 and "\n" in words[1]:
            return words[1].split()[0].rstrip(",;")
        if process.poll() is not None:
            break
        await asyncio.sleep(0.1)
    pytest.fail(f"the runtime does not serve:\n{log.read_text(errors='replace')[-3000:]}")


@dataclass
class Kept:
    reports: list[RolloutReport] = field(default_factory=list)

    def put(self, report: RolloutReport) -> None:
        self.reports.append(report)

    def close(self) -> None: ...


@dataclass
class World:
    runtime: Runtime
    driver: RolloutDriver
    kept: Kept

    async def run(self, task: Task, *commands: str, sample: int = 0) -> RolloutResult:
        texts = [*(bash(command) for command in commands), FINISH]
        policy = ScriptedPolicy(texts)
        return await self.driver.run(task, step=1, group="g", sample=sample, policy=lambda: policy)


@pytest.fixture
async def world(runtime: Runtime) -> AsyncGenerator[World, None]:
    broker = AttachedBroker(runtime.client())
    await broker.start()
    kept = Kept()
    driver = RolloutDriver(
        broker,
        HiddenTestsGrader(),
        kept,
        RolloutSettings(LIMITS, grade_timeout_s=10, retries=1),
        ids=lambda: f"ro-{secrets.token_hex(4)}",
    )
    yield World(runtime, driver, kept)
    await driver.close()


@pytest.fixture(scope="module")
def task() -> Task:
    row = sample_tasks(7, "train", 1)[0].row()
    return Task.model_validate({name: row[name] for name in Task.model_fields if name in row})


def gold(task: Task) -> str:
    """A command that applies the task's own repair."""
    patch = base64.b64encode(task.gold_patch.encode()).decode()
    return f"echo {patch} | base64 -d | patch -p1"


def target(task: Task) -> str:
    return task.gold_patch.split("\n")[0].removeprefix("--- a/")


async def test_the_right_repair_is_worth_one(world: World, task: Task) -> None:
    done = await world.run(task, gold(task), "python3 check.py")
    assert (done.state, done.report.end, done.reward) == (
        RolloutState.SCORED,
        RolloutEnd.FINISHED,
        1.0,
    ), done.report.detail
    assert done.report.patch.splitlines()[1:] == task.gold_patch.splitlines()
    assert done.report.turns[-2].text == "PASSED"
    assert done.report.grade is not None
    assert len(done.report.grade.tests) == 12
    assert done.report.calls.executed == 2


async def test_a_wrong_repair_is_worth_nothing(world: World, task: Task) -> None:
    done = await world.run(task, f"echo 'x = 1' >> {target(task)}")
    assert (done.state, done.reward) == (RolloutState.SCORED, 0.0)
    assert done.report.grade is not None
    assert done.report.grade.sandbox_id is not None


async def test_every_task_of_the_demo_is_solved_by_its_own_repair_and_by_nothing_else(
    world: World,
) -> None:
    rows = [t.row() for t in sample_tasks(11, "eval", 6)]
    tasks = [Task.model_validate({k: r[k] for k in Task.model_fields if k in r}) for r in rows]
    right = [world.run(t, gold(t)) for t in tasks]
    wrong = [world.run(t, "touch other.py") for t in tasks]
    done = await asyncio.gather(*right, *wrong)
    assert [d.reward for d in done] == [1.0] * 6 + [0.0] * 6


async def test_commands_ran_in_the_sandbox_and_not_here(world: World, task: Task) -> None:
    name = f"canary-{secrets.token_hex(8)}"
    done = await world.run(task, f"touch {name} /tmp/{name}; hostname; pwd")
    printed = done.report.turns[2].text.splitlines()
    assert printed == [done.report.hostname, task.workdir]
    assert done.report.hostname != socket.gethostname()
    assert done.report.turns[2].hostname == done.report.hostname
    found = subprocess.run(
        ["find", "/tmp", "/testbed", "/root", str(Path.cwd()), "-name", f"*{name}*"],
        capture_output=True,
        text=True,
    )
    assert found.stdout == ""


async def test_hidden_tests_cannot_be_seen_and_edits_of_them_have_no_effect(
    world: World, task: Task
) -> None:
    forged = "import sys,os,json;p=os.environ['SKYDECK_RESULTS']"
    done = await world.run(task, "ls", f'echo "{forged}" > hidden_tests.py')
    assert "hidden_tests.py" not in done.report.turns[2].text
    assert done.reward == 0.0
    both = await world.run(task, f'echo "{forged}" > hidden_tests.py', gold(task))
    assert both.reward == 1.0


@pytest.mark.parametrize(
    "code",
    [
        "print('12 passed')",
        "import os; os.system('echo forged')",
        "import os,json; print(json.dumps({'tests': {'all': True}}), flush=True); os._exit(0)",
        "import os; os._exit(0)",
    ],
)
async def test_what_the_agents_code_prints_or_exits_with_is_no_result(
    world: World, task: Task, code: str
) -> None:
    done = await world.run(task, f"echo {base64.b64encode(code.encode()).decode()}"
                                 f" | base64 -d >> {target(task)}")  # fmt: skip
    assert done.reward in (0.0, None)
    assert done.report.grade is None or not done.report.grade.passed


async def test_code_that_writes_to_our_stream_spoils_the_result_and_gains_nothing(
    world: World, task: Task
) -> None:
    code = (
        "import os\n"
        "for n in (os.getppid(), os.getpid()):\n"
        "    for fd in (1, 3):\n"
        "        try: open(f'/proc/{n}/fd/{fd}', 'w').write('{\"tests\": {\"x\": true}}')\n"
        "        except OSError: pass\n"
    )
    text = base64.b64encode(code.encode()).decode()
    done = await world.run(task, f"echo {text} | base64 -d >> {target(task)}")
    assert done.reward in (0.0, None)


async def test_a_shadow_of_the_standard_library_does_not_run_in_the_grader(
    world: World, task: Task
) -> None:
    code = (
        "import os; open(os.environ['SKYDECK_RESULTS'], 'w').write('{\"tests\": {\"x\": true}}');"
        "os._exit(0)"
    )
    text = base64.b64encode(code.encode()).decode()
    done = await world.run(task, f"echo {text} | base64 -d > json.py")
    assert done.reward == 0.0


async def test_a_symbolic_link_instead_of_a_file_leads_nowhere(world: World, task: Task) -> None:
    name = target(task)
    done = await world.run(task, f"rm {name} && ln -s /etc/passwd {name}")
    assert done.reward == 0.0
    assert "root:" not in done.report.patch
    assert "not a regular file" in done.report.detail


async def test_an_agent_that_makes_its_workspace_unreadable_is_graded_with_nothing(
    world: World, task: Task
) -> None:
    done = await world.run(task, gold(task), "chmod 000 .")
    assert (done.state, done.reward) == (RolloutState.SCORED, 0.0)


async def test_a_command_that_hangs_is_ended_and_the_rollout_goes_on(
    world: World, task: Task
) -> None:
    done = await world.run(task, "timeout 1 sleep 60; echo over", gold(task))
    assert done.reward == 1.0


async def test_code_that_never_ends_is_no_zero_but_no_result(world: World, task: Task) -> None:
    world.driver._settings = RolloutSettings(LIMITS, grade_timeout_s=2, retries=1)
    done = await world.run(task, f"echo 'while True: pass' >> {target(task)}")
    assert (done.state, done.report.invalid_reason) == (
        RolloutState.INVALID,
        InvalidReason.GRADER_FAILED,
    )
    assert done.reward is None


async def test_a_sandbox_killed_in_the_middle_is_tried_again(world: World, task: Task) -> None:
    policy = ScriptedPolicy([bash("sleep 3"), bash(gold(task)), FINISH])
    running = asyncio.create_task(
        world.driver.run(task, step=1, group="g", sample=0, policy=lambda: policy)
    )
    while policy.asked < 1:
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    await _kill_one_agent(world.runtime)
    done = await running
    first, second = world.kept.reports
    assert (first.state, first.reward, first.try_number) == (RolloutState.INVALID, None, 1)
    assert first.invalid_reason is InvalidReason.SANDBOX_LOST
    assert (second.state, second.reward, second.try_number) == (RolloutState.SCORED, 1.0, 2)
    assert done.report == second


async def _kill_one_agent(runtime: Runtime) -> None:
    """Takes the sandbox away under the rollout, as an expired lifetime would."""
    client = runtime.client()
    http = client._http
    listed = (await http.get("/v1/sandboxes")).json()["sandboxes"]
    alive = [s for s in listed if s["state"] == "READY" and s["purpose"] == "agent"]
    assert len(alive) == 1, json.dumps(listed)
    await client.delete(alive[0]["sandbox_id"])
    await client.close()


async def test_every_sandbox_is_given_back(world: World, task: Task) -> None:
    await asyncio.gather(*(world.run(task, gold(task), sample=i) for i in range(8)))
    client = world.runtime.client()
    assert (await client.health()).slots_used == 0
    await client.close()


async def test_a_driver_made_from_the_attempt_file_leases_runs_and_reports(
    runtime: Runtime, task: Task, tmp_path: Path
) -> None:
    (tmp_path / env.TOKEN_SANDBOX).touch(mode=0o600)
    (tmp_path / env.TOKEN_SANDBOX).write_text(runtime.token)
    attempt = AttemptFile(
        contract_version=CONTRACT_VERSION,
        installation="test",
        run_id="r1",
        attempt=1,
        attempt_dir=str(tmp_path),
        control_plane_file=str(tmp_path / env.CONTROL_PLANE_FILE),
        spec=RunSpec(name="n", data=DataSpec(system_prompt="be brief")),
    )
    (tmp_path / env.ATTEMPT_FILE_NAME).write_text(attempt.model_dump_json())
    with serving(tmp_path) as plane:
        plane.leases = (_lease(runtime),)
        driver = await open_driver(tmp_path / env.ATTEMPT_FILE_NAME)
        policy = ScriptedPolicy([bash(gold(task)), FINISH])
        done = await driver.run(
            task, step=3, group="g", sample=1, policy=lambda: policy, validation=True
        )
        await driver.close()
        reports = plane.reports()
    assert done.reward == 1.0
    assert reports == [done.report]
    assert (done.report.runtime_index, done.report.runtime_generation) == (0, 1)
    assert policy.starts[0][0] == {"role": "system", "content": "be brief"}


def _lease(runtime: Runtime) -> LeaseOut:
    return LeaseOut(
        lease_id="l1",
        runtime_index=0,
        generation=1,
        url=runtime.url,
        slots=SLOTS,
        expires_at="2099-01-01T00:00:00Z",
        expires_in_s=60,
    )


def test_the_runtime_ends_on_sigterm(runtime: Runtime) -> None:
    """Last of the module: what it leaves behind is the runtime's own test."""
    runtime.process.send_signal(signal.SIGTERM)
    assert runtime.process.wait(60) is not None
