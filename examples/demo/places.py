"""Where the demo's control plane runs: on this machine alone, or inside the Slurm test bed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.cli.client import TOKEN_FILE, ApiClient
from workers.contract.env import CONTROL_PLANE_FILE

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 60.0


class DemoError(Exception):
    """Ends the demo with a text for people."""


@dataclass
class LocalPlace:
    """``skydeck up`` as a child of the demo; jobs are processes of this machine."""

    train_python: Path
    home: Path = ROOT / ".skydeck" / "demo-local"
    scheduler: str = "local"
    process: subprocess.Popen[bytes] | None = None
    log: Path = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.home.parent / f"{self.home.name}.log"

    def prepare(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)

    def visible(self, path: Path) -> Path:
        """The path under which jobs see a file of this machine."""
        return path

    def start(self) -> ApiClient:
        """Start `skydeck up` and wait for its health page."""
        self._forget_address()
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                self.wrap([sys.executable, "-m", "app", "up", "--port", "0"]),
                cwd=ROOT,
                env={**os.environ, **self.settings()},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._wait_for_health(time.monotonic() + START_DEADLINE_S)

    def wrap(self, command: Sequence[str]) -> list[str]:
        return list(command)

    def settings(self) -> Mapping[str, str]:
        return {
            "SKYDECK_DATA_DIR": str(self.home),
            "SKYDECK_SCHEDULER": self.scheduler,
            "SKYDECK_TRAIN_PYTHON": str(self.train_python),
            "SKYDECK_TICK": "1",
            "SKYDECK_HEARTBEAT": "2",
        }

    def login_link(self) -> str:
        return f"{self._address()}/login?token={self._token()}"

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def _forget_address(self) -> None:
        """An address of an earlier control plane must not be taken for the new one's."""
        (self.home / CONTROL_PLANE_FILE).unlink(missing_ok=True)

    def _wait_for_health(self, until: float) -> ApiClient:
        assert self.process is not None
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise DemoError(f"skydeck up ended at once:\n{self.log.read_text()}")
            if (self.home / CONTROL_PLANE_FILE).exists() and (self.home / TOKEN_FILE).exists():
                client = ApiClient(self._address(), self._token())
                client.get("/health")
                return client
            time.sleep(0.1)
        raise DemoError(f"skydeck up did not answer in {START_DEADLINE_S:g} s; see {self.log}")

    def _address(self) -> str:
        return str(json.loads((self.home / CONTROL_PLANE_FILE).read_text())["url"])

    def _token(self) -> str:
        return (self.home / TOKEN_FILE).read_text().strip()


@dataclass
class SlurmPlace(LocalPlace):
    """The same inside the test bed, as its unprivileged user; jobs are real Slurm jobs."""

    home: Path = Path("/var/tmp/skydeck-demo-slurm")
    scheduler: str = "slurm"
    exposed: Sequence[Path] = ()

    def prepare(self) -> None:
        expose = [part for path in self.exposed for part in ("--expose", str(path))]
        self._testbed("up", *expose)
        self.home.mkdir(parents=True, exist_ok=True)
        shutil.chown(self.home, TESTBED_USER, TESTBED_USER)
        self.home.chmod(0o700)

    def wrap(self, command: Sequence[str]) -> list[str]:
        settings = [f"{name}={value}" for name, value in self.settings().items()]
        return [sys.executable, "-m", "slurm.testbed", "run", "--", "env", *settings, *command]

    def stop(self) -> None:
        super().stop()
        self._testbed("down")

    def _testbed(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "slurm.testbed", *arguments]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            raise DemoError(f"the Slurm test bed failed: {' '.join(arguments)}")


TESTBED_USER = "skydeck-test"
