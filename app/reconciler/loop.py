"""The loop: who reconciles, which runs are due, one step each, wake or wait."""

import logging
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Event

from sqlalchemy.exc import OperationalError

from app.clock import Clock
from app.db import events, leadership, runs
from app.db.engine import Sessions, open_read
from app.db.leadership import Leadership
from app.domain import findings
from app.domain.model import Policy
from app.domain.naming import name_prefix
from app.errors import Unavailable
from app.ids import IdFactory, new_token
from app.reconciler.batch import WorkerCommands
from app.reconciler.hearing import Hearing
from app.reconciler.orphans import sweep
from app.reconciler.perform import Workshop
from app.reconciler.probe import http_probe
from app.reconciler.reconcile import Probe, give_up, reconcile_one
from app.reconciler.snapshot import Missing, Snapshot, look
from app.settings import Settings
from slurm.port import Scheduler

log = logging.getLogger(__name__)

LEADERSHIP = timedelta(seconds=30)
"""A crashed reconciler is missed for no longer than this. A step that takes longer is harmless:
the version of its run guards what it writes."""
RENEW = timedelta(seconds=5)
SOON = timedelta(milliseconds=200)
"""When something changed there may be more to do."""
WAKE = timedelta(seconds=1)
"""How often the event table is asked whether something happened."""
AFTER_FAILURE = timedelta(seconds=30)
GIVE_UP_AFTER = 20
"""Failed steps of one run without a good one between them: ten minutes."""


