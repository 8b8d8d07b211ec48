"""One step of one run."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from app.db import runs
from app.db.engine import Sessions, open_read
from app.domain.decide import abandon, decide
from app.domain.findings import runtime_unusable
from app.domain.intend import intend
from app.domain.model import Absent, JobView, Policy, RunView, Seen
from app.domain.project import project
from app.domain.states import JOB_ENDED, RunState
from app.reconciler import files
from app.reconciler.perform import Workshop, perform
from app.reconciler.snapshot import Snapshot
from workers.contract.exit_record import ExitRecord
from workers.contract.spec import RunKind

log = logging.getLogger(__name__)

Probe = Callable[[str], str]
"""Asks the runtime server at a URL how it is; returns what is wrong, or an empty text."""


def reconcile_one(
    run_id: str,
    snapshot: Snapshot,
    policy: Policy,
    sessions: Sessions,
    workshop: Workshop,
    probe: Probe,
) -> bool:
    """Bring one run one step closer to what its user wants.

    1. Load the run; fold the snapshot and exit records into its jobs (pure).
    2. decide() (pure).
    3. Commit the transition and the *intent* of every effect, guarded by version.
    4. Perform the effects; no session is open.
    5. Commit their results. A crash after 3 is repaired by 1 of the next tick.

    True if something changed, so that there may be more to do at once.
    """
    now = workshop.clock()
    with open_read(sessions) as session:
        loaded = runs.load(session, run_id)
    if loaded is None:
        return False
    known = _observe(loaded, snapshot, now, policy, workshop, probe)
    if known.probe_error:
        with sessions.begin() as session:
            runs.tell(session, run_id, runtime_unusable(known.probe_error), now)
    decision = decide(known, now, policy)
    intended = intend(known, decision, now)
    stored = _store(sessions, loaded, intended, now)
    if stored is None:
        return True  # somebody else was faster: look again soon
    done = perform(stored, decision.effects, workshop)
    # A lost race loses only what the next look finds out again.
    _store(sessions, stored, done, workshop.clock())
    return _states(loaded) != _states(done)


def give_up(run_id: str, why: str, sessions: Sessions, now: datetime) -> None:
    """Stop a run whose steps fail. If its stopping fails too, nothing more can be done."""
    with sessions.begin() as session:
        run = runs.load(session, run_id)
        if run is not None:
            runs.store(session, run, intend(run, abandon(run, why), now), now)


def _states(run: RunView) -> object:
    """What counts as progress. An effect that failed and is due again does not."""
    jobs = {job.name: job.state for job in run.jobs}
    runtimes = {runtime.job_name: runtime.state for runtime in run.runtimes}
    return run.state, run.prepared, jobs, runtimes


def _store(sessions: Sessions, before: RunView, after: RunView, now: datetime) -> RunView | None:
    """The run as stored, or None if it had been changed meanwhile."""
    if before.stored() == after.stored():
        return after
    with sessions.begin() as session:
        if not runs.store(session, before, after, now):
            return None
    return replace(after, version=before.version + 1)


def _observe(
    run: RunView,
    snapshot: Snapshot,
    now: datetime,
    policy: Policy,
    workshop: Workshop,
    probe: Probe,
) -> RunView:
    def look(job: JobView) -> JobView:
        seen = snapshot.of(job)
        ended = isinstance(seen, Absent) or (
            isinstance(seen, Seen) and any(copy.state in JOB_ENDED for copy in seen.copies)
        )
        record = _record(run, job, workshop) if ended or job.final else None
        return project(job, seen, record, now, policy)

    jobs = tuple(look(job) for job in run.jobs)
    return replace(run, jobs=jobs, reachable=snapshot.reachable, probe_error=_probe(run, probe))


def _record(run: RunView, job: JobView, workshop: Workshop) -> ExitRecord | None:
    if job.exit_record is not None or job.submit_started_at is None:
        return job.exit_record
    return files.exit_record(run, job, workshop.runs_dir)


def _probe(run: RunView, probe: Probe) -> str:
    """Whether the runtime that somebody else started can be used; asked once, at the start."""
    if run.kind is not RunKind.ATTACHED or run.state is not RunState.PENDING or run.cancelled:
        return ""
    return probe(run.spec.runtime_url or "")
