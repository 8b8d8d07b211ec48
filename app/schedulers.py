"""Which scheduler the setting means on this machine."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from app.settings import Settings

Which = Callable[[str], str | None]
"""Where a command lies; None if it is not on PATH."""


@dataclass(frozen=True)
class Choice:
    kind: Literal["slurm", "local"]
    why: str


def choose(settings: Settings, which: Which = shutil.which) -> Choice:
    """``auto`` takes Slurm where its commands are on PATH, else the local scheduler."""
    match settings.scheduler:
        case "slurm":
            return Choice("slurm", "asked for")
        case "local":
            return Choice("local", "asked for")
        case _ if has_slurm(which):
            return Choice("slurm", "auto: sbatch and squeue are on PATH")
        case _:
            return Choice("local", "auto: sbatch and squeue are not on PATH")


def has_slurm(which: Which) -> bool:
    return bool(which("sbatch") and which("squeue"))
