"""The rollout driver: every end is graded, every infrastructure failure is reward-less."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx
import pytest

from tests.factories.scripted_policy import FINISH, ScriptedPolicy, bash
from tests.factories.stub_runtime import StubRuntime, StubSandbox, result
from workers.contract.reports import InvalidReason, RolloutEnd, RolloutReport, RolloutState
from workers.contract.sandbox_api import ExecRequest, ExecResult, SandboxErrorCode
from workers.contract.tasks import ChatMessage, Task
from workers.training.core.agents.shell import ShellLimits
from workers.training.core.broker_client import AttachedBroker
from workers.training.core.clock import Clock
from workers.training.core.graders import HiddenTestsGrader
from workers.training.core.rollout import RolloutDriver, RolloutResult, RolloutSettings
from workers.training.core.workspace import File

TASK = Task(
    task_id="t1",
    prompt=(ChatMessage(role="user", content="mend it"),),
    files={"a.py": "1\n"},
    tests={"hidden.py": "test"},
    test_command="python3 hidden.py",
)
LIMITS = ShellLimits(
    max_turns=5,
    turn_tokens=1000,
    total_tokens=10_000,
    wall_s=30,
    command_timeout_s=5,
    observation_chars=200,
)


@dataclass
class Kept:
    reports: list[RolloutReport] = field(default_factory=list)

    def put(self, report: RolloutReport) -> None:
        self.reports.append(report)

    def close(self) -> None: ...


@dataclass
class World:
    """One attached runtime and a driver on it."""

    runtime: StubRuntime = field(default_factory=StubRuntime)
    kept: Kept = field(default_factory=Kept)
    limits: ShellLimits = LIMITS
    retries: int = 1

    async def driver(self) -> RolloutDriver:
        broker = AttachedBroker(self.runtime.client())
        await broker.start()
        settings = RolloutSettings(self.limits, grade_timeout_s=5, retries=self.retries)
        return RolloutDriver(
            broker, HiddenTestsGrader(), self.kept, settings, ids=lambda: "ro", clock=Clock()
        )

    async def run(self, policy: ScriptedPolicy, task: Task = TASK) -> RolloutResult:
        driver = await self.driver()
        return await driver.run(task, step=1, group="g", sample=0, policy=lambda: policy)


def edit(sandbox: StubSandbox, request: ExecRequest) -> ExecResult:
    """Any command changes the file."""
    sandbox.files["testbed/a.py"] = File(b"2\n")
    return result("done\n")


def edited() -> World:
    return World(StubRuntime(command=edit))


async def test_a_repair_that_passes_the_hidden_tests_is_worth_one() -> None:
    world = edited()
    done = await world.run(ScriptedPolicy([bash("sed -i s/1/2/ a.py"), FINISH]))
    report = done.report
    assert (report.state, report.end, report.reward) == (
        RolloutState.SCORED,
        RolloutEnd.FINISHED,
        1.0,
    )
    assert report.patch.endswith("-1\n+2\n")
    assert report.grade is not None
    assert report.grade.sandbox_id not in (None, report.sandbox_id)
    assert (report.calls.turns, report.calls.parsed, report.calls.executed) == (2, 1, 1)
    assert done.record is not None
    assert report.trainable_tokens == done.record.trainable_tokens > 0
    assert set(report.phase_s) == {"acquire", "setup", "policy", "tools", "patch", "grade"}
    assert world.runtime.sandboxes == {}


async def test_tool_turns_carry_the_host_name_that_a_command_inside_printed() -> None:
    done = await edited().run(ScriptedPolicy([bash("x")]))
    assert done.report.hostname == "box1"
    assert [t.hostname for t in done.report.turns if t.role == "tool"] == ["box1"]


async def test_commands_that_run_elsewhere_are_an_audit_failure() -> None:
    world = World(StubRuntime(hostname="trainer-node"))
    done = await world.run(ScriptedPolicy([bash("x")]))
    assert done.report.invalid_reason is InvalidReason.AUDIT_FAILED
    assert done.reward is None


async def test_failing_tests_are_worth_nothing_but_are_graded() -> None:
    world = World(StubRuntime(command=edit, verdict=lambda _: {"a": True, "b": False}))
    done = await world.run(ScriptedPolicy([bash("x")]))
    assert (done.state, done.reward) == (RolloutState.SCORED, 0.0)
    assert done.report.grade is not None
    assert [(t.name, t.passed) for t in done.report.grade.tests] == [("a", True), ("b", False)]


async def test_an_empty_patch_is_zero_without_a_container() -> None:
    world = World()
    done = await world.run(ScriptedPolicy([FINISH]))
    assert (done.state, done.reward, done.report.patch) == (RolloutState.SCORED, 0.0, "")
    assert done.report.grade is not None
    assert done.report.grade.sandbox_id is None
    assert len(world.runtime.created) == 1


def plant(name: str) -> Callable[[StubSandbox, ExecRequest], ExecResult]:
    def command(sandbox: StubSandbox, request: ExecRequest) -> ExecResult:
        sandbox.files[f"testbed/{name}"] = File(b"print('all passed')\n")
        return result()

    return command


@pytest.mark.parametrize("name", ["hidden.py", "hidden.py/x", "conftest.py", "json.py", "d/a.pth"])
async def test_files_that_could_touch_the_judging_never_reach_the_grader(name: str) -> None:
    world = World(StubRuntime(command=plant(name)))
    done = await world.run(ScriptedPolicy([bash("x")]))
    assert done.reward == 0.0
    assert done.report.grade is not None
    assert done.report.grade.sandbox_id is None
    assert "not applied" in done.report.grade.log_tail


async def test_a_task_without_tests_is_invalid_and_not_tried_again() -> None:
    world = edited()
    done = await world.run(ScriptedPolicy([bash("x")]), TASK.model_copy(update={"tests": {}}))
    assert (done.state, done.report.invalid_reason) == (
        RolloutState.INVALID,
        InvalidReason.NO_TESTS,
    )
    assert done.reward is None
    assert len(world.kept.reports) == 1


async def test_a_result_that_contradicts_the_exit_code_is_no_result() -> None:
    world = World(StubRuntime(command=edit, grader_exit=1))
    done = await world.run(ScriptedPolicy([bash("x")]))
    assert done.report.invalid_reason is InvalidReason.GRADER_FAILED
    assert "disagree" in done.report.detail


@pytest.mark.parametrize("verdict", [None, {}])
async def test_no_result_is_never_a_zero(verdict: dict[str, bool] | None) -> None:
    world = World(StubRuntime(command=edit, verdict=lambda _: verdict, grader_exit=0))
    done = await world.run(ScriptedPolicy([bash("x")]))
    assert done.state is RolloutState.INVALID
    assert done.reward is None


async def test_a_lost_sandbox_is_tried_again_and_both_tries_are_told() -> None:
    world = edited()
    # The first exec is the probe, the second the agent's command.
    world.runtime.command = fail_first(SandboxErrorCode.NOT_FOUND, world.runtime)
    policy = ScriptedPolicy([bash("x"), FINISH])
    done = await world.run(policy)
    first, second = world.kept.reports
    assert (first.state, first.invalid_reason, first.try_number) == (
        RolloutState.INVALID,
        InvalidReason.SANDBOX_LOST,
        1,
    )
    assert (first.reward, first.trainable_tokens) == (None, 0)
    assert (second.state, second.reward, second.try_number) == (RolloutState.SCORED, 1.0, 2)
    assert first.sandbox_id != second.sandbox_id
    assert policy.starts[0] == policy.starts[1]
    assert done.report == second


def fail_first(
    code: SandboxErrorCode, runtime: StubRuntime
) -> Callable[[StubSandbox, ExecRequest], ExecResult]:
    """The next exec after the probe fails; those after it edit."""
    runtime.fail("exec")
    original = runtime.answer
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/exec") and b"x" in request.content and not seen:
            body = ExecRequest.model_validate_json(request.content)
            if body.command is not None:
                seen.append("once")
                runtime.fail("exec", code)
        return original(request)

    runtime.answer = answer  # type: ignore[method-assign]
    return edit


async def test_when_every_try_fails_the_rollout_is_invalid_without_reward() -> None:
    world = edited()
    world.runtime.fail("create", *[SandboxErrorCode.FAILED] * 2)
    done = await world.run(ScriptedPolicy([bash("x")]))
    assert (done.state, done.reward, done.record) == (RolloutState.INVALID, None, None)
    assert [r.try_number for r in world.kept.reports] == [1, 2]


async def test_a_policy_that_does_not_answer_is_the_gateways_fault() -> None:
    world = edited()
    done = await world.run(ScriptedPolicy([bash("x")], fail_turns={1}))
    assert world.kept.reports[0].invalid_reason is InvalidReason.GATEWAY_FAILED
    assert done.reward == 1.0


async def test_grading_is_repeated_on_a_fresh_sandbox_without_repeating_the_agent() -> None:
    world = edited()
    policy = ScriptedPolicy([bash("x"), FINISH])

    def lose_first_grader(sandbox: StubSandbox) -> dict[str, bool] | None:
        return None if sandbox.out.client_key.endswith("grader-1") else {"t": True}

    world.runtime.verdict = lose_first_grader
    done = await world.run(policy)
    assert done.reward == 1.0
    assert len(policy.starts) == 1
    assert [c.purpose for c in world.runtime.created] == ["agent", "grader", "grader"]


async def test_no_more_sandboxes_live_at_once_than_there_are_slots() -> None:
    world = World(StubRuntime(command=edit, slots=2))
    driver = await world.driver()
    rollouts = [
        driver.run(TASK, step=1, group="g", sample=i, policy=lambda: ScriptedPolicy([bash("x")]))
        for i in range(8)
    ]
    assert [r.reward for r in await asyncio.gather(*rollouts)] == [1.0] * 8
    assert world.runtime.alive_most <= 2


async def test_a_cancelled_rollout_gives_its_sandbox_back_and_says_so() -> None:
    world = edited()
    driver = await world.driver()
    policy = ScriptedPolicy([bash("x")], hang_on=2)
    running = asyncio.create_task(
        driver.run(TASK, step=1, group="g", sample=0, policy=lambda: policy), name="rollout"
    )
    while policy.asked < 2:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert world.runtime.sandboxes == {}
    assert [r.state for r in world.kept.reports] == [RolloutState.CANCELLED]


async def test_a_mistake_of_ours_still_ends_the_rollout_with_a_report() -> None:
    world = edited()
    policy = ScriptedPolicy([bash("x")])
    policy.texts = [None]  # type: ignore[list-item]
    with pytest.raises(AttributeError):
        await world.run(policy)
    assert [r.state for r in world.kept.reports] == [RolloutState.CANCELLED]
    assert "AttributeError" in world.kept.reports[0].detail
    assert world.runtime.sandboxes == {}


async def test_the_image_files_are_not_the_agents_doing() -> None:
    """The stub's sandboxes are empty; a file of the image appears before the agent acts."""
    world = edited()
    original = world.runtime._create

    def create(request: object) -> httpx.Response:
        response = original(request)  # type: ignore[arg-type]
        for sandbox in world.runtime.sandboxes.values():
            sandbox.files.setdefault("testbed/README", File(b"of the image\n"))
        return response

    world.runtime._create = create  # type: ignore[method-assign]
    done = await world.run(ScriptedPolicy([bash("x")]))
    assert "README" not in done.report.patch


