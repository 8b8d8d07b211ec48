import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scheduler_backends import Backend, FakeWorld, Renamed, frozen, sleep

from slurm.cli import CliScheduler
from slurm.faulty import FaultyScheduler
from slurm.local import LocalScheduler
from slurm.local_files import supervisor_pid
from slurm.local_process import send_signal
from slurm.testbed import cluster, namespace, processes
from slurm.testbed.layout import USER, Layout, default_dir
from slurm.testbed.packages import missing_packages

NO_PROCESSES = {
    "processes": "it runs nothing: outcomes are scripted",
    "partitions": "it has none; FakeScheduler.refuse_next plays a refusal",
}


def fake(tmp_path: Path) -> Iterator[Backend]:
    world = FakeWorld()
    yield Backend(
        world.scheduler,
        tmp_path,
        pass_time=world.clock.move,
        outage=world.outage,
        gaps=NO_PROCESSES,
        script=world.outcomes.__setitem__,
    )


def faulty(tmp_path: Path) -> Iterator[Backend]:
    """Without faults the wrapper must be invisible."""
    world = FakeWorld()
    yield Backend(
        FaultyScheduler(world.scheduler, world.clock),
        tmp_path,
        pass_time=world.clock.move,
        outage=world.outage,
        gaps=NO_PROCESSES,
        script=world.outcomes.__setitem__,
    )


def local(tmp_path: Path) -> Iterator[Backend]:
    directory = tmp_path / "scheduler"
    scheduler = LocalScheduler(directory, deadline_s=3.0, grace_s=2.0, idle_exit_s=60.0)

    @contextmanager
    def outage() -> Iterator[None]:
        supervisor = supervisor_pid(directory)
        assert supervisor is not None
        with frozen(supervisor.pid):
            yield

    yield Backend(
        scheduler,
        tmp_path,
        pass_time=sleep,
        outage=outage,
        gaps={
            "partitions": "one machine has no partitions; the field is ignored",
            "memory": "an ordinary user cannot limit the memory of a process tree",
        },
    )
    for job in scheduler.snapshot():
        scheduler.cancel(job.name)
    supervisor = supervisor_pid(directory)
    if supervisor is not None:
        send_signal(supervisor, 15)


@pytest.fixture(scope="session")
def testbed() -> Iterator[Layout]:
    if os.geteuid() != 0 or missing_packages():
        pytest.skip("no Slurm on this machine; as root: python -m slurm.testbed up")
    layout = Layout(default_dir())
    with cluster.borrowed(layout):
        yield layout


@pytest.fixture
def cli(testbed: Layout) -> Iterator[Backend]:
    mark = f"t{secrets.token_hex(4)}-"
    directory = testbed.home / "conformance" / mark
    directory.mkdir(parents=True)
    for folder in (directory, directory.parent):
        shutil.chown(folder, USER, USER)
    scheduler = CliScheduler(user=USER, wrapper=namespace.as_user(testbed, []))

    @contextmanager
    def outage() -> Iterator[None]:
        slurmctld = processes.find(testbed, "slurmctld")
        assert slurmctld is not None
        with frozen(slurmctld.pid):
            yield

    yield Backend(
        Renamed(scheduler, mark),
        directory,
        pass_time=sleep,
        outage=outage,
        gaps={"time_limit": "Slurm looks twice a minute, after the first one: 74 s measured"},
        patience_s=60.0,
    )
    for job in scheduler.snapshot(mark):
        scheduler.cancel(job.name)


BACKENDS = {"fake": fake, "faulty": faulty, "local": local}


@pytest.fixture(params=[*BACKENDS, pytest.param("cli", marks=pytest.mark.slurm)])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    if request.param == "cli":
        yield request.getfixturevalue("cli")
    else:
        yield from BACKENDS[request.param](tmp_path)
