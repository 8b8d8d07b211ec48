"""The daemons of a test bed, in the order of their start."""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from slurm.testbed import namespace, processes
from slurm.testbed.layout import NODES, USER, Layout, TestBedError

_SQL = """
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';
"""


@dataclass(frozen=True)
class Daemon:
    name: str
    argv: Sequence[str]
    ready: Callable[[], bool]
    patience_s: float = 60.0
    prepare: Callable[[], object] = lambda: None
    complete: Callable[[], object] = lambda: None
    """After it is ready: what the next daemon needs from it."""


def all_daemons(layout: Layout) -> list[Daemon]:
    return [_munged(layout), _mariadbd(layout), _slurmdbd(layout), _slurmctld(layout)] + [
        _slurmd(layout, node) for node in NODES
    ]


def one_daemon(layout: Layout, name: str) -> Daemon:
    for daemon in all_daemons(layout):
        if daemon.name == name:
            return daemon
    known = " ".join(daemon.name for daemon in all_daemons(layout))
    raise TestBedError(f"no daemon is called {name!r}; there are: {known}")


def begin(layout: Layout, daemon: Daemon) -> None:
    """Launch without waiting. Harmless if it runs."""
    if processes.find(layout, daemon.name) is None:
        daemon.prepare()
        argv = namespace.enter(namespace.require(layout), daemon.argv)
        processes.launch(layout, daemon.name, argv, environment(layout))


def finish(layout: Layout, daemon: Daemon) -> None:
    processes.wait_for(layout, daemon.name, daemon.ready, daemon.patience_s)
    daemon.complete()


def environment(layout: Layout) -> Mapping[str, str]:
    return {"PATH": namespace.PATH, "SLURM_CONF": str(layout.slurm_conf), "LANG": "C.UTF-8"}


def command(layout: Layout, *argv: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """A client of the cluster, as root."""
    return subprocess.run(
        argv,
        env=dict(environment(layout)),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )


def node_states(layout: Layout) -> dict[str, str]:
    result = command(layout, "sinfo", "-h", "-N", "-o", "%N %t")
    return dict(line.split()[:2] for line in result.stdout.splitlines())


def _succeeds(layout: Layout, *argv: str) -> Callable[[], bool]:
    return lambda: command(layout, *argv).returncode == 0


def _munged(layout: Layout) -> Daemon:
    d, socket = layout.dir, str(layout.munge_socket)
    return Daemon(
        "munged",
        [
            *("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"),
            *("/usr/sbin/munged", "--foreground", "--force", "--num-threads=4"),
            f"--key-file={d}/etc/munge/munge.key",
            f"--socket={socket}",
            f"--pid-file={d}/run/munge/munged.pid",
            f"--log-file={d}/log/munge/munged.log",
            f"--seed-file={d}/state/munge/seed",
        ],
        _succeeds(layout, "munge", "-n", "-S", socket),
    )


def _mariadbd(layout: Layout) -> Daemon:
    d, client = layout.dir, ("--no-defaults", "-uroot", "-S", str(layout.db_socket))

    def install() -> None:
        if not (d / "state/db/mysql").exists():
            result = command(
                layout,
                *("mariadb-install-db", "--no-defaults", "--user=mysql", "--skip-test-db"),
                f"--datadir={d}/state/db",
                "--auth-root-authentication-method=socket",
            )
            if result.returncode != 0:
                raise TestBedError(f"mariadb-install-db failed:\n{result.stderr[-1500:]}")

    return Daemon(
        "mariadbd",
        [
            *("/usr/sbin/mariadbd", "--no-defaults", "--user=mysql"),
            f"--datadir={d}/state/db",
            f"--socket={layout.db_socket}",
            f"--pid-file={d}/run/db/db.pid",
            *("--bind-address=127.0.0.1", "--port=16306", "--skip-name-resolve"),
            # Without them MariaDB stores latin1, and other letters become question marks.
            *("--character-set-server=utf8mb4", "--collation-server=utf8mb4_general_ci"),
            *("--skip-log-bin", "--innodb-buffer-pool-size=128M", "--innodb-log-file-size=64M"),
            *("--innodb-lock-wait-timeout=900", "--innodb-flush-log-at-trx-commit=2"),
            "--performance-schema=OFF",
        ],
        _succeeds(layout, "mariadb-admin", *client, "ping"),
        prepare=install,
        complete=lambda: command(layout, "mariadb", *client, stdin=_SQL),
    )


def _slurmdbd(layout: Layout) -> Daemon:
    def associate() -> None:
        add = ("sacctmgr", "-i", "-Q", "add")
        command(layout, *add, "cluster", "skydeck")
        command(layout, *add, "account", "rl", "Description=rl", "Organization=rl")
        for user in ("root", USER):
            command(layout, *add, "user", user, "Account=rl", "Cluster=skydeck")

    return Daemon(
        "slurmdbd",
        ["/usr/sbin/slurmdbd", "-D"],
        _succeeds(layout, "sacctmgr", "-n", "-P", "list", "cluster"),
        complete=associate,
    )


def _slurmctld(layout: Layout) -> Daemon:
    return Daemon(
        "slurmctld",
        ["/usr/sbin/slurmctld", "-D", "-f", str(layout.slurm_conf)],
        lambda: "is UP" in command(layout, "scontrol", "ping").stdout,
    )


def _slurmd(layout: Layout, node: str) -> Daemon:
    return Daemon(
        f"slurmd-{node}",
        ["/usr/sbin/slurmd", "-D", "-f", str(layout.slurm_conf), "-N", node],
        lambda: node_states(layout).get(node) in {"idle", "mix", "alloc"},
    )
