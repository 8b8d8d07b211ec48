"""Rows and messages with believable defaults; a test names only what it is about."""

from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from app.db.tables import Attempt, Experiment, Job, Run, Runtime
from app.domain.states import Desired, JobState, Role, RunState, RuntimeState
from app.ids import token_hash
from tests.factories.clocks import START
from workers.contract.registration import RegisterRuntime, RegisterTrainer, RuntimeHeartbeat
from workers.contract.reports import (
    CallCounts,
    Grade,
    ReportBatch,
    RolloutReport,
    RolloutState,
    Turn,
)
from workers.contract.sandbox_api import SandboxOut, SandboxState
from workers.contract.spec import RunSpec
from workers.contract.version import CONTRACT_VERSION

RUN = "run0000001"
RUNTIME_TOKEN, TRAINER_TOKEN = "runtime-secret", "trainer-secret"
NOON = START.isoformat()


def document(**keys: Any) -> dict[str, Any]:
    """A spec document that can run."""
    return {
        "name": "trial",
        "trainer": {"model_path": "/models/tiny", "prompts_per_step": 2, "rollouts_per_prompt": 2},
        "data": {"train_file": "/data/train.jsonl"},
        **keys,
    }


def add_run(
    session: Session,
    folder: Path,
    *,
    run_id: str = RUN,
    state: RunState = RunState.RUNNING,
    attempt: int = 1,
    at: datetime = START,
) -> Run:
    """A run with its experiment, its attempts up to ``attempt``, and that one's jobs."""
    if session.get(Experiment, "exp0000001") is None:
        session.add(Experiment(id="exp0000001", name="default", created_at=at))
        session.flush()
    spec = RunSpec.model_validate(document())
    run = Run(
        id=run_id,
        experiment_id="exp0000001",
        name="trial",
        kind=spec.kind,
        spec=spec.model_dump(mode="json"),
        origins={},
        desired=Desired.RUNNING,
        state=state,
        attempt=attempt,
        created_at=at,
        state_since=at,
        next_check_at=at,
    )
    session.add(run)
    session.flush()
    for number in range(1, attempt + 1):
        add_attempt(session, folder, run_id, number, over=number < attempt, at=at)
    add_runtime(session, run_id=run_id, attempt=attempt, at=at)
    add_job(session, Role.TRAINER, run_id=run_id, attempt=attempt, at=at)
    return run


def add_attempt(
    session: Session, folder: Path, run_id: str, number: int, *, over: bool, at: datetime = START
) -> Attempt:
    suffix = f"-{run_id}-{number}"
    attempt = Attempt(
        run_id=run_id,
        number=number,
        directory=str(folder / run_id / f"a{number}"),
        runtime_token_hash=token_hash(RUNTIME_TOKEN + suffix),
        trainer_token_hash=token_hash(TRAINER_TOKEN + suffix),
        started_at=at,
        ended_at=at if over else None,
    )
    session.add(attempt)
    session.flush()
    return attempt


def runtime_token(run_id: str = RUN, attempt: int = 1) -> str:
    return f"{RUNTIME_TOKEN}-{run_id}-{attempt}"


def trainer_token(run_id: str = RUN, attempt: int = 1) -> str:
    return f"{TRAINER_TOKEN}-{run_id}-{attempt}"


def job_name(
    role: Role, *, run_id: str = RUN, attempt: int = 1, index: int = 0, generation: int = 1
) -> str:
    return f"sd-test-{run_id}-a{attempt}-{role}{index}-g{generation}"


def add_job(
    session: Session,
    role: Role,
    *,
    run_id: str = RUN,
    attempt: int = 1,
    index: int = 0,
    generation: int = 1,
    scheduler_id: str | None = None,
    at: datetime = START,
) -> Job:
    name = job_name(role, run_id=run_id, attempt=attempt, index=index, generation=generation)
    job = Job(
        run_id=run_id,
        attempt=attempt,
        role=role,
        index=index,
        generation=generation,
        name=name,
        state=JobState.RUNNING,
        scheduler_id=scheduler_id,
        state_since=at,
    )
    session.add(job)
    session.flush()
    return job


