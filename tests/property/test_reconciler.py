"""The invariants of the reconciler under crashes, outages, lost and late answers.

The real reconciler code on a real database, a fake cluster behind a faulty wire. Invariants by
their numbers in docs/architecture.md:

I1 only allowed transitions, each with exactly one event. I2 of all jobs under one name at most one
ever runs. I3 what is over has no live job after the orphan sweep. I4 an outage changes no state.
I5 a cancelled run becomes final. I6 crashes break none of these. I7 an old attempt or generation
changes nothing. I8 only the newest, ACTIVE generation of a run under way may be leased. I11
attempts without a newer checkpoint never exceed their limit.
"""

import os
import shutil
import tempfile
from datetime import timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import select

from app.db import runtimes
from app.db.tables import Attempt, Checkpoint, Event, Job, Run, Runtime
from app.domain.naming import parse_job_name
from app.domain.states import (
    JOB_ALLOWED,
    RUN_ALLOWED,
    RUN_FINAL,
    Desired,
    JobState,
    Reason,
    Role,
    RunState,
    RuntimeState,
)
from slurm.faulty import Fault, FaultKind
from slurm.port import JobSnapshot, SlurmState, SubmitCategory
from tests.factories.world import ATTACHED, RUNTIME_ONLY, World
from workers.contract.exit_record import ExitResult
from workers.contract.spec import RunKind

MAX_WITHOUT_CHECKPOINT = 2
POLICY = {
    "max_attempts": 4,
    "max_attempts_without_checkpoint": MAX_WITHOUT_CHECKPOINT,
    "retry_trainer_failed": True,
    "retry_delay_s": 20,
    "start_timeout_s": 120,
}
KINDS = (
    {"policy": POLICY},
    {"policy": POLICY, "runtime": {"count": 2, "min_count": 1, "max_replacements": 2}},
    {"policy": POLICY, **RUNTIME_ONLY},
    {"policy": POLICY, **ATTACHED},
)
ENDS: tuple[tuple[ExitResult | None, dict[str, object]], ...] = (
    (ExitResult.COMPLETED, {}),
    (ExitResult.DRAINED, {}),
    (ExitResult.FAILED, {"exit_code": 1}),
    (ExitResult.PREFLIGHT_FAILED, {"exit_code": 3}),
    (None, {}),
    (None, {"exit_code": 1}),
    (None, {"signal": 9}),
    (None, {"state": SlurmState.NODE_FAIL}),
    (None, {"state": SlurmState.PREEMPTED}),
    (None, {"state": SlurmState.OUT_OF_MEMORY}),
    (None, {"state": SlurmState.CANCELLED}),
)
PICK = st.integers(min_value=0, max_value=1000)


