"""A cluster and its workers around the real reconciler: played on a clock, without waiting."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from app.db import intents, runs
from app.db.engine import Sessions, make_engine, make_sessions
from app.db.tables import (
    Attempt,
    Base,
    Checkpoint,
    Event,
    Experiment,
    Installation,
    Job,
    ReconcilerLease,
    Run,
    Runtime,
    Sweep,
)
from app.domain.model import RunView
from app.domain.naming import attempt_directory, parse_job_name
from app.domain.states import Desired, Role, RunState, RuntimeState
from app.reconciler.batch import WorkerCommands
from app.reconciler.loop import LEADERSHIP, Reconciler
from app.settings import Settings
from slurm.fake import Outcome
from slurm.faulty import Fault, FaultyScheduler
from slurm.port import Scheduler, SlurmState
from tests.factories.cluster import Crash, Crashing, CrashPlan, Ledger
from workers.contract import env
from workers.contract.exit_record import ExitRecord, ExitResult
from workers.contract.spec import RunKind, RunSpec
from workers.contract.version import CONTRACT_VERSION

START = datetime(2026, 1, 1, tzinfo=UTC)
INSTALLATION = "test"


def memory_sessions() -> Sessions:
    engine = make_engine("sqlite:///:memory:")
    Base.metadata.create_all(engine)
    return make_sessions(engine)


@dataclass
class World:
    folder: Path
    faults: list[Fault] = field(default_factory=list)
    """Of the next calls, whatever they are."""
    effect_faults: list[Fault] = field(default_factory=list)
    """Of the next submits, releases and cancels."""
    sessions: Sessions = field(default_factory=memory_sessions)
    now: datetime = START
    job_seconds: float = 100_000.0
    queue_seconds: float = 0.0
    purge_after_s: float = 300.0
    accounting_lag_s: float = 5.0
    probe: Callable[[str], str] = lambda _url: ""
    spy: Callable[[Scheduler], Scheduler] = lambda scheduler: scheduler

    def __post_init__(self) -> None:
        self.settings = Settings(data_dir=self.folder)
        fate = Outcome(self.queue_seconds, self.job_seconds, state=SlurmState.TIMEOUT)
        self.cluster = Ledger(
            self.clock, lambda _job: fate, self.purge_after_s, self.accounting_lag_s
        )
        self.crash = CrashPlan()
        self.wire = FaultyScheduler(self.cluster, self.clock, self._faults())
        self.crashing = Crashing(self.wire, self.crash, self.cluster)
        self._count = 0
        with self.sessions.begin() as session:
            session.add(Installation(id=INSTALLATION, created_at=self.now))
            session.add(Experiment(id="e1", name="default", created_at=self.now))
        self.reconciler = self._start()

    def clock(self) -> datetime:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def _faults(self) -> Iterator[Fault]:
        while True:
            mine = (
                self.effect_faults if self.crash.in_effect and self.effect_faults else self.faults
            )
            yield mine.pop(0) if mine else Fault()

    def _start(self) -> Reconciler:
        return Reconciler(
            sessions=self.sessions,
            scheduler=self.spy(self.crashing),
            clock=self.clock,
            ids=self._next_id,
            settings=self.settings,
            commands=WorkerCommands("/usr/bin/python3", "/usr/bin/python3"),
            probe=self.probe,
            tokens=self._next_token,
        )

    def _next_id(self) -> str:
        self._count += 1
        return f"id{self._count}"

    def _next_token(self) -> str:
        self.crash.before_effect()
        self._count += 1
        self.crash.after_effect()
        return f"token-{self._count}"

    def restart(self) -> None:
        """A crashed reconciler leaves its leadership behind; the next one waits for its end."""
        self.crash.effects_left = None
        self.pass_time(LEADERSHIP.total_seconds())
        self.reconciler = self._start()

    def tick(self) -> bool:
        """One tick; True if the reconciler died in it and was started again."""
        try:
            self.reconciler.tick()
        except Crash:
            self.restart()
            return True
        return False

    def run_for(self, seconds: float, step: float = 5.0, working: bool = True) -> None:
        """Ticks on healthy ground; workers register and send heartbeats unless told not to."""
        end = self.now + timedelta(seconds=seconds)
        while self.now < end:
            if working:
                self.work()
            self.tick()
            self.pass_time(step)

    # People

    def launch(
        self,
        spec: dict[str, Any] | None = None,
        run_id: str | None = None,
        sweep_id: str | None = None,
        sweep_index: int | None = None,
    ) -> str:
        run_id = run_id or f"r{self._next_id()}"
        full = RunSpec.model_validate({"name": "a run", **(spec or {})})
        run = Run(
            id=run_id,
            experiment_id="e1",
            sweep_id=sweep_id,
            sweep_index=sweep_index,
            name=full.name,
            kind=full.kind,
            spec=full.model_dump(mode="json"),
            origins={},
            desired=Desired.RUNNING,
            state=RunState.PENDING,
            created_at=self.now,
            state_since=self.now,
            next_check_at=self.now,
        )
        with self.sessions.begin() as session:
            intents.insert_run(session, run)
        return run_id

    def launch_sweep(self, count: int, parallel: int) -> list[str]:
        with self.sessions.begin() as session:
            session.add(
                Sweep(
                    id="s1",
                    experiment_id="e1",
                    name="grid",
                    spec={},
                    grid={},
                    parallel=parallel,
                    request_hash="",
                    created_at=self.now,
                )
            )
        return [self.launch(sweep_id="s1", sweep_index=index) for index in range(count)]

    def cancel(self, run_id: str) -> None:
        with self.sessions.begin() as session:
            intents.set_cancelled(session, run_id, self.now)

    # Workers

    def work(self) -> None:
        """Every job that really runs registers or sends its heartbeat."""
        for seen in self.cluster.truth():
            if seen.state is SlurmState.RUNNING:
                self.beat(seen.name)

    def beat(self, name: str) -> None:
        parsed = parse_job_name(name)
        assert parsed is not None
        key = parsed[1]
        with self.sessions.begin() as session:
            run = session.get_one(Run, key.run_id)
            if run.attempt != key.attempt:
                return  # the broker refuses old attempts
            if key.role is Role.TRAINER:
                row = session.get_one(Attempt, (key.run_id, key.attempt))
                row.trainer_registered_at = row.trainer_registered_at or self.now
                row.trainer_heartbeat_at = self.now
                return
            runtime = session.scalars(select(Runtime).where(Runtime.job_name == name)).one()
            if runtime.state is RuntimeState.CLOSED:
                return
            if runtime.state is RuntimeState.EXPECTED:
                runtime.state = RuntimeState.ACTIVE
                runtime.registered_at = self.now
            runtime.heartbeat_at = self.now

    def drain(self, name: str) -> None:
        with self.sessions.begin() as session:
            session.execute(
                update(Runtime)
                .where(Runtime.job_name == name, Runtime.state == RuntimeState.ACTIVE)
                .values(state=RuntimeState.DRAINING)
            )

    def checkpoint(self, run_id: str, attempt: int, step: int) -> Path:
        return self.folder / "checkpoints" / run_id / f"a{attempt}" / str(step)

    def save_checkpoint(self, run_id: str, step: int, complete: bool = True) -> None:
        with self.sessions.begin() as session:
            run = session.get_one(Run, run_id)
            path = self.checkpoint(run_id, run.attempt, step)
            path.mkdir(parents=True, exist_ok=True)
            session.merge(
                Checkpoint(
                    run_id=run_id,
                    attempt=run.attempt,
                    step=step,
                    path=str(path),
                    complete=complete,
                    bytes=1,
                    parts={},
                    at=self.now,
                )
            )

    def leave_record(self, name: str, result: ExitResult, exit_code: int = 0, **wrong: Any) -> None:
        parsed = parse_job_name(name)
        assert parsed is not None
        key = parsed[1]
        directory = attempt_directory(self.settings.runs_dir, key.run_id, key.attempt)
        path = env.exit_record_path(directory, key.role.value, key.index, key.generation)
        values: dict[str, Any] = {
            "contract_version": CONTRACT_VERSION,
            "run_id": key.run_id,
            "attempt": key.attempt,
            "role": key.role.value,
            "index": key.index,
            "generation": key.generation,
            "result": result,
            "exit_code": exit_code,
        }
        path.write_text(ExitRecord.model_validate({**values, **wrong}).model_dump_json())

    def finish(
        self, name: str, result: ExitResult | None = ExitResult.COMPLETED, **outcome: Any
    ) -> None:
        """The job ends; `result` None: it leaves no record."""
        if result is not None:
            self.leave_record(name, result)
        self.cluster.end(name, Outcome(**outcome))

    # Looking

    def view(self, run_id: str) -> RunView:
        with self.sessions() as session:
            found = runs.load(session, run_id)
        assert found is not None
        return found

    def state(self, run_id: str) -> RunState:
        return self.view(run_id).state

    def trainer(self, run_id: str) -> str:
        trainer = self.view(run_id).trainer
        assert trainer is not None
        return trainer.name

    def runtime(self, run_id: str, index: int = 0) -> str:
        """The newest generation of this index."""
        jobs = [job for job in self.view(run_id).runtime_jobs if job.index == index]
        return max(jobs, key=lambda job: job.generation).name

    def live_names(self) -> list[str]:
        return sorted(seen.name for seen in self.cluster.live())

    def jobs(self) -> list[Job]:
        with self.sessions() as session:
            return list(session.scalars(select(Job).order_by(Job.id)))

    def runs(self) -> list[Run]:
        with self.sessions() as session:
            return list(session.scalars(select(Run)))

    def events(self, kind: str) -> list[Event]:
        with self.sessions() as session:
            return list(session.scalars(select(Event).where(Event.kind == kind).order_by(Event.id)))

    def lease(self) -> ReconcilerLease:
        with self.sessions() as session:
            return session.scalars(select(ReconcilerLease)).one()

    def until(self, run_id: str, *states: RunState, limit_s: float = 600.0) -> RunState:
        """Work and tick until the run is in one of these states."""
        end = self.now + timedelta(seconds=limit_s)
        while (state := self.state(run_id)) not in states:
            assert self.now < end, f"{state} after {limit_s} s: {self.view(run_id)}"
            self.work()
            self.tick()
            self.pass_time(1)
        return state


RUNTIME_ONLY = {"kind": RunKind.RUNTIME_ONLY}
ATTACHED = {
    "kind": RunKind.ATTACHED,
    "runtime_url": "http://node1:9000",
    "runtime_token_file": "/home/me/token.sandbox",
}
