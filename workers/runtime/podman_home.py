"""The private podman of one runtime job: its folders, its configuration, its service, its end.

Nothing here is shared with another job of the same user, and nothing remains after ``remove``.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers import ownership
from workers.runtime import processes
from workers.runtime.engine import EngineBroken, EngineUnreachable

SERVICE_START_S = 30.0
SERVICE_STOP_S = 5.0
CLEANUP_COMMAND_S = 60.0
SECCOMP_SOURCES = (
    Path("/etc/containers/seccomp.json"),
    Path("/usr/share/containers/seccomp.json"),
)
_NAMESPACE_CALLS = frozenset(
    {"clone", "clone3", "unshare", "setns", "mount", "umount", "umount2", "pivot_root"}
    | {"move_mount", "open_tree", "fsopen", "fsmount", "fsconfig", "fspick", "mount_setattr"}
    | {"bpf", "perf_event_open", "keyctl", "add_key", "request_key", "userfaultfd", "chroot"}
)
_CLONE_NAMESPACE_FLAGS = 0x7E020000
_ENOSYS = 38
_UNMOUNT = 'umount "$0" && exec "$@"'


HOMES = "sd-????????"
"""What the names of all homes look like."""


def home_for(job_name: str, temporary: Path) -> Path:
    """One folder per job, the same for a restarted server, so that it finds what is left over.

    Unix sockets lie below it and their paths have a limit of 107 bytes.
    """
    base = temporary if len(str(temporary)) <= 48 else Path("/tmp")  # noqa: S108
    return base / f"sd-{hashlib.sha256(f'{os.getuid()}:{job_name}'.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class PodmanHome:
    root: Path
    rootless: bool
    cgroups: bool
    """Containers get control groups of their own, so that memory and pids are enforced."""
    hidden_hierarchy: Path | None = None
    """Where cgroup v2 is mounted beside v1, and only then. crun starts nothing while it sees that,
    so root's podman runs in a mount namespace of its own, without it."""

    @property
    def graphroot(self) -> Path:
        return self.root / "root"

    @property
    def runroot(self) -> Path:
        return self.root / "runroot"

    @property
    def socket(self) -> Path:
        return self.root / "run" / "podman.sock"

    @property
    def tmp_dir(self) -> Path:
        return self.root / "run" / "libpod" / "tmp"

    @property
    def exits(self) -> Path:
        """Where podman looks for the exit code that the container's monitor leaves."""
        return self.tmp_dir / "exits"

    @property
    def control(self) -> Path:
        return self.root / "c"

    @property
    def seccomp(self) -> Path:
        return self.root / "conf" / "seccomp.json"

    @property
    def cgroup_parent(self) -> str:
        return f"/skydeck-{self.root.name}"

    def prepare(self) -> None:
        """Makes the folders and the configuration. Raises EngineBroken if somebody else has it."""
        self.root.mkdir(mode=0o700, exist_ok=True)
        found = self.root.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise EngineBroken(f"{self.root} belongs to somebody else; remove it")
        self.root.chmod(0o700)
        for name in ("run", "data", "conf/containers", "tmp", "c"):
            (self.root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        ownership.mark(self.root)
        (self.root / "conf/containers/containers.conf").write_text(self._containers_conf())
        (self.root / "conf/containers/storage.conf").write_text(self._storage_conf())
        self.seccomp.write_text(json.dumps(seccomp_profile(_first_existing(SECCOMP_SOURCES))))

    def _containers_conf(self) -> str:
        return "\n".join(
            (
                "[containers]",
                'log_driver="none"',
                f'cgroups="{"enabled" if self.cgroups else "disabled"}"',
                "keyring=false",  # else some 200 containers exhaust the user's keys
                "[engine]",
                'cgroup_manager="cgroupfs"',
                'events_logger="none"',
                f'tmp_dir="{self.tmp_dir}"',
                'lock_type="file"',  # else all jobs of the user share one lock segment
                "exit_command_delay=5",
                "",
            )
        )

    def _storage_conf(self) -> str:
        return (
            f'[storage]\ndriver="overlay"\ngraphroot="{self.graphroot}"\nrunroot="{self.runroot}"\n'
        )

    def namespace_prefix(self) -> tuple[str, ...]:
        if self.hidden_hierarchy is None:
            return ()
        unshare = ("unshare", "--mount", "--propagation", "private")
        return (*unshare, "sh", "-c", _UNMOUNT, str(self.hidden_hierarchy))

    def environment(self, path: str) -> Mapping[str, str]:
        """All that podman sees of its surroundings: nothing of the job's variables reaches it.

        Rootless podman ignores graphroot in a file named by CONTAINERS_STORAGE_CONF, and rootful
        podman does not look into XDG_CONFIG_HOME: each kind gets its own way.
        """
        environment = {
            "PATH": path,
            "HOME": str(self.root),
            "LANG": "C.UTF-8",
            "XDG_RUNTIME_DIR": str(self.root / "run"),
            "XDG_DATA_HOME": str(self.root / "data"),
            "XDG_CONFIG_HOME": str(self.root / "conf"),
            "TMPDIR": str(self.root / "tmp"),
            "CONTAINERS_CONF": str(self.root / "conf/containers/containers.conf"),
        }
        if not self.rootless:
            environment["CONTAINERS_STORAGE_CONF"] = str(self.root / "conf/containers/storage.conf")
        return environment


def _first_existing(paths: Iterable[Path]) -> Path:
    for path in paths:
        if path.exists():
            return path
    raise EngineBroken(
        "podman's seccomp profile is missing; install golang-github-containers-common"
    )


def seccomp_profile(source: Path) -> dict[str, object]:
    """The distribution's profile, tightened.

    One architecture instead of three (compiling the filter is a third of a container's start), and
    no calls that make or enter namespaces: the stock profile allows nested user namespaces.
    ``clone3`` hides its flags from filters; told that it does not exist, libc uses ``clone``.
    """
    profile = json.loads(source.read_text())
    machine = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}[os.uname().machine]
    rules: list[dict[str, object]] = [
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {
                    "index": 0,
                    "value": _CLONE_NAMESPACE_FLAGS,
                    "valueTwo": 0,
                    "op": "SCMP_CMP_MASKED_EQ",
                }
            ],
        },
    ]
    for rule in profile["syscalls"]:
        if rule.get("includes", {}).get("caps"):
            continue  # sandboxes have no capabilities
        names = [name for name in rule["names"] if name not in _NAMESPACE_CALLS]
        if names:
            rules.append({**rule, "names": names})
    profile.pop("archMap", None)
    return {**profile, "architectures": [machine], "syscalls": rules}


