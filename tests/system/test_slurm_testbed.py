"""A real Slurm: what only it can show. Jobs run as the test user, in the test bed's namespace."""

import os
import secrets
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from slurm.cli import CliScheduler
from slurm.port import (
    FINAL_STATES,
    BatchJob,
    JobSnapshot,
    Resources,
    SchedulerUnreachable,
    SlurmJobId,
    SlurmState,
    SubmitAmbiguous,
)
from slurm.testbed import cluster, daemons, namespace, processes
from slurm.testbed.expose import closed_ancestor, expose
from slurm.testbed.layout import USER, Layout, TestBedError, default_dir
from slurm.testbed.packages import missing_packages

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def testbed() -> Iterator[Layout]:
    if os.geteuid() != 0 or missing_packages():
        pytest.skip("no Slurm on this machine; as root: python -m slurm.testbed up")
    layout = Layout(default_dir())
    with cluster.borrowed(layout):
        yield layout


@pytest.fixture
def folder(testbed: Layout) -> Path:
    path = testbed.home / "system" / f"it's #{secrets.token_hex(3)} 100% é"
    path.mkdir(parents=True)
    for each in (path, path.parent):
        shutil.chown(each, USER, USER)
    return path


def scheduler(testbed: Layout, **env: str) -> CliScheduler:
    return CliScheduler(user=USER, wrapper=namespace.as_user(testbed, [], env=env))


def batch(folder: Path, shell: str, **resources: object) -> BatchJob:
    name = f"sd-system-{secrets.token_hex(4)}"
    return BatchJob(
        name=name,
        command=("/bin/bash", "-c", shell),
        workdir=folder,
        log_path=folder / f"{name}.log",
        exit_record=folder / f"{name}.json",
        resources=Resources(**{"memory_mb": 500, "time_limit_s": 120, **resources}),  # type: ignore[arg-type]
    )


def run(testbed: Layout, job: BatchJob) -> str:
    """The log of the finished job."""
    slurm = scheduler(testbed)
    slurm.release(slurm.submit(job))
    wait_for(lambda: one(slurm, job.name).state in FINAL_STATES)
    assert one(slurm, job.name).state is SlurmState.COMPLETED, job.log_path.read_text()
    return job.log_path.read_text()


def one(slurm: CliScheduler, name: str) -> JobSnapshot:
    (seen,) = slurm.snapshot(name)
    return seen


def wait_for(good: Callable[[], bool], patience_s: float = 60.0) -> None:
    for _ in range(int(patience_s / 0.2)):
        if good():
            return
        threading.Event().wait(0.2)
    raise AssertionError(f"not within {patience_s} s")


@contextmanager
def stopped(testbed: Layout, name: str) -> Iterator[None]:
    processes.stop(testbed, [name])
    try:
        yield
    finally:
        daemon = daemons.one_daemon(testbed, name)
        daemons.begin(testbed, daemon)
        daemons.finish(testbed, daemon)


def test_a_second_up_changes_nothing(testbed: Layout) -> None:
    before = [processes.find(testbed, name) for name in cluster.running(testbed)]
    cluster.up(testbed)
    assert [processes.find(testbed, name) for name in cluster.running(testbed)] == before
    assert len(before) == 9


def test_a_job_in_a_folder_with_an_odd_name_is_at_home_there(testbed: Layout, folder: Path) -> None:
    assert run(testbed, batch(folder, "pwd; id -un")).splitlines() == [str(folder), USER]


def test_a_job_that_asks_for_a_slice_of_a_gpu_sees_only_its_own(
    testbed: Layout, folder: Path
) -> None:
    shell = "echo $CUDA_VISIBLE_DEVICES; for d in DIR/gpu1-nvidia*; do cat $d; done; exit 0"
    shell = shell.replace("DIR", f"{testbed.dir}/state/dev")
    job = batch(folder, shell, partition="gpu_test", gres="gpu:mig:1")
    lines = run(testbed, job).splitlines()
    assert lines[0].startswith("MIG-")
    assert sum("No such device" in line for line in lines) <= 1
    assert sum("Operation not permitted" in line for line in lines) >= 3


def test_rootless_podman_runs_containers_inside_a_job(testbed: Layout, folder: Path) -> None:
    log = run(testbed, batch(folder, PODMAN.replace("JOB", f"/tmp/sd-{secrets.token_hex(4)}")))
    assert "inside=uid0 " in log
    assert f"outside={USER}" in log
    assert "rootless=true" in log


PODMAN = r"""
set -eu
umask 077
mkdir -p JOB/run JOB/data JOB/conf/containers JOB/tmp JOB/image/bin
export XDG_RUNTIME_DIR=JOB/run XDG_DATA_HOME=JOB/data XDG_CONFIG_HOME=JOB/conf TMPDIR=JOB/tmp
export CONTAINERS_CONF=JOB/conf/containers/containers.conf
cat > $CONTAINERS_CONF <<'CONF'
[containers]
log_driver="k8s-file"
cgroups="disabled"
keyring=false
[engine]
cgroup_manager="cgroupfs"
events_logger="file"
lock_type="file"
CONF
printf '[storage]\ndriver="overlay"\ngraphroot="JOB/root"\nrunroot="JOB/runroot"\n' \
  > JOB/conf/containers/storage.conf
chmod 755 JOB/image JOB/image/bin
cp /bin/busybox JOB/image/bin/busybox
ln -s busybox JOB/image/bin/sh
ln -s busybox JOB/image/bin/id
tar -C JOB/image -c . | podman import - tiny
podman run --rm --network=none tiny /bin/sh -c 'echo "inside=uid$(id -u) "'
echo "outside=$(id -un) rootless=$(podman info --format '{{.Host.Security.Rootless}}')"
podman unshare rm -rf JOB/root JOB/data || true
kill "$(cat JOB/run/libpod/tmp/pause.pid)" 2>/dev/null || true
rm -rf JOB || true
"""


