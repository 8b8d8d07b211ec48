"""The orphan sweep: what lands after any window, or outlives its attempt, is cancelled."""

import logging

from app.db import runs
from app.db.engine import Sessions, open_read
from app.reconciler.snapshot import Snapshot
from slurm.port import Scheduler, SchedulerUnreachable, SlurmJobId

log = logging.getLogger(__name__)


def sweep(snapshot: Snapshot, sessions: Sessions, scheduler: Scheduler) -> bool:
    """Cancel live jobs, held ones too, under names of finished jobs, attempts and generations.

    Jobs under names that the database does not know are left alone: a database restored from an
    older copy must not kill what it forgot. False if the scheduler could not be asked.
    """
    if not snapshot.reachable:
        return False
    live = snapshot.live()
    if not live:
        return True
    with open_read(sessions) as session:
        names = runs.leftovers(session, list(live))
    for name in names:
        log.warning("orphan sweep: job %s (%s) is cancelled", name, ", ".join(live[name]))
        try:
            scheduler.cancel(name, [SlurmJobId(job_id) for job_id in live[name]])
        except SchedulerUnreachable as error:
            log.warning("orphan sweep: %s was not cancelled, later again: %s", name, error)
            return False
    return True
