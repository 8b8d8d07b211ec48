"""The configuration files of a test bed."""

import hashlib
import os
import secrets
import shutil
from pathlib import Path

from slurm.testbed.layout import GPU_NODES, GPUS_A_NODE, Layout, short_host_name

_FILES = Path(__file__).parent / "files"


def write_configuration(layout: Layout, min_job_age_s: int) -> None:
    """Same input, same files: an existing test bed keeps its state."""
    texts = {
        "@DIR@": str(layout.dir),
        "@HOST@": short_host_name(),
        "@MIN_JOB_AGE@": str(min_job_age_s),
        "@ENFORCEMENT@": _read("enforced.conf" if has_cgroup_v1() else "unenforced.conf").strip(),
    }
    for name, owner, mode in (
        ("slurm.conf", "root", 0o644),
        ("gres.conf", "root", 0o644),
        ("cgroup.conf", "root", 0o644),
        # slurmdbd refuses any other owner or mode.
        ("slurmdbd.conf", "slurm", 0o600),
        ("task_prolog.sh", "root", 0o755),
    ):
        _write(layout.dir / "etc" / name, _fill(_read(name), texts), owner, mode)
    _write(layout.dir / "etc/mig_map", _mig_map(), "root", 0o644)
    _make_munge_key(layout)


def has_cgroup_v1() -> bool:
    """Memory and devices are enforced only there; elsewhere jobs run without limits."""
    return all(Path("/sys/fs/cgroup", name, "tasks").exists() for name in ("memory", "freezer"))


def _mig_map() -> str:
    lines = (f"{node} {i} {_mig_name(node, i)}" for node in GPU_NODES for i in range(GPUS_A_NODE))
    return "\n".join(lines) + "\n"


def _mig_name(node: str, index: int) -> str:
    digest = hashlib.md5(f"{node}-{index}".encode(), usedforsecurity=False).hexdigest()
    return "MIG-" + "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:]))


def _make_munge_key(layout: Layout) -> None:
    path = layout.dir / "etc/munge/munge.key"
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(1024))
        shutil.chown(path, "munge", "munge")


def _read(name: str) -> str:
    return (_FILES / name).read_text()


def _fill(text: str, values: dict[str, str]) -> str:
    for mark, value in values.items():
        text = text.replace(mark, value)
    return text


def _write(path: Path, text: str, owner: str, mode: int) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_text(text)
    shutil.chown(path, owner, owner)
