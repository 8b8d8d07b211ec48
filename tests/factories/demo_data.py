"""A database full of believable runs: for page tests and for the screenshots.

Everything here is invented. Numbers are drawn from a seeded generator, so two fills are alike.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from json import dumps
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import (
    Attempt,
    Checkpoint,
    Delivery,
    DeliveryTry,
    Event,
    Experiment,
    Finding,
    Installation,
    Job,
    ReconcilerLease,
    Rollout,
    RolloutBody,
    Run,
    Runtime,
    Sandbox,
    StepMetrics,
    Sweep,
    WebhookEndpoint,
)
from app.domain.spec import build_spec
from app.domain.states import (
    RUN_FINAL,
    CloseReason,
    Desired,
    JobState,
    Reason,
    Role,
    RunState,
    RuntimeState,
)
from app.services.text import clean
from workers.contract.env import log_path
from workers.contract.reports import InvalidReason, RolloutEnd, RolloutState
from workers.contract.sandbox_api import SandboxState
from workers.contract.spec import RunKind

RUNNING, FAILED, SUCCEEDED, CANCELLED = "running001", "failed0001", "succeed001", "cancel0001"
QUEUED = "queued0001"
HOSTILE_ROLLOUT = f"{RUNNING}-hostile"
PROMPTS, SAMPLES = 4, 8

HOSTILE_TEXT = (
    "<script>document.title='owned'</script>\n"
    "\"><img src=x onerror=alert(1)>' onmouseover='alert(2)\n"
    "[click](javascript:alert(3)) javascript:alert(4)\n"
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x00nul \x08\x7f\n"
    "safe \u202etxt.exe\u202c hidden\u200bspace \ufeffbom \u2066iso\u2069\n"
    "{{ 7*7 }} {% raw %} &lt;b&gt; </pre></textarea></title>\n"
)


@dataclass(frozen=True)
class Demo:
    """What was filled in, for tests that address it."""

    session: Session
    now: datetime
    folder: Path
    random: random.Random


def fill(session: Session, now: datetime, folder: Path, *, steps: int = 50) -> None:
    """Fill an empty, migrated database. ``folder`` receives the runs' log files."""
    demo = Demo(session, now, folder, random.Random(7))
    _world(demo)
    _running(demo, steps)
    _failed(demo)
    _succeeded(demo)
    _short_lived(demo)
    _sweep(demo)
    _webhooks(demo)
    session.flush()


def _world(demo: Demo) -> None:
    if (
        demo.session.get(Installation, "demo") is None
        and not demo.session.query(Installation).all()
    ):
        demo.session.add(Installation(id="demo", created_at=demo.now - timedelta(days=9)))
    demo.session.merge(
        ReconcilerLease(
            id=1,
            owner="login01:4711",
            expires_at=demo.now + timedelta(seconds=20),
            last_tick_at=demo.now - timedelta(seconds=2),
            scheduler_ok_at=demo.now - timedelta(seconds=2),
            scheduler_error="",
        )
    )
    for key, name in (("exp0000001", "one-word fixes"), ("exp0000002", "temperature study")):
        demo.session.add(
            Experiment(id=key, name=name, description="", created_at=demo.now - timedelta(days=3))
        )
    demo.session.flush()


def _spec(name: str, steps: int, **trainer: Any) -> tuple[dict[str, Any], dict[str, str]]:
    document = {
        "name": name,
        "experiment": "one-word fixes",
        "runtime": {"slots": 8, "warm": 2},
        "data": {"train_file": "/data/tasks/train.jsonl"},
        "trainer": {
            "model_path": "/data/models/tiny-qwen2",
            "steps": steps,
            "prompts_per_step": PROMPTS,
            "rollouts_per_prompt": SAMPLES,
            **trainer,
        },
    }
    spec, origins = build_spec(document, sets=["trainer.learning_rate=0.0004"])
    return spec.model_dump(mode="json"), origins


def _run(demo: Demo, key: str, state: RunState, age: timedelta, **more: Any) -> Run:
    spec, origins = _spec(more.get("name", key), more.pop("steps", 50))
    created = demo.now - age
    ended = more.pop("ended", None)
    run = Run(
        **{
            "id": key,
            "experiment_id": "exp0000001",
            "name": key,
            "kind": RunKind.COUPLED,
            "spec": spec,
            "origins": origins,
            "desired": Desired.RUNNING,
            "state": state,
            "created_by": "ada",
            "created_at": created,
            "started_at": created + timedelta(seconds=2),
            "state_since": ended or created + timedelta(seconds=40),
            "ended_at": ended,
            "next_check_at": demo.now,
            **more,
        }
    )
    demo.session.add(run)
    demo.session.flush()
    _event(demo, key, created, "run.created", f"Run {run.name} was created", actor="ada")
    return run