def add_runtime(
    session: Session,
    *,
    run_id: str = RUN,
    attempt: int = 1,
    index: int = 0,
    generation: int = 1,
    scheduler_id: str | None = None,
    at: datetime = START,
) -> Runtime:
    """A planned generation: its job, and its row EXPECTED."""
    job = add_job(
        session,
        Role.RUNTIME,
        run_id=run_id,
        attempt=attempt,
        index=index,
        generation=generation,
        scheduler_id=scheduler_id,
        at=at,
    )
    runtime = Runtime(
        run_id=run_id,
        attempt=attempt,
        index=index,
        generation=generation,
        job_name=job.name,
        state=RuntimeState.EXPECTED,
        limits=[],
    )
    session.add(runtime)
    session.flush()
    return runtime


def register_runtime(**keys: Any) -> RegisterRuntime:
    where = {key: keys[key] for key in ("attempt", "index", "generation") if key in keys}
    values: dict[str, Any] = {
        "contract_version": CONTRACT_VERSION,
        "run_id": RUN,
        "attempt": 1,
        "index": 0,
        "generation": 1,
        "job_name": job_name(Role.RUNTIME, **where),
        "scheduler_job_id": "100",
        "hostname": "node1",
        "pid": 7,
        "url": "http://node1:9000",
        "slots": 8,
        "engine": "podman 4.3.1",
        **keys,
    }
    return RegisterRuntime.model_validate(values)


def register_trainer(**keys: Any) -> RegisterTrainer:
    values: dict[str, Any] = {
        "contract_version": CONTRACT_VERSION,
        "run_id": RUN,
        "attempt": 1,
        "job_name": job_name(Role.TRAINER, attempt=keys.get("attempt", 1)),
        "generation": 1,
        "scheduler_job_id": "200",
        "hostname": "node2",
        "pid": 8,
        **keys,
    }
    return RegisterTrainer.model_validate(values)


def runtime_heartbeat(**keys: Any) -> RuntimeHeartbeat:
    where = {key: keys[key] for key in ("attempt", "index", "generation") if key in keys}
    values: dict[str, Any] = {
        "run_id": RUN,
        "attempt": 1,
        "index": 0,
        "generation": 1,
        "job_name": job_name(Role.RUNTIME, **where),
        "slots": 8,
        "slots_used": 1,
        "waiting": 0,
        **keys,
    }
    return RuntimeHeartbeat.model_validate(values)


def sandbox(sandbox_id: str = "sb1", **keys: Any) -> SandboxOut:
    values: dict[str, Any] = {
        "sandbox_id": sandbox_id,
        "client_key": f"key-{sandbox_id}",
        "state": SandboxState.READY,
        "image": "localhost/skydeck-task:1",
        "purpose": "agent",
        "hostname": f"host-{sandbox_id}",
        "created_at": NOON,
        **keys,
    }
    return SandboxOut.model_validate(values)


def rollout(rollout_id: str, **keys: Any) -> RolloutReport:
    """A scored rollout with one executed call and a grade; ``reward`` 1."""
    values: dict[str, Any] = {
        "rollout_id": rollout_id,
        "step": 1,
        "group": "g1",
        "sample": 0,
        "task_id": "task-1",
        "state": RolloutState.SCORED,
        "end": "finished",
        "reward": 1.0,
        "grade": Grade(grader="tests 1", passed=True, sandbox_id="sb-grade"),
        "patch": "--- a\n+++ b\n",
        "calls": CallCounts(turns=2, parsed=1, executed=1),
        "turns": (Turn(role="assistant", text="ls", trainable=True, tokens=5),),
        "prompt_tokens": 10,
        "response_tokens": 20,
        "trainable_tokens": 12,
        "hostname": "host-sb1",
        "started_at": NOON,
        "ended_at": NOON,
        **keys,
    }
    return RolloutReport.model_validate(values)


def batch(*reports: Any, sequence: int = 1, source: str = "rollouts-1", **keys: Any) -> ReportBatch:
    values: dict[str, Any] = {
        "contract_version": CONTRACT_VERSION,
        "run_id": RUN,
        "attempt": 1,
        "source": source,
        "sequence": sequence,
        "reports": reports,
        **keys,
    }
    return ReportBatch.model_validate(values)
