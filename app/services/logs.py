"""The log of a job, read from its attempt's directory: also after the job is gone."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from app.db.engine import ReadSession
from app.db.tables import Attempt, Job
from app.domain.states import JOB_FINAL, Role
from app.errors import NotFound, Unavailable
from workers.contract.env import log_path

MAX_BYTES = 256 * 1024
DEFAULT_BYTES = 64 * 1024


@dataclass(frozen=True)
class LogTail:
    job: str
    text: str
    offset: int
    """Where in the file ``text`` begins."""
    next_offset: int
    """Ask with this offset for what comes next."""
    size: int
    exists: bool
    ended: bool
    """The job is over: what is read up to ``size`` is all there will be."""


def tail(
    session: ReadSession,
    run_id: str,
    role: Role,
    *,
    attempt: int | None = None,
    index: int = 0,
    generation: int | None = None,
    offset: int | None = None,
    limit: int = DEFAULT_BYTES,
) -> LogTail:
    """From ``offset``, or the last ``limit`` bytes. Defaults: newest attempt and generation.

    The path comes from the database and from the contract; nothing of it from the caller.
    """
    job = _job(session, run_id, role, attempt, index, generation)
    owner = session.get(Attempt, (run_id, job.attempt))
    if owner is None:
        raise NotFound(f"attempt {job.attempt} of run {run_id} has no directory yet")
    path = log_path(Path(owner.directory), role, job.index, job.generation)
    begin, data, size = _read(path, offset, max(1, min(limit, MAX_BYTES)))
    begin, data = _whole_characters(begin, data, at_start=offset is not None)
    return LogTail(
        job=job.name,
        text=data.decode(errors="replace"),
        offset=begin,
        next_offset=begin + len(data),
        size=max(size, 0),
        exists=size >= 0,
        ended=job.state in JOB_FINAL,
    )


def _job(
    session: ReadSession,
    run_id: str,
    role: Role,
    attempt: int | None,
    index: int,
    generation: int | None,
) -> Job:
    query = select(Job).where(Job.run_id == run_id, Job.role == role, Job.index == index)
    if attempt is not None:
        query = query.where(Job.attempt == attempt)
    if generation is not None:
        query = query.where(Job.generation == generation)
    order = (Job.attempt.desc(), Job.generation.desc())
    job = session.scalar(query.order_by(*order).limit(1))
    if job is None:
        raise NotFound(f"run {run_id} has no such {role} job (yet)")
    return job


def _read(path: Path, offset: int | None, limit: int) -> tuple[int, bytes, int]:
    """Begin, bytes, size of the file; size -1 when there is none."""
    try:
        # A link or a pipe in a log's place is not a log; opening a pipe would block.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0, b"", -1
    except OSError as error:
        raise Unavailable(f"the log {path} cannot be read: {error.strerror}") from error
    with os.fdopen(handle, "rb") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise Unavailable(f"the log {path} is not a regular file")
        begin = max(0, facts.st_size - limit) if offset is None else min(offset, facts.st_size)
        file.seek(begin)
        return begin, file.read(limit), facts.st_size


def _whole_characters(begin: int, data: bytes, *, at_start: bool) -> tuple[int, bytes]:
    """Cut halves of UTF-8 characters off both ends, so that slices fit together."""
    skip = 0
    while not at_start and begin > 0 and skip < min(3, len(data)) and data[skip] & 0xC0 == 0x80:
        skip += 1
    data = data[skip:]
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        width = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        if width > 1 and back < width and len(data) > back:
            data = data[:-back]
        break
    return begin + skip, data