def _event(demo: Demo, run_id: str, at: datetime, kind: str, text: str, **more: Any) -> Event:
    event = Event(
        run_id=run_id,
        at=at,
        kind=kind,
        text=text,
        data=more.get("data", {}),
        actor=more.get("actor", "reconciler"),
    )
    demo.session.add(event)
    return event


def _attempt(demo: Demo, run: Run, number: int, **more: Any) -> Attempt:
    directory = demo.folder / run.id / f"a{number}"
    directory.mkdir(parents=True, exist_ok=True)
    attempt = Attempt(
        **{
            "run_id": run.id,
            "number": number,
            "directory": str(directory),
            "started_at": run.created_at,
            "trainer_hostname": "gpu-node-07",
            "trainer_registered_at": run.created_at + timedelta(seconds=38),
            **more,
        }
    )
    demo.session.add(attempt)
    return attempt


def _jobs(demo: Demo, run: Run, attempt: Attempt, states: tuple[JobState, JobState]) -> None:
    for number, (role, state) in enumerate(zip((Role.RUNTIME, Role.TRAINER), states, strict=True)):
        began = attempt.started_at + timedelta(seconds=4 + 24 * number)
        over = state not in (JobState.RUNNING, JobState.QUEUED, JobState.PLANNED)
        ran = state not in (JobState.QUEUED, JobState.PLANNED, JobState.NOT_SUBMITTED)
        demo.session.add(
            Job(
                run_id=run.id,
                attempt=attempt.number,
                role=role,
                index=0,
                generation=1,
                name=f"sd-demo-{run.id}-a{attempt.number}-{role}0-g1",
                state=state,
                scheduler_id=str(41_200 + demo.random.randrange(600)) if ran else None,
                raw_state=state.value,
                pending_reason="Resources" if state is JobState.QUEUED else "",
                exit_code=_exit_code(state) if over and ran else None,
                nodes=("cpu-node-02", "gpu-node-07")[number] if ran else "",
                exit_record=_exit_record(run, attempt, role, state) if over and ran else None,
                state_since=run.ended_at or began,
                submitted_at=began - timedelta(seconds=3) if ran else None,
                started_at=began if ran else None,
                ended_at=run.ended_at if over else None,
            )
        )
        if ran:
            _write_log(Path(attempt.directory), role)


def _exit_code(state: JobState) -> int:
    return 0 if state in (JobState.SUCCEEDED, JobState.CANCELLED) else 1


def _exit_record(run: Run, attempt: Attempt, role: Role, state: JobState) -> dict[str, Any]:
    good = state is JobState.SUCCEEDED
    return {
        "contract_version": 1,
        "run_id": run.id,
        "attempt": attempt.number,
        "role": role.value,
        "index": 0,
        "generation": 1,
        "result": "completed" if good else "failed",
        "exit_code": 0 if good else 1,
        "detail": "" if good else "CUDA out of memory while updating the actor (step 12)",
        "last_step": attempt.step,
    }


