"""Why a runtime job ends, and its last word: the exit record."""

import asyncio
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from workers.contract import env
from workers.contract.exit_record import ExitRecord, ExitResult
from workers.contract.version import CONTRACT_VERSION
from workers.runtime.settings import RuntimeSettings

Result = TypeVar("Result")

ROLE = "runtime"
EXIT_CODES = {ExitResult.FAILED: 1, ExitResult.PREFLIGHT_FAILED: 3}


@dataclass(frozen=True)
class Ending:
    result: ExitResult
    detail: str = ""

    @property
    def exit_code(self) -> int:
        return EXIT_CODES.get(self.result, 0)


class Stopped(Exception):
    """Unwinds the start when the job is told to end before it serves."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.detail)
        self.ending = ending


class Stop:
    """Why the job ends; the first reason counts."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._ending: Ending | None = None

    def __call__(self, ending: Ending) -> None:
        if self._ending is None:
            self._ending = ending
        self._event.set()

    async def wait(self) -> Ending:
        await self._event.wait()
        assert self._ending is not None
        return self._ending


async def until_stopped(stop: Stop, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result; or Stopped, with the work cancelled, if the job is told to end first."""
    working = asyncio.ensure_future(work)
    told = asyncio.ensure_future(stop.wait())
    await asyncio.wait((working, told), return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        told.cancel()
        return working.result()
    working.cancel()
    await asyncio.wait((working,))
    raise Stopped(told.result())


def write_exit_record(settings: RuntimeSettings, ending: Ending) -> None:
    """Whole or not at all: written beside its place and renamed."""
    record = ExitRecord(
        contract_version=CONTRACT_VERSION,
        run_id=settings.attempt.run_id,
        attempt=settings.attempt.attempt,
        role=ROLE,
        index=settings.index,
        generation=settings.generation,
        result=ending.result,
        exit_code=ending.exit_code,
        detail=ending.detail[-4000:],
    )
    path = record_path(settings)
    part = path.with_suffix(f".{os.getpid()}.part")
    with part.open("w") as file:
        file.write(record.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    part.rename(path)


def record_path(settings: RuntimeSettings) -> Path:
    return env.exit_record_path(settings.attempt_dir, ROLE, settings.index, settings.generation)
