"""``skydeck doctor``: what works on this machine, what does not, and how to mend it."""

import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.engine import make_url

from app.db.engine import NETWORK_FILE_SYSTEMS, file_system_of
from app.schedulers import choose, has_slurm
from app.settings import Settings

MIN_FREE_BYTES = 2 * 1024**3
COMMAND_DEADLINE_S = 30.0


@dataclass(frozen=True)
class Check:
    name: str
    verdict: Literal["ok", "warning", "error"]
    text: str
    mend: str = ""


@dataclass(frozen=True)
class Machine:
    """What the checks ask the machine; tests give their own."""

    which: Callable[[str], str | None]
    output: Callable[[Sequence[str]], tuple[int, str]]
    """Exit code and output of a command; 127 when it is missing, 124 at the deadline."""
    uid: int
    user: str
    root: Path = Path("/")
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free


def this_machine() -> Machine:
    user = pwd.getpwuid(os.getuid()).pw_name
    return Machine(shutil.which, _output, os.getuid(), user)


def examine(settings: Settings, machine: Machine) -> list[Check]:
    return [
        *_data_folder(settings, machine),
        *_scheduler(settings, machine),
        *_podman(machine),
        *_cgroups(machine),
        *_training(settings, machine),
    ]


def _data_folder(settings: Settings, machine: Machine) -> Iterator[Check]:
    folder = settings.home
    while not folder.exists():
        folder = folder.parent
    free = machine.free_bytes(folder)
    text = f"{settings.home}, {free / 1024**3:.1f} GiB free"
    if not os.access(folder, os.W_OK | os.X_OK):
        mend = "give it to the user that runs Skydeck, or use another --data-dir"
        yield Check("data folder", "error", f"{folder} cannot be written", mend)
    elif free < MIN_FREE_BYTES:
        yield Check("data folder", "error", text, "free some space, or use another --data-dir")
    else:
        yield Check("data folder", "ok", text)
    yield _database(settings, machine)


def _database(settings: Settings, machine: Machine) -> Check:
    url = make_url(settings.resolved_database_url)
    if url.get_backend_name() != "sqlite" or url.database is None:
        return Check("database", "ok", url.render_as_string(hide_password=True))
    mounts = machine.root / "proc/self/mountinfo"
    text = mounts.read_text() if mounts.exists() else ""
    kind = file_system_of(Path(url.database).expanduser().resolve(), text)
    if kind in NETWORK_FILE_SYSTEMS:
        mend = "set SKYDECK_DATABASE_URL to a SQLite file on a local disk, or to PostgreSQL"
        return Check("database", "error", f"{url.database} lies on {kind}: SQLite loses data", mend)
    return Check("database", "ok", f"{url.database} on {kind or 'a local disk'}")


def _scheduler(settings: Settings, machine: Machine) -> Iterator[Check]:
    chosen = choose(settings, machine.which)
    if chosen.kind == "local":
        yield Check("scheduler", "ok", f"local ({chosen.why}): jobs are processes of this machine")
        return
    if not has_slurm(machine.which):
        mend = "install Slurm's client commands, or use --scheduler local"
        yield Check("scheduler", "error", "slurm was asked for, but sbatch is missing", mend)
        return
    code, text = machine.output(["scontrol", "ping"])
    if code == 0:
        yield Check("scheduler", "ok", f"slurm ({chosen.why}): {_first_line(text)}")
    else:
        mend = "is slurmctld up? `scontrol ping` must answer"
        yield Check("scheduler", "error", f"slurm does not answer: {_first_line(text)}", mend)


def _podman(machine: Machine) -> Iterator[Check]:
    if machine.which("podman") is None:
        mend = "apt-get install podman crun conmon uidmap catatonit netavark"
        yield Check("podman", "error", "not found: no sandbox can start on this machine", mend)
        return
    code, text = machine.output(["podman", "--version"])
    verdict = "ok" if code == 0 else "error"
    yield Check("podman", verdict, _first_line(text))
    if machine.uid != 0:
        yield _subordinate_ids(machine)


def _subordinate_ids(machine: Machine) -> Check:
    for name in ("subuid", "subgid"):
        path = machine.root / "etc" / name
        lines = path.read_text().splitlines() if path.exists() else []
        if not any(line.split(":")[0] in (machine.user, str(machine.uid)) for line in lines):
            ranges = "--add-subuids 100000-165535 --add-subgids 100000-165535"
            mend = f"as root: usermod {ranges} {machine.user}"
            text = f"{machine.user} has no line in /etc/{name}: rootless podman cannot map users"
            return Check("subordinate ids", "error", text, mend)
    return Check("subordinate ids", "ok", f"{machine.user} is in /etc/subuid and /etc/subgid")


def _cgroups(machine: Machine) -> Iterator[Check]:
    hybrid = (machine.root / "sys/fs/cgroup/unified/cgroup.procs").exists()
    if not hybrid:
        yield Check("cgroups", "ok", "not hybrid")
    elif machine.uid == 0:
        yield Check("cgroups", "ok", "hybrid: the runtime hides the unified hierarchy from itself")
    else:
        mend = "start jobs in a mount namespace without it (docs/operations.md, hybrid cgroups)"
        text = "hybrid: crun refuses to start, and only root can hide the unified hierarchy"
        yield Check("cgroups", "error", text, mend)


def _training(settings: Settings, machine: Machine) -> Iterator[Check]:
    python = settings.train_python
    if python is None:
        mend = "set SKYDECK_TRAIN_PYTHON, or trainer.python in each spec"
        yield Check("training environment", "warning", "none is set", mend)
        return
    code, text = machine.output([str(python), "-c", "import verl; print(verl.__version__)"])
    if code == 0:
        yield Check("training environment", "ok", f"{python}: verl {text.split()[-1]}")
    else:
        mend = "make it with `python3 scripts/setup.py train`"
        yield Check("training environment", "error", f"{python}: {_last_line(text)}", mend)


def _output(command: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_DEADLINE_S, check=False
        )
    except FileNotFoundError:
        return 127, f"{command[0]}: not found"
    except subprocess.TimeoutExpired:
        return 124, f"{command[0]}: no answer within {COMMAND_DEADLINE_S:g} s"
    return done.returncode, done.stdout + done.stderr


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "(no output)")


def _last_line(text: str) -> str:
    return _first_line("\n".join(reversed(text.splitlines())))