def _write_log(directory: Path, role: Role) -> None:
    times = (f"2026-01-23 13:{i // 60:02}:{i % 60:02}" for i in range(400))
    lines = [f"{at} {role} line {number}: all quiet" for number, at in enumerate(times)]
    lines[200] = "\x1b[33mWARN\x1b[0m <script>alert('log')</script> a coloured line"
    log_path(directory, role, 0, 1).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _running(demo: Demo, steps: int) -> None:
    age = timedelta(minutes=11)
    run = _run(demo, RUNNING, RunState.RUNNING, age, name="one-word fixes, seed 2", steps=60)
    attempt = _attempt(demo, run, 1, phase="sampling", step=steps, steps_total=60)
    attempt.trainer_heartbeat_at = demo.now - timedelta(seconds=3)
    _jobs(demo, run, attempt, (JobState.RUNNING, JobState.RUNNING))
    runtime = Runtime(
        run_id=run.id,
        attempt=1,
        index=0,
        generation=1,
        job_name=f"sd-demo-{run.id}-a1-runtime0-g1",
        state=RuntimeState.ACTIVE,
        url="http://cpu-node-02:40213",
        hostname="cpu-node-02",
        pid=9120,
        slots=8,
        slots_used=6,
        waiting=0,
        engine="podman 4.3.1, crun",
        limits=[
            {"name": "memory", "requested": "512 MiB", "enforced": True, "evidence": "killed"},
            {"name": "cpu", "requested": "1", "enforced": False, "evidence": "used 1.9 cores"},
        ],
        registered_at=run.created_at + timedelta(seconds=22),
        heartbeat_at=demo.now - timedelta(seconds=4),
    )
    demo.session.add(runtime)
    demo.session.flush()
    for to, after in ((RunState.STARTING_RUNTIME, 3), (RunState.STARTING_TRAINER, 25)):
        _event(demo, run.id, run.created_at + timedelta(seconds=after), "run.state", f"Run → {to}")
    _event(demo, run.id, run.created_at + timedelta(seconds=40), "run.state", "Run → RUNNING")
    _learn(demo, run, steps, every=timedelta(seconds=12), lift=0.55)
    _hostile(demo, run, steps)
    _sandboxes(demo, run)
    demo.session.add(
        Finding(
            run_id=run.id,
            attempt=1,
            code="limit_not_enforced",
            severity="warning",
            text="CPU limits are not enforced on cpu-node-02 (cgroup v1, rootless): a sandbox that "
            "asked for 1 core used 1.9. Results stay valid; steps may be slower.",
            at=run.created_at + timedelta(seconds=23),
        )
    )


def _learn(demo: Demo, run: Run, steps: int, every: timedelta, lift: float) -> None:
    for step in range(1, steps + 1):
        at = run.created_at + timedelta(seconds=45) + every * step
        chance = min(0.97, 0.16 + lift * step / 50 + demo.random.uniform(-0.05, 0.05))
        for number, reward in enumerate(_rewards(demo, chance)):
            demo.session.add(_rollout(demo, run, step, number, reward, at))
        demo.session.add(
            StepMetrics(
                run_id=run.id,
                attempt=1,
                step=step,
                at=at,
                metrics={
                    "actor/grad_norm": round(0.9 - step / 100 + demo.random.uniform(0, 0.3), 4),
                    "timing_s/step": round(8.4 + demo.random.uniform(-0.8, 1.6), 3),
                    "critic/score/mean": round(chance, 4),
                },
            )
        )
        _event(demo, run.id, at, "rollouts.reported", f"Step {step}: {PROMPTS * SAMPLES} rollouts")
        if step % 10 == 0:
            _checkpoint(demo, run, step, at)


def _rewards(demo: Demo, chance: float) -> Iterator[float | None]:
    for _ in range(PROMPTS * SAMPLES):
        if demo.random.random() < 0.012:
            yield None
        else:
            yield 1.0 if demo.random.random() < chance else 0.0


def _rollout(
    demo: Demo, run: Run, step: int, number: int, reward: float | None, at: datetime
) -> Rollout:
    group, sample = divmod(number, SAMPLES)
    told = step % 10 == 0 or step == 1
    calls = demo.random.choice((1, 2, 2, 3))
    end = demo.random.choice((RolloutEnd.FINISHED, RolloutEnd.FINISHED, RolloutEnd.MAX_STEPS))
    if told:  # what is counted agrees with the transcript
        calls, end = 1, RolloutEnd.FINISHED
    valid = reward is not None
    key = f"{run.id}-s{step}-{group}-{sample}"
    rollout = Rollout(
        id=key,
        run_id=run.id,
        attempt=1,
        step=step,
        group=f"s{step}-p{group}",
        sample=sample,
        try_number=1,
        task_id=f"swap-{(step * PROMPTS + group) % 240:04}",
        state=RolloutState.SCORED if valid else RolloutState.INVALID,
        end=end,
        invalid_reason=None if valid else InvalidReason.SANDBOX_LOST,
        detail="" if valid else "the runtime closed the sandbox while a command ran",
        reward=reward,
        graded=valid and (reward == 1.0 or demo.random.random() < 0.7),
        turns_count=calls + 1,
        calls_parsed=calls,
        calls_executed=calls,
        calls_malformed=int(demo.random.random() < 0.05) * (not told),
        prompt_tokens=71,
        response_tokens=40 + 12 * calls,
        trainable_tokens=(14 * calls) if valid else 0,
        policy_version=step - 1,
        runtime_index=0,
        runtime_generation=1,
        sandbox_id=f"sb-{key}",
        hostname=f"sb-{demo.random.randrange(16**6):06x}",
        started_at=at - timedelta(seconds=5),
        ended_at=at,
    )
    if told:
        demo.session.add(rollout)
        demo.session.flush()
        demo.session.add(RolloutBody(rollout_id=key, body=pack(body(rollout))))
    return rollout


