"""Debian packages of a test bed, and its user."""

import os
import pwd
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from slurm.testbed.layout import USER, Layout, TestBedError

PACKAGES = (
    "munge",
    "mariadb-server",
    "mariadb-client",
    "slurmctld",
    "slurmd",
    "slurmdbd",
    "slurm-client",
    "slurm-wlm-basic-plugins",
    "slurm-wlm-mysql-plugin",
    "podman",
    "crun",
    "uidmap",
    "slirp4netns",
    "fuse-overlayfs",
)

_POLICY = Path("/usr/sbin/policy-rc.d")
_IDS = 65536


def install_packages() -> None:
    """Nothing is started by the installation; what the machine allows afterwards is as before."""
    missing = missing_packages()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0:
        raise TestBedError(f"packages are missing; as root: {' '.join(command)}")
    print(f"installing {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with _no_service_starts():
        _apt(["apt-get", "update", "-qq"], environment)
        _apt(command, environment)


def missing_packages() -> list[str]:
    return [name for name in PACKAGES if not _installed(name)]


def ensure_user(layout: Layout) -> None:
    """With ranges of user and group ids, without which rootless podman has no second user."""
    try:
        home = pwd.getpwnam(USER).pw_dir
    except KeyError:
        argv = ["useradd", "--system", "--user-group", "--no-create-home", "--shell", "/bin/bash"]
        subprocess.run([*argv, "--home-dir", str(layout.home), USER], check=True)
    else:
        if home != str(layout.home):
            subprocess.run(["usermod", "--home", str(layout.home), USER], check=True)
    for file, option in (("/etc/subuid", "--add-subuids"), ("/etc/subgid", "--add-subgids")):
        lines = Path(file).read_text().splitlines() if Path(file).exists() else []
        if not any(line.startswith(f"{USER}:") for line in lines):
            first = _first_free(lines)
            subprocess.run(["usermod", option, f"{first}-{first + _IDS - 1}", USER], check=True)


def remove_user() -> None:
    subprocess.run(["userdel", USER], check=False, capture_output=True)


def _first_free(lines: Sequence[str]) -> int:
    ends = [int(start) + int(count) for _, start, count in (line.split(":") for line in lines)]
    return max([100000, *ends])


def _installed(name: str) -> bool:
    argv = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}", name]
    result = subprocess.run(argv, capture_output=True, text=True, check=False)
    return result.stdout.startswith("ii")


def _apt(argv: Sequence[str], environment: dict[str, str]) -> None:
    result = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise TestBedError(f"{' '.join(argv)} failed:\n{(result.stdout + result.stderr)[-2000:]}")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """invoke-rc.d asks this file; 101 means no."""
    before = _POLICY.read_bytes() if _POLICY.exists() else None
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        if before is None:
            _POLICY.unlink()
        else:
            _POLICY.write_bytes(before)
