"""The same suite once more, as an unprivileged user with subordinate ids, as inside a Slurm job.

The user exists only inside a private mount namespace; the host's account files stay as they are.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from engine_backends import cache, why_no_podman

ROOT = Path(__file__).parents[3]
UID = 5199
DEADLINE_S = 280
NAMESPACE = r"""
set -eu
folder="$1"; shift
for file in passwd group; do
    cp "/etc/$file" "$folder/$file"
done
echo "sdtest:x:5199:5199::/tmp:/bin/sh" >>"$folder/passwd"
echo "sdtest:x:5199:" >>"$folder/group"
echo "sdtest:300000:65536" >"$folder/subid"
touch /etc/subuid /etc/subgid
mount --bind "$folder/passwd" /etc/passwd
mount --bind "$folder/group" /etc/group
mount --bind "$folder/subid" /etc/subuid
mount --bind "$folder/subid" /etc/subgid
if grep -q ' /sys/fs/cgroup/unified ' /proc/self/mountinfo; then umount /sys/fs/cgroup/unified; fi
exec setpriv --reuid=5199 --regid=5199 --init-groups env -i "$@"
"""


def interpreters() -> list[str]:
    """The tests' own, unless it lies in a folder that other users may not enter."""
    return [sys.executable, "/usr/bin/python3"]


def as_user(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = [str(ROOT), *(p for p in sys.path if p.endswith("site-packages"))]
    environment = [
        "HOME=/tmp",
        "USER=sdtest",
        "LANG=C.UTF-8",
        "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"PYTHONPATH={':'.join(paths)}",
        "PYTHONDONTWRITEBYTECODE=1",
        f"SKYDECK_TEST_CACHE={cache()}",
    ]
    unshare = ["unshare", "--mount", "--propagation", "private"]
    return subprocess.run(
        [*unshare, "sh", "-c", NAMESPACE, "sh", str(folder), *environment, *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        cwd="/",
    )


@pytest.mark.timeout(300)
def test_the_suite_holds_for_rootless_podman(
    tmp_path: Path, tool_server: Path, archive: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root: the suite itself already runs rootless")
    if why := why_no_podman():
        pytest.skip(why)
    python = next(
        (p for p in interpreters() if not as_user(tmp_path, p, "-c", "import pytest").returncode),
        None,
    )
    if python is None:
        pytest.skip("this checkout, or its Python, lies in a folder that other users may not enter")
    suite = Path(__file__).parent
    ran = as_user(
        tmp_path,
        *(python, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-k", "not fake"),
        f"--rootdir={ROOT}",
        f"--confcutdir={suite}",
        f"--basetemp=/tmp/sdtest-{os.getpid()}",
        str(suite / "test_engine_conformance.py"),
        str(suite / "test_engine_end.py"),
    )
    subprocess.run(["rm", "-rf", f"/tmp/sdtest-{os.getpid()}"], check=True)
    assert ran.returncode == 0, ran.stdout[-6000:] + ran.stderr[-2000:]
    assert " passed" in ran.stdout