def body(rollout: Rollout) -> dict[str, Any]:
    """The transcript of an ordinary rollout."""
    command = "sed -i 's/retrun/return/' app/shapes.py && python3 test.py"
    passed = rollout.reward == 1.0
    host = rollout.hostname
    return {
        "turns": [
            {"role": "system", "text": "You mend small programs. Tools: bash, finish."},
            {"role": "user", "text": "Fix: test.py fails in one of the files under app/."},
            {
                "role": "assistant",
                "text": f"<function=bash>\n<parameter=command>{command}</parameter>\n</function>",
                "tokens": 28,
                "trainable": True,
            },
            {
                "role": "tool",
                "tool": "bash",
                "text": "PASSED" if passed else "FAILED AssertionError: area(2, 3)",
                "command": command,
                "exit_code": 0 if passed else 1,
                "hostname": host,
                "seconds": 0.182,
                "tokens": 6,
            },
            {
                "role": "assistant",
                "text": "<function=finish>\n</function>",
                "tokens": 9,
                "trainable": True,
            },
        ],
        "patch": "diff --git a/app/shapes.py b/app/shapes.py\nindex 3f1c..9ab2 100644\n"
        "--- a/app/shapes.py\n+++ b/app/shapes.py\n@@ -1,4 +1,4 @@\n def area(width, height):\n"
        "-    retrun width * height\n+    return width * height\n \n",
        "grade": {
            "grader": "hidden-tests/1",
            "passed": passed,
            "tests": [
                {"name": "test_area", "passed": passed, "detail": ""},
                {"name": "test_perimeter", "passed": True, "detail": ""},
            ],
            "exit_code": 0 if passed else 1,
            "seconds": 0.41,
            "log_tail": "2 tests" if passed else "AssertionError: area(2, 3) is None, not 6",
            "sandbox_id": f"{rollout.sandbox_id}-grade",
        },
        "calls": {"turns": 2, "parsed": 1, "executed": 1, "malformed": {}},
        "phase_s": {
            "acquire": 0.08,
            "setup": 0.12,
            "policy": 1.31,
            "tools": 0.19,
            "patch": 0.07,
            "grade": 0.46,
        },
    }


def hostile_body() -> dict[str, Any]:
    """Everything that agent output may do to a page, in every field that it can reach."""
    return {
        "turns": [
            {"role": "user", "text": HOSTILE_TEXT},
            {"role": "assistant", "text": HOSTILE_TEXT + "x" * 5000, "trainable": True},
            {
                "role": "tool",
                "tool": "bash",
                "text": "A" * 1_000_000 + "END-OF-OUTPUT",
                "command": HOSTILE_TEXT,
                "exit_code": -1,
                "timed_out": True,
                "hostname": '"><script>h</script>',
                "seconds": 30.0,
            },
        ],
        "patch": f"--- a/{HOSTILE_TEXT}+++ b/x\n@@ -1 +1 @@\n-{HOSTILE_TEXT}+<script>p</script>\n",
        "grade": {
            "grader": "<script>g</script>",
            "passed": False,
            "tests": [{"name": HOSTILE_TEXT, "passed": False, "detail": HOSTILE_TEXT}],
            "log_tail": HOSTILE_TEXT,
        },
        "phase_s": {"<script>phase</script>": 1.0},
    }


def pack(value: dict[str, Any]) -> bytes:
    return zlib.compress(dumps(value).encode())


def _hostile(demo: Demo, run: Run, step: int) -> None:
    at = demo.now - timedelta(seconds=9)
    demo.session.add(
        Rollout(
            id=HOSTILE_ROLLOUT,
            run_id=run.id,
            attempt=1,
            step=step,
            group=f"s{step}-p0",
            sample=SAMPLES,
            try_number=1,
            task_id='hostile"><script>t</script>',
            state=RolloutState.SCORED,
            end=RolloutEnd.MAX_STEPS,
            detail=clean(HOSTILE_TEXT),
            reward=0.0,
            graded=True,
            turns_count=2,
            calls_parsed=1,
            calls_executed=1,
            trainable_tokens=12,
            hostname="<b>h</b>",
            started_at=at - timedelta(seconds=31),
            ended_at=at,
        )
    )
    demo.session.flush()
    demo.session.add(RolloutBody(rollout_id=HOSTILE_ROLLOUT, body=pack(hostile_body())))