def test_a_stopped_controller_is_unreachable_and_a_submission_did_not_happen(
    testbed: Layout, folder: Path
) -> None:
    slurm, job = scheduler(testbed), batch(folder, "exit 0")
    with stopped(testbed, "slurmctld"):
        with pytest.raises(SchedulerUnreachable, match="connect failure"):
            slurm.submit(job)
        with pytest.raises(SchedulerUnreachable):
            slurm.snapshot()
    assert slurm.snapshot(job.name) == ()


def test_without_munge_a_submission_did_not_happen(testbed: Layout, folder: Path) -> None:
    slurm, job = scheduler(testbed), batch(folder, "exit 0")
    with stopped(testbed, "munged"):
        with pytest.raises(SchedulerUnreachable):
            slurm.submit(job)
        with pytest.raises(SchedulerUnreachable):
            slurm.snapshot()
    assert slurm.snapshot(job.name) == ()


def test_what_a_frozen_controller_was_told_is_found_by_name_later(
    testbed: Layout, folder: Path
) -> None:
    slurm, job = scheduler(testbed), batch(folder, "exit 0")
    controller = processes.find(testbed, "slurmctld")
    assert controller is not None
    os.kill(controller.pid, 19)
    try:
        with pytest.raises(SubmitAmbiguous, match=job.name):
            slurm.submit(job)
    finally:
        os.kill(controller.pid, 18)
    wait_for(lambda: bool(slurm.snapshot(job.name)))
    assert one(slurm, job.name).state is SlurmState.HELD
    slurm.cancel(job.name)
    wait_for(lambda: one(slurm, job.name).state is SlurmState.CANCELLED)


def test_accounting_out_of_service_is_not_silence(testbed: Layout, folder: Path) -> None:

    with stopped(testbed, "slurmdbd"), pytest.raises(SchedulerUnreachable):
        scheduler(testbed).history(["sd-any"], datetime.now(UTC))


def test_the_submitters_environment_neither_steers_nor_reaches_the_job(
    testbed: Layout, folder: Path
) -> None:
    slurm = scheduler(
        testbed, SBATCH_PARTITION="no-such", SQUEUE_FORMAT="%i", MY_TOKEN="hush-hush-hush"
    )
    job = batch(folder, "env")
    job_id = slurm.submit(job)
    slurm.release(job_id)
    wait_for(lambda: one(slurm, job.name).state in FINAL_STATES)
    assert "hush-hush-hush" not in job.log_path.read_text()
    for record in ("--env-vars", "--batch-script"):
        assert "hush-hush-hush" not in accounted(testbed, job_id, record)


def accounted(testbed: Layout, job_id: SlurmJobId, record: str) -> str:
    """What the database keeps of a job's script or environment."""
    seen: list[str] = []

    def look() -> bool:
        result = daemons.command(testbed, "sacct", "-j", job_id, record)
        seen.append(result.stdout)
        return len(result.stdout) > 100

    wait_for(look)
    return seen[-1]


def test_a_folder_behind_closed_doors_is_shown_inside_only_and_read_only(
    testbed: Layout, tmp_path: Path
) -> None:
    closed, shown = tmp_path / "closed", tmp_path / "closed/deep/shown"
    shown.mkdir(parents=True)
    (shown / "file").write_text("seen\n")
    (closed / "secret").write_text("not yours")
    shown.chmod(0o755)
    closed.chmod(0o700)
    holder = namespace.require(testbed)
    for _ in range(2):
        expose(holder.pid, [shown])
    shell = f"cat {shown}/file; echo x > {shown}/new; ls {closed}; id -un"
    result = subprocess.run(
        namespace.as_user(testbed, ["bash", "-c", shell]), capture_output=True, text=True
    )
    assert result.stdout.split() == ["seen", "deep", USER]
    assert "Read-only file system" in result.stderr or "Permission denied" in result.stderr
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700
    assert (closed / "secret").read_text() == "not yours"


def test_a_shown_folder_that_was_made_anew_is_shown_as_it_is_now(
    testbed: Layout, tmp_path: Path
) -> None:
    shown = tmp_path / "shown"
    tmp_path.chmod(0o700)
    for text in ("old", "new"):
        shutil.rmtree(shown, ignore_errors=True)
        shown.mkdir(mode=0o755)
        (shown / "file").write_text(text)
        expose(namespace.require(testbed).pid, [shown])
    command = namespace.as_user(testbed, ["cat", str(shown / "file")])
    assert subprocess.run(command, capture_output=True, text=True).stdout == "new"


def test_a_closed_folder_shows_what_is_open_in_it(testbed: Layout, tmp_path: Path) -> None:
    (tmp_path / "open").write_text("seen")
    (tmp_path / "open").chmod(0o644)
    (tmp_path / "secret").write_text("not yours")
    (tmp_path / "secret").chmod(0o600)
    tmp_path.chmod(0o700)
    expose(namespace.require(testbed).pid, [tmp_path])
    shell = f"cat {tmp_path}/open; ls {tmp_path}"
    command = namespace.as_user(testbed, ["bash", "-c", shell])
    output = subprocess.run(command, capture_output=True, text=True).stdout
    assert output == "seenopen\n"


def test_a_file_that_is_itself_closed_cannot_be_shown_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o600)
    with pytest.raises(TestBedError, match="chmod"):
        closed_ancestor(tmp_path / "secret")