# --- how rollouts end ----------------------------------------------------------------------------


async def test_the_turn_limit_ends_a_rollout_and_it_is_graded() -> None:
    world = edited()
    done = await world.run(ScriptedPolicy([bash(str(i)) for i in range(9)]))
    assert (done.report.end, done.reward) == (RolloutEnd.MAX_STEPS, 1.0)
    assert done.report.calls.executed == LIMITS.max_turns


async def test_a_turn_cut_by_length_ends_the_rollout_and_nothing_is_observed_after_it() -> None:
    policy = ScriptedPolicy([bash("x")], stop="length")
    done = await edited().run(policy)
    assert done.report.end is RolloutEnd.MAX_TOKENS
    assert policy.observed == []


async def test_no_room_for_an_observation_ends_the_rollout() -> None:
    done = await edited().run(ScriptedPolicy([bash("x"), bash("y")], room=2))
    assert (done.report.end, done.reward) == (RolloutEnd.MAX_TOKENS, 1.0)


async def test_the_token_budget_of_a_rollout_is_kept() -> None:
    world = edited()
    world.limits = ShellLimits(5, 1000, len(bash("x")), 30, 5, 200)
    done = await world.run(ScriptedPolicy([bash("x")] * 5))
    assert (done.report.end, done.report.calls.turns) == (RolloutEnd.MAX_TOKENS, 1)