def _sandboxes(demo: Demo, run: Run) -> None:
    states = [SandboxState.READY] * 5 + [SandboxState.STARTING] + [SandboxState.GONE] * 40
    for number, state in enumerate(states):
        created = demo.now - timedelta(seconds=4 + 7 * number)
        gone = state is SandboxState.GONE
        demo.session.add(
            Sandbox(
                id=f"sb-{run.id}-{number:03}",
                run_id=run.id,
                attempt=1,
                runtime_index=0,
                generation=1,
                client_key=f"s50-p{number % 4}-{number}",
                state=state,
                image="localhost/skydeck-task:1",
                purpose="grader" if number % 4 == 3 else "agent",
                hostname=f"sb-{demo.random.randrange(16**6):06x}",
                stop_reason="released" if gone else None,
                labels={"task": f"swap-{number:04}"},
                start_s=_start_seconds(demo, state),
                created_at=created,
                ready_at=created + timedelta(seconds=1),
                ended_at=created + timedelta(seconds=6) if gone else None,
            )
        )


def _start_seconds(demo: Demo, state: SandboxState) -> float | None:
    return None if state is SandboxState.STARTING else round(demo.random.uniform(0.05, 0.6), 3)


def _checkpoint(demo: Demo, run: Run, step: int, at: datetime, complete: bool = True) -> None:
    demo.session.add(
        Checkpoint(
            run_id=run.id,
            attempt=1,
            step=step,
            path=f"{demo.folder}/{run.id}/a1/checkpoints/global_step_{step}",
            complete=complete,
            bytes=7_548_112 if complete else 1_204_224,
            parts={"model": True, "optimizer": complete, "extra": complete, "data": complete},
            detail="" if complete else "optimizer shard is missing",
            at=at,
        )
    )
    text = f"Checkpoint of step {step} is {'complete' if complete else 'partial'}"
    _event(demo, run.id, at, "checkpoint.reported", text)


def _failed(demo: Demo) -> None:
    age, ended = timedelta(hours=5), demo.now - timedelta(hours=4, minutes=40)
    run = _run(
        demo,
        FAILED,
        RunState.FAILED,
        age,
        name="bigger batch",
        reason=Reason.OUT_OF_MEMORY,
        reason_detail="trainer job 41377: Slurm says OUT_OF_MEMORY (exit code 1)",
        ended=ended,
    )
    attempt = _attempt(
        demo,
        run,
        1,
        step=12,
        steps_total=50,
        reason=Reason.OUT_OF_MEMORY,
        reason_detail=run.reason_detail,
        ended_at=ended,
    )
    _jobs(demo, run, attempt, (JobState.CANCELLED, JobState.OUT_OF_MEMORY))
    demo.session.flush()
    _learn(demo, run, 12, every=timedelta(seconds=80), lift=0.1)
    _checkpoint(demo, run, 12, ended, complete=False)
    demo.session.add(
        Finding(
            run_id=run.id,
            attempt=1,
            code="out_of_memory",
            severity="error",
            text="The trainer job used more than its 2048 MB. Raise trainer.resources.memory_mb or "
            "lower trainer.micro_batch.",
            step=12,
            at=ended,
        )
    )
    for to in (RunState.STOPPING, RunState.FAILED):
        _event(
            demo, run.id, ended, "run.state", f"Run → {to}: out_of_memory", data={"to": to.value}
        )


def _succeeded(demo: Demo) -> None:
    ended = demo.now - timedelta(days=1, hours=1)
    run = _run(
        demo,
        SUCCEEDED,
        RunState.SUCCEEDED,
        timedelta(days=1, hours=2),
        name="one-word fixes, seed 1",
        reason=Reason.TRAINER_COMPLETED,
        ended=ended,
        steps=20,
    )
    attempt = _attempt(
        demo, run, 1, step=20, steps_total=20, reason=Reason.TRAINER_COMPLETED, ended_at=ended
    )
    _jobs(demo, run, attempt, (JobState.SUCCEEDED, JobState.SUCCEEDED))
    demo.session.add(
        Runtime(
            run_id=run.id,
            attempt=1,
            index=0,
            generation=1,
            job_name=f"sd-demo-{run.id}-a1-runtime0-g1",
            state=RuntimeState.CLOSED,
            close_reason=CloseReason.ATTEMPT_OVER,
            hostname="cpu-node-02",
            slots=8,
            limits=[],
            closed_at=ended,
        )
    )
    demo.session.flush()
    _learn(demo, run, 20, every=timedelta(seconds=100), lift=1.4)
    _event(demo, run.id, ended, "run.state", "Run → SUCCEEDED", data={"to": "SUCCEEDED"})