class PodmanService:
    """``podman system service`` on the job's own socket."""

    def __init__(self, home: PodmanHome, path: str) -> None:
        self._home = home
        self._environment = dict(home.environment(path))
        self._process: asyncio.subprocess.Process | None = None
        self._restarting = asyncio.Lock()
        self.launches = 0
        """How often the service was started; a higher number than before a call means that the
        call may have met a dead one."""

    async def start(self) -> None:
        """Clears what a killed predecessor left, starts the service, waits for its socket."""
        await self.remove_leftovers()
        self._home.prepare()
        await self._launch()

    async def ensure_running(self) -> None:
        """Containers go on without the service, and a new one knows them all."""
        async with self._restarting:
            if self._process is not None and not processes.alive(self._process.pid):
                self._home.socket.unlink(missing_ok=True)
                await self._launch()

    async def _launch(self) -> None:
        self.launches += 1
        log = (self._home.root / "service.log").open("ab")
        with log:
            self._process = await asyncio.create_subprocess_exec(
                *self._home.namespace_prefix(),
                *("podman", "system", "service", "--time=0", f"unix://{self._home.socket}"),
                env=self._environment,
                cwd="/",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        await self._wait_for_socket(self._process)

    async def _wait_for_socket(self, process: asyncio.subprocess.Process) -> None:
        try:
            async with asyncio.timeout(SERVICE_START_S):
                while not self._home.socket.exists():
                    if process.returncode is not None:
                        raise EngineBroken(f"podman does not start: {self.log_tail()}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise EngineUnreachable(
                f"podman made no socket in {SERVICE_START_S:.0f} s: {self.log_tail()}"
            ) from None

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            text = (self._home.root / "service.log").read_text(errors="replace").strip()
            return text[-600:] or "no message"
        return "no log"

    async def remove_leftovers(self) -> None:
        """Recovery order after a kill of service, monitors and payloads together: every podman
        command fails then, ``system reset`` too, until the run directories are gone."""
        if not self._home.root.exists():
            return
        await self.remove()

    async def remove(self) -> None:
        """Ends every process of this home and deletes it. May be repeated.

        Order matters: files of containers belong to subordinate ids, so only podman's user
        namespace may delete them, and the pause process that holds it must die last but one.
        """
        await self._stop_service()
        await processes.kill_trees(processes.using(self._home.root), spare=self._pause_pid())
        if self._home.root.exists():
            await self._delete_storage()
        await processes.kill_trees(processes.using(self._home.root) | self._pause_pid())
        await _unmount_below(self._home.root)
        shutil.rmtree(self._home.root, ignore_errors=True)
        remove_cgroups(self._home.cgroup_parent)

    async def _stop_service(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), SERVICE_STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def _pause_pid(self) -> frozenset[int]:
        for file in (self._home.tmp_dir / "pause.pid", self._home.root / "run/libpod/pause.pid"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(file.read_text())
                if b"catatonit" in processes.argv(pid) or b"podman" in processes.argv(pid):
                    return frozenset({pid})
        return frozenset()

    async def _delete_storage(self) -> None:
        if not self._home.rootless:
            return
        storage = [str(self._home.graphroot), str(self._home.control), str(self._home.runroot)]
        await self._run(("podman", "unshare", "rm", "-rf", *storage))

    async def _run(self, command: Sequence[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            env=self._environment,
            cwd="/",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await asyncio.wait_for(process.wait(), CLEANUP_COMMAND_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _unmount_below(root: Path) -> None:
    points = [p for p in mount_points() if p == str(root) or p.startswith(f"{root}/")]
    for point in sorted(points, key=len, reverse=True):
        process = await asyncio.create_subprocess_exec(
            "umount", "--lazy", point, stderr=asyncio.subprocess.DEVNULL
        )
        await process.wait()


def mount_points() -> tuple[str, ...]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return tuple(line.split()[4].encode().decode("unicode_escape") for line in lines)


def remove_cgroups(parent: str, hierarchies: Path = Path("/sys/fs/cgroup")) -> None:
    """Deletes the job's control groups in every hierarchy; they hold no process any more."""
    for top in (hierarchies / parent.lstrip("/"), *hierarchies.glob(f"*{parent}")):
        for folder, _, _ in os.walk(top, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
