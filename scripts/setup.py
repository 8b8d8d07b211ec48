"""Make everything that `make demo` and `make test` need. Standard library only.

    python3 scripts/setup.py demo     control environment, training environment, podman, task image
    python3 scripts/setup.py test     the same, and PostgreSQL, Chromium and Slurm for the tests
    python3 scripts/setup.py control  only the control plane's environment
    python3 scripts/setup.py where    print the paths, as JSON

Everything that is made is kept: in `.venv`, and below the user's cache folder under names that
contain a hash of what it was made from. A second call finds it and starts in seconds.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skydeck"
VENV = ROOT / ".venv"
CONTROL_LOCK = ROOT / "requirements" / "control.txt"
TRAIN_LOCK = ROOT / "requirements" / "train.txt"

# Debian packages by purpose; the second word is a file whose presence makes the package needless.
SANDBOX_PACKAGES = {
    "podman": "/usr/bin/podman",
    "crun": "/usr/bin/crun",
    "conmon": "/usr/bin/conmon",
    "catatonit": "/usr/bin/catatonit",
    "uidmap": "/usr/bin/newuidmap",
    "netavark": "/usr/lib/podman/netavark",
    "slirp4netns": "/usr/bin/slirp4netns",
    "mmdebstrap": "/usr/bin/mmdebstrap",
    "gcc": "/usr/bin/gcc",
    "libc6-dev": "/usr/lib/x86_64-linux-gnu/libc.a",
}
TEST_PACKAGES = {
    "postgresql-15": "/usr/lib/postgresql/15/bin/postgres",
    "chromium": "/usr/bin/chromium",
    "chromium-driver": "/usr/bin/chromedriver",
    "busybox-static": "/usr/bin/busybox",
    "tar": "/usr/bin/tar",
    "patch": "/usr/bin/patch",
}


class Stop(SystemExit):
    """Ends the program with a text for people."""

    def __init__(self, text):
        sys.stderr.write(f"setup: {text}\n")
        super().__init__(3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["control", "train", "demo", "test", "where"])
    what = parser.parse_args().what
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs before any check of Python
        raise Stop(
            f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}; "
            "call make with PYTHON=/path/to/python3.11"
        )
    if what == "where":
        print(json.dumps(where(), indent=2))
        return
    steps = {
        "control": [control_environment],
        "train": [training_environment],
        "demo": [packages_for_demo, control_environment, training_environment, task_image],
        "test": [
            packages_for_test,
            control_environment,
            training_environment,
            task_image,
            slurm_packages,
        ],
    }[what]
    with only_one_setup():
        for number, step in enumerate(steps, 1):
            say(f"[{number}/{len(steps)}] {step.__doc__}")
            step()


def where():
    return {
        "python": str(VENV / "bin" / "python"),
        "train_python": str(train_folder() / "bin" / "python"),
        "cache": str(CACHE),
        "image_archive": str(image_archive()),
    }


def packages_for_demo():
    """Debian packages for sandboxes"""
    ensure_packages(SANDBOX_PACKAGES)


def packages_for_test():
    """Debian packages for sandboxes, databases and the browser"""
    ensure_packages({**SANDBOX_PACKAGES, **TEST_PACKAGES})


def control_environment():
    """Control plane's environment (.venv)"""
    environment(VENV, CONTROL_LOCK, digest(CONTROL_LOCK), find_python())
    installed, stamp = VENV / ".skydeck-installed", digest(ROOT / "pyproject.toml")
    if not installed.exists() or installed.read_text() != stamp:
        pip(VENV, "install", "--no-deps", "--no-build-isolation", "-e", str(ROOT))
        installed.write_text(stamp)


def training_environment():
    """Training environment (torch, verl; about 2 GB, some minutes the first time)"""
    folder = train_folder()
    environment(folder, TRAIN_LOCK, digest(TRAIN_LOCK), find_python(newest=(3, 12)))