class Reconciling(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="skydeck-property-"))
        self.world = World(self.folder)
        self.seen_event = 0
        self.lied_to = False
        """The controller has answered a look from an older state."""
        self.very_late = False
        """A submission may land after the settle window."""
        self.run_states: dict[str, RunState] = {}
        self.job_states: dict[str, JobState] = {}

    @initialize(kind=st.sampled_from(KINDS), first=st.sampled_from(FaultKind))
    def first_run(self, kind: dict[str, object], first: FaultKind) -> None:
        self.world.effect_faults.append(Fault(first, 20.0))
        self.launch(kind)
        self.all_goes_well(2)

    # What people do

    @precondition(lambda self: len(self.run_states) < 2)
    @rule(kind=st.sampled_from(KINDS))
    def launch(self, kind: dict[str, object]) -> None:
        self.run_states[self.world.launch(kind)] = RunState.PENDING

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        if pick % 4 == 0:  # a run that is cancelled early meets little else
            runs = sorted(self.run_states)
            self.world.cancel(runs[pick // 4 % len(runs)])

    # What time and the reconciler do

    @rule(seconds=st.sampled_from((1, 5, 15, 35, 130)))
    def time_passes(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    @rule(count=st.sampled_from((3, 8)))
    def all_goes_well(self, count: int) -> None:
        for _ in range(count):
            self.world.work()
            self.tick()
            self.world.pass_time(5)

    @rule(count=st.sampled_from((1, 3)), seconds=st.sampled_from((1, 20)))
    def workers_are_silent(self, count: int, seconds: int) -> None:
        for _ in range(count):
            self.tick()
            self.world.pass_time(seconds)

    @rule(kinds=st.lists(st.sampled_from(FaultKind), min_size=1, max_size=3))
    def looks_go_wrong(self, kinds: list[FaultKind]) -> None:
        self.lied_to = self.lied_to or FaultKind.STALE in kinds
        self.world.faults += [Fault(kind) for kind in kinds]

    @rule(
        kinds=st.lists(st.sampled_from(FaultKind), min_size=1, max_size=3),
        late=st.sampled_from((8.0, 20.0, 27.0, 80.0)),
        pick=PICK,
    )
    def effects_go_wrong(self, kinds: list[FaultKind], late: float, pick: int) -> None:
        beyond = timedelta(seconds=late) > self.world.settings.settle_window
        self.very_late = self.very_late or (beyond and FaultKind.LATE in kinds)
        self.world.effect_faults += [Fault(kind, late) for kind in kinds]
        self.all_goes_well(1)
        self.cancel(pick)
        self.all_goes_well(2)

    @precondition(lambda self: len(self.run_states) < 3)
    @rule(
        kind=st.sampled_from(KINDS),
        first=st.sampled_from((FaultKind.ANSWER_LOST, FaultKind.LATE)),
    )
    def cancelled_while_a_submission_is_unanswered(
        self, kind: dict[str, object], first: FaultKind
    ) -> None:
        self.world.effect_faults.insert(0, Fault(first, 20.0))
        self.launch(kind)
        run = sorted(self.run_states)[-1]
        for _ in range(4):
            self.tick()
            if any(s is JobState.SUBMITTING for s in self.job_states.values()):
                break
        self.world.cancel(run)
        self.all_goes_well(2)

    @rule(effects=st.integers(min_value=0, max_value=2), after=st.booleans())
    def reconciler_crashes_at_an_effect(self, effects: int, after: bool) -> None:
        self.world.crash.effects_left = effects
        self.world.crash.after = after
        self.all_goes_well(3)

    # What the cluster does

    @rule(seconds=st.sampled_from((5, 40, 200)))
    def outage(self, seconds: int) -> None:
        self.world.cluster.be_unreachable(seconds)

    @rule(pick=PICK, how=st.sampled_from(ENDS))
    def job_ends(self, pick: int, how: tuple[ExitResult | None, dict[str, object]]) -> None:
        running = [s.name for s in self._jobs() if s.state is SlurmState.RUNNING]
        if running:
            self.world.finish(running[pick % len(running)], how[0], **how[1])

    @rule(pick=PICK)
    def ended_job_is_purged(self, pick: int) -> None:
        ended = [s.name for s in self._jobs() if s.ended_at is not None]
        if ended:
            self.world.cluster.purge(ended[pick % len(ended)])

    @rule(pick=PICK)
    def submission_is_refused(self, pick: int) -> None:
        if pick % 8 == 0:
            self.world.cluster.refuse_next(SubmitCategory.PARTITION, "invalid partition")

    # What workers do

    @rule(pick=PICK)
    def runtime_drains(self, pick: int) -> None:
        names = [s.name for s in self._jobs() if "-runtime" in s.name]
        if names:
            self.world.drain(names[pick % len(names)])

    @rule(pick=PICK, step=st.integers(min_value=1, max_value=50), complete=st.booleans())
    def checkpoint_is_saved(self, pick: int, step: int, complete: bool) -> None:
        runs = sorted(self.run_states)
        self.world.save_checkpoint(runs[pick % len(runs)], step, complete)

    @rule(pick=PICK)
    def record_of_another_generation_lies_there(self, pick: int) -> None:
        running = [s.name for s in self._jobs() if s.state is SlurmState.RUNNING]
        if running:
            name = running[pick % len(running)]
            self.world.leave_record(name, ExitResult.COMPLETED, generation=99)

    # Invariants

    def tick(self) -> bool:
        before = self._states()
        crashed = self.world.tick()
        self.transitions_are_allowed_and_told_once()
        self.one_job_a_name_ever_runs()
        lease = self.world.lease()
        if lease.scheduler_error and lease.last_tick_at == self.world.now:
            self._an_outage_changed_nothing(before, self._states())
        return crashed

    def _an_outage_changed_nothing(
        self, before: dict[str, object], after: dict[str, object]
    ) -> None:
        """I4: but for the user's cancel, which needs no scheduler."""
        for what, state in after.items():
            if before.get(what) is not state:
                assert state is RunState.STOPPING, what
                reason = self.world.view(what).reason
                assert reason is Reason.CANCELLED_BY_USER, what

    def _states(self) -> dict[str, object]:
        with self.world.sessions() as session:
            rows = [*session.execute(select(Run.id, Run.state))]
            rows += session.execute(select(Job.name, Job.state))
        return {row[0]: row[1] for row in rows}

    @invariant()
    def transitions_are_allowed_and_told_once(self) -> None:
        """I1."""
        with self.world.sessions() as session:
            query = select(Event).where(Event.id > self.seen_event).order_by(Event.id)
            for event in session.scalars(query):
                self.seen_event = event.id
                self._follow(event)
        assert self._states() == {**self.run_states, **self.job_states}

    def _follow(self, event: Event) -> None:
        to, data = event.data.get("to"), event.data
        if event.kind == "run.state":
            assert event.run_id is not None
            old = self.run_states[event.run_id]
            assert data["from"] == old
            assert to in RUN_ALLOWED[old]
            self.run_states[event.run_id] = RunState(to)
            if old is RunState.STOPPING and not self.lied_to:
                self._attempt_is_over(event.run_id, data["attempt"] - (to not in RUN_FINAL))
        if event.kind == "job.state":
            known = self.job_states.get(data["job"])
            assert data["from"] == known
            assert to == JobState.PLANNED if known is None else to in JOB_ALLOWED[known]
            self.job_states[data["job"]] = JobState(to)

    def _attempt_is_over(self, run_id: str, attempt: int) -> None:
        """I3, at once: what has landed by now is gone; the sweep is only for what lands later."""
        for seen in self.world.cluster.live():
            parsed = parse_job_name(seen.name)
            assert parsed is not None
            assert (parsed[1].run_id, parsed[1].attempt) != (run_id, attempt), seen
        under_way = [parse_job_name(name) for name in self.world.wire.in_flight()]
        keys = {(p[1].run_id, p[1].attempt) for p in under_way if p is not None}
        assert self.very_late or (run_id, attempt) not in keys

    @invariant()
    def nothing_is_submitted_again_that_is_there(self) -> None:
        """I2, before the fences: what lands within the settle window is the only one."""
        if self.lied_to:
            return
        assert self.world.crashing.doubled == []
        names = list(self.world.cluster.names.values())
        assert self.very_late or len(names) == len(set(names))

    @invariant()
    def one_job_a_name_ever_runs(self) -> None:
        """I2."""
        for name, ids in self.world.cluster.released.items():
            assert len(ids) == 1, name

    @invariant()
    def only_the_newest_generation_may_be_leased(self) -> None:
        """I8."""
        with self.world.sessions() as session:
            fresh = self.world.now - timedelta(days=1)
            for run in session.scalars(select(Run)):
                over = run.state is RunState.STOPPING or run.state in RUN_FINAL
                for runtime in runtimes.leasable(session, run.id, run.attempt, fresh):
                    assert not over
                    assert runtime.state is RuntimeState.ACTIVE
                for runtime in session.scalars(select(Runtime).where(Runtime.run_id == run.id)):
                    old = runtime.attempt < run.attempt
                    assert runtime.state is RuntimeState.CLOSED or not (old or over)

    @invariant()
    def attempts_without_progress_are_bounded(self) -> None:
        """I11."""
        with self.world.sessions() as session:
            for run in session.scalars(select(Run)):
                streak = 0
                for attempt in session.scalars(
                    select(Attempt).where(Attempt.run_id == run.id).order_by(Attempt.number)
                ):
                    assert streak < MAX_WITHOUT_CHECKPOINT
                    newer = select(Checkpoint).where(
                        Checkpoint.run_id == run.id,
                        Checkpoint.attempt == attempt.number,
                        Checkpoint.complete.is_(True),
                        Checkpoint.step > attempt.resume_step,
                    )
                    streak = 0 if session.scalars(newer).first() else streak + 1

    def teardown(self) -> None:
        try:
            self._converge()
        finally:
            self.world.sessions.kw["bind"].dispose()
            shutil.rmtree(self.folder)

    def _converge(self) -> None:
        """I3, I5, I6: on healthy ground and given time, every run ends and leaves no job."""
        self.world.faults.clear()
        self.world.effect_faults.clear()
        self.world.crash.effects_left = None
        self.world.pass_time(250)  # outages end, late submissions are due
        for run in sorted(self.run_states)[::2]:
            self.world.cancel(run)
        for _ in range(150):
            self._settle_a_little()
            if all(run.state in RUN_FINAL for run in self.world.runs()):
                break
        finals = {run.id: run.state for run in self.world.runs()}
        assert set(finals.values()) <= RUN_FINAL, finals
        self._cancelled_runs_did_not_go_on()
        self.world.run_for(self.world.settings.orphan_sweep.total_seconds() + 10, step=60)
        assert self.world.live_names() == []
        assert self.world.wire.in_flight() == ()

    def _settle_a_little(self) -> None:
        """Trainers that run complete; without a trainer, runtimes leave in order."""
        self.world.work()
        self.tick()
        self.world.pass_time(15)
        states = {run.id: (run.state, run.kind) for run in self.world.runs()}
        for seen in self.world.cluster.live():
            parsed = parse_job_name(seen.name)
            assert parsed is not None
            state, kind = states[parsed[1].run_id]
            last = parsed[1].role is Role.TRAINER or kind is RunKind.RUNTIME_ONLY
            if state is RunState.RUNNING and last:
                self.world.finish(seen.name)

    def _cancelled_runs_did_not_go_on(self) -> None:
        for run in self.world.runs():
            if run.reason is Reason.CANCELLED_BY_USER:
                assert run.desired is Desired.CANCELLED
                assert run.state is RunState.CANCELLED

    def _jobs(self) -> list[JobSnapshot]:
        return self.world.cluster.truth()


EXAMPLES = int(os.environ.get("SKYDECK_PROPERTY_EXAMPLES", "40"))
TestReconciling = Reconciling.TestCase
TestReconciling.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