class Reconciler:
    """The one writer of run and job state. One instance per process, one thread."""

    def __init__(
        self,
        sessions: Sessions,
        scheduler: Scheduler,
        clock: Clock,
        ids: IdFactory,
        settings: Settings,
        commands: WorkerCommands,
        *,
        probe: Probe = http_probe,
        tokens: Callable[[], str] = new_token,
    ) -> None:
        self._sessions = sessions
        self._scheduler = scheduler
        self._clock = clock
        self._settings = settings
        self._probe = probe
        self._owner = ids()
        self._led_at = clock()
        self._hearing = Hearing()
        self._swept_at: datetime | None = None
        self._failures: Counter[str] = Counter()
        self._workshop = Workshop(
            scheduler=scheduler,
            clock=clock,
            commands=commands,
            runs_dir=settings.runs_dir,
            control_plane_file=settings.control_plane_file,
            new_token=tokens,
        )

    def run(self, stop: Event) -> None:
        """Tick until `stop` is set; the step in progress is finished first."""
        while not stop.is_set():
            wait = self._guarded_tick(stop)
            self._sleep(stop, wait)
        self.close()

    def close(self) -> None:
        """Let another reconciler take over at once; without a database, when the lease is over."""
        try:
            with self._sessions.begin() as session:
                leadership.release(session, self._owner, self._clock())
        except (Unavailable, OperationalError) as error:
            log.warning("leadership is not given back but runs out: %s", error)

    def tick(self, stop: Event | None = None) -> timedelta:
        """Look once, step every run that is due; returns when to come back."""
        now = self._clock()
        if not self._lead(now):
            return self._settings.tick
        snapshot = self._look(now)
        policy = self._policy(now)
        with self._sessions.begin() as session:
            leadership.record_tick(session, self._owner, now, snapshot.error)
            due = runs.claim_due(session, now)
        progressed = False
        for run_id in due:
            if (stop is not None and stop.is_set()) or not self._still_leads():
                return SOON
            progressed = self._step(run_id, snapshot, policy) or progressed
        self._sweep(snapshot, now)
        return SOON if progressed else self._settings.tick

    def _lead(self, now: datetime) -> bool:
        with self._sessions.begin() as session:
            role = leadership.acquire(session, self._owner, now, now + LEADERSHIP)
            if role is Leadership.TAKEN:
                runs.forget_absences(session)
        if role is Leadership.TAKEN:
            log.info("reconciler %s leads", self._owner)
            self._hearing, self._swept_at = Hearing(), None
        self._led_at = now
        return role is not Leadership.NONE

    def _still_leads(self) -> bool:
        now = self._clock()
        return now - self._led_at < RENEW or self._lead(now)

    def _look(self, now: datetime) -> Snapshot:
        with open_read(self._sessions) as session:
            prefix = name_prefix(runs.installation_id(session))
            accepted = [
                Missing(job.name, job.scheduler_id, job.submitted_at or job.state_since)
                for job in runs.live_jobs(session)
                if job.scheduler_id is not None
            ]
        return look(self._scheduler, prefix, accepted, now)

    def _policy(self, now: datetime) -> Policy:
        settings = self._settings
        with open_read(self._sessions) as session:
            heard = runs.last_heard(session)
        self._hearing = self._hearing.after(heard, now, settings.stale_after)
        return Policy(
            settle_window=settings.settle_window,
            vanish_grace=settings.vanish_grace,
            stale_after=settings.stale_after,
            lost_after=settings.lost_after,
            listening_since=self._hearing.since,
        )

    def _step(self, run_id: str, snapshot: Snapshot, policy: Policy) -> bool:
        try:
            progressed = reconcile_one(
                run_id, snapshot, policy, self._sessions, self._workshop, self._probe
            )
        except (Unavailable, OperationalError):
            raise  # no fault of this run: the whole tick is tried again
        except OSError as error:  # a full disk, a wrong owner: for a person to mend
            why = error.strerror or str(error)
            self._put_off(run_id, findings.unprepared(str(self._settings.runs_dir), why))
            log.error("run %s cannot be prepared, next try in %s: %s", run_id, AFTER_FAILURE, error)
            return False
        except Exception as error:  # the loop boundary: one run must not stop the others
            # First out of the way, then told: a failing log must not make a crash loop.
            self._put_off(run_id, findings.unsteppable(error))
            log.exception("run %s: the step failed; next try in %s", run_id, AFTER_FAILURE)
            self._count_failure(run_id, error)
            return False
        self._failures.pop(run_id, None)
        return progressed

    def _count_failure(self, run_id: str, error: Exception) -> None:
        self._failures[run_id] += 1
        if self._failures[run_id] < GIVE_UP_AFTER:
            return
        del self._failures[run_id]
        why = f"{GIVE_UP_AFTER} steps in a row failed, the last one by {type(error).__name__}"
        try:
            give_up(run_id, why, self._sessions, self._clock())
        except (Unavailable, OperationalError):
            raise
        except Exception:  # the loop boundary: what cannot even be stopped is left as it is
            log.exception("run %s cannot be stopped", run_id)

    def _put_off(self, run_id: str, found: findings.Finding) -> None:
        now = self._clock()
        with self._sessions.begin() as session:
            runs.defer(session, run_id, now + AFTER_FAILURE)
            runs.tell(session, run_id, found, now)

    def _sweep(self, snapshot: Snapshot, now: datetime) -> None:
        due = self._swept_at is None or now - self._swept_at >= self._settings.orphan_sweep
        if due and sweep(snapshot, self._sessions, self._scheduler):
            self._swept_at = now

    def _guarded_tick(self, stop: Event) -> timedelta:
        try:
            return self.tick(stop)
        except (Unavailable, OperationalError) as error:
            log.warning("the database is not available, later again: %s", error)
            return self._settings.tick

    def _sleep(self, stop: Event, wait: timedelta) -> None:
        """Until `wait` is over, `stop` is set or something happened. A missed hint costs a tick."""
        cursor = self._last_event()
        left = wait
        while left > timedelta(0) and not stop.wait(min(left, WAKE).total_seconds()):
            left -= WAKE
            if self._last_event() != cursor:
                return

    def _last_event(self) -> int:
        try:
            with open_read(self._sessions) as session:
                return events.last_id(session)
        except (Unavailable, OperationalError):
            return -1