def _short_lived(demo: Demo) -> None:
    _run(
        demo,
        CANCELLED,
        RunState.CANCELLED,
        timedelta(days=2),
        name="wrong model",
        desired=Desired.CANCELLED,
        reason=Reason.CANCELLED_BY_USER,
        ended=demo.now - timedelta(days=2, minutes=-3),
    )
    run = _run(demo, QUEUED, RunState.STARTING_RUNTIME, timedelta(minutes=3), name="next in line")
    attempt = _attempt(
        demo, run, 1, steps_total=50, trainer_registered_at=None, trainer_hostname=""
    )
    _jobs(demo, run, attempt, (JobState.QUEUED, JobState.PLANNED))


def _sweep(demo: Demo) -> None:
    grid = {"trainer.learning_rate": [0.0004, 0.001], "trainer.temperature": [0.7, 1.0]}
    spec, _ = _spec("lr x temperature", 10)
    demo.session.add(
        Sweep(
            id="sweep00001",
            experiment_id="exp0000002",
            name="lr x temperature",
            spec=spec,
            grid=grid,
            parallel=2,
            request_hash="0" * 64,
            created_at=demo.now - timedelta(hours=7),
        )
    )
    demo.session.flush()
    points = [(rate, heat) for rate in (0.0004, 0.001) for heat in (0.7, 1.0)]
    states = (RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.RUNNING, RunState.PENDING)
    for index, ((rate, heat), state) in enumerate(zip(points, states, strict=True)):
        final = state in RUN_FINAL
        run = _run(
            demo,
            f"sweeprun{index:02}",
            state,
            timedelta(hours=7, seconds=-index),
            experiment_id="exp0000002",
            sweep_id="sweep00001",
            sweep_index=index,
            name=f"lr x temperature #{index}",
            reason=Reason.TRAINER_COMPLETED if final else None,
            ended=demo.now - timedelta(hours=6) if final else None,
            steps=10,
        )
        run.spec = {
            **run.spec,
            "trainer": {**run.spec["trainer"], "learning_rate": rate, "temperature": heat},
        }
        if state is RunState.PENDING:
            continue
        done = 10 if final else 6
        attempt = _attempt(demo, run, 1, step=done, steps_total=10)
        both = JobState.SUCCEEDED if final else JobState.RUNNING
        _jobs(demo, run, attempt, (both, both))
        demo.session.flush()
        _learn(demo, run, done, every=timedelta(seconds=60), lift=1.0 + index)


def _webhooks(demo: Demo) -> None:
    demo.session.add(
        WebhookEndpoint(
            id="hook000001",
            url="https://hooks.example.org/skydeck",
            secret="whsec_NEVER-ON-A-PAGE",  # asserted to be shown nowhere
            events=["run.failed", "run.succeeded"],
            created_at=demo.now - timedelta(days=2),
        )
    )
    demo.session.flush()
    told = demo.session.query(Event).filter_by(run_id=FAILED, kind="run.state").all()[-1]
    first = demo.now - timedelta(minutes=3)
    for number, (state, tries) in enumerate((("delivered", 3), ("waiting", 1))):
        delivery = Delivery(
            endpoint_id="hook000001",
            event_id=told.id,
            message_id=f"msg_{number}",
            payload='{"type":"run.failed"}',
            state=state,
            tries=tries,
            next_try_at=demo.now + timedelta(seconds=40) if state == "waiting" else None,
            created_at=first,
            done_at=demo.now if state == "delivered" else None,
        )
        demo.session.add(delivery)
        demo.session.flush()
        for try_number in range(tries):
            good = state == "delivered" and try_number == tries - 1
            demo.session.add(
                DeliveryTry(
                    delivery_id=delivery.id,
                    at=first + timedelta(seconds=5 * 4**try_number),
                    status_code=204 if good else None,
                    answer="" if good else "connection refused",
                    seconds=0.031,
                )
            )