def task_image():
    """Task image from Debian packages"""
    archive = image_archive()
    if archive.exists():
        say(f"      present: {archive}")
        return
    archive.parent.mkdir(parents=True, exist_ok=True)
    run([VENV / "bin" / "python", "-m", "workers.runtime.images", "build-task", "--out", archive])


def slurm_packages():
    """Debian packages for the Slurm test bed"""
    run([VENV / "bin" / "python", "-m", "slurm.testbed", "install"])


def train_folder():
    return CACHE / f"train-{digest(TRAIN_LOCK)}"


def image_archive():
    recipe = sorted((ROOT / "images").rglob("*")) if (ROOT / "images").exists() else []
    return CACHE / f"skydeck-task-{digest(*[p for p in recipe if p.is_file()])}.tar"


def environment(folder, lock, stamp, python):
    """A virtual environment with exactly what the lock file names; complete or not there."""
    done = folder / ".skydeck-lock"
    if done.exists() and done.read_text() == stamp:
        say(f"      present: {folder}")
        return
    if folder.exists():
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    run([python, "-m", "venv", folder])
    pip(folder, "install", "--upgrade", "pip", "setuptools", "wheel")
    pip(folder, "install", "-r", str(lock))
    done.write_text(stamp)


def pip(folder, *arguments):
    run([folder / "bin" / "python", "-m", "pip", "--quiet", "--no-input", *arguments])


def find_python(newest=(99, 0)):
    """This interpreter, or a system one within the range that the training packages support."""
    if sys.version_info[:2] <= newest:
        return sys.executable
    for name in ("python3.11", "python3.12"):
        if found := shutil.which(name):
            return found
    raise Stop(
        f"the training packages need Python 3.11 or 3.12, this is {sys.version.split()[0]}; "
        "install one of them (Debian 12 has it: python3 python3-venv)"
    )


def ensure_packages(wanted):
    names = [name for name, file in wanted.items() if not Path(file).exists()]
    if not has_venv():
        names += ["python3-venv"]
    if not names:
        say("      all present")
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *names]
    if not shutil.which("apt-get"):
        raise Stop(f"missing: {' '.join(names)} (Debian's names); install them and call again")
    if os.geteuid() != 0:
        raise Stop(f"packages are missing; as root run:\n\n    {' '.join(command)}\n")
    quiet = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    run(["apt-get", "-q", "update"], env=quiet)
    # Services must not start by themselves: the tests start their own, on private sockets.
    with no_services():
        run(command, env=quiet)


def has_venv():
    code = "import ensurepip, venv"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


@contextmanager
def no_services():
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        yield
        return
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    try:
        yield
    finally:
        policy.unlink()


@contextmanager
def only_one_setup():
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "setup.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another setup is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def run(command, env=None):
    """A long step: a line every ten seconds while it lasts, its whole output when it fails."""
    command = [str(part) for part in command]
    log = CACHE / "logs" / f"{Path(command[0]).name}-{os.getpid()}-{time.time_ns()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    shown = " ".join(command if len(command) < 9 else [*command[:8], "..."])
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env, cwd=ROOT)
        while True:
            try:
                code = process.wait(timeout=10)
                break
            except subprocess.TimeoutExpired:
                say(f"      {time.monotonic() - began:4.0f} s  {shown}")
    if code:
        tail = log.read_text(errors="replace").splitlines()[-30:]
        raise Stop(f"failed ({code}): {shown}\n" + "\n".join(tail) + f"\nwhole output: {log}")
    log.unlink()


def digest(*files):
    """Twelve hexadecimal digits of the files' names and contents, and of the Python version."""
    total = hashlib.sha256(f"{sys.version_info[:2]}".encode())
    for file in files:
        total.update(file.name.encode() + b"\0" + file.read_bytes())
    return total.hexdigest()[:12]


def say(text):
    print(text, flush=True)


if __name__ == "__main__":
    main()