async def test_wall_time_ends_a_rollout_whose_policy_takes_too_long() -> None:
    world = edited()
    world.limits = ShellLimits(5, 1000, 1000, 0.1, 5, 200)
    done = await world.run(ScriptedPolicy([bash("x")], hang_on=2))
    assert (done.report.end, done.reward) == (RolloutEnd.WALL_TIME, 1.0)


async def test_the_same_action_with_the_same_outcome_again_and_again_is_stuck() -> None:
    world = World()
    done = await world.run(ScriptedPolicy([bash("ls")] * 9))
    assert (done.report.end, done.report.calls.turns) == (RolloutEnd.STUCK, 4)


async def test_a_turn_without_a_call_is_counted_by_kind_and_answered() -> None:
    policy = ScriptedPolicy(["I think.", "<function=browse></function>", FINISH])
    done = await World().run(policy)
    assert done.report.calls.malformed == {"no_call": 1, "unknown_tool": 1}
    assert policy.observed == ["No tool was run: no_call.", "No tool was run: unknown_tool."]


async def test_observations_are_the_stripped_output_and_long_ones_lose_their_middle() -> None:
    world = World(StubRuntime(command=lambda s, r: result("a" * 500 + "b" * 500)))
    policy = ScriptedPolicy([bash("x"), FINISH])
    await world.run(policy)
    assert len(policy.observed[0]) <= LIMITS.observation_chars
    assert policy.observed[0].startswith("aaa")
    assert policy.observed[0].endswith("bbb")


async def test_silence_with_a_failure_shows_the_exit_code() -> None:
    world = World(StubRuntime(command=lambda s, r: result("", 3)))
    policy = ScriptedPolicy([bash("x"), FINISH])
    await world.run(policy)
    assert policy.observed == ["[exit code 3]"]
