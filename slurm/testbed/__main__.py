"""``python -m slurm.testbed install|up|down|status|wipe|run CMD...|start X|stop X``."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from slurm.testbed import cluster, daemons, namespace, packages, processes
from slurm.testbed.layout import Layout, TestBedError, default_dir


def main(argv: list[str]) -> int:
    options = _parser().parse_args(argv)
    layout = Layout(options.dir.absolute())
    try:
        return int(options.call(layout, options) or 0)
    except TestBedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m slurm.testbed",
        description="A real Slurm on this Debian machine, in one folder, for demos and tests.",
    )
    parser.add_argument("--dir", type=Path, default=default_dir(), help="default: %(default)s")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    install = verbs.add_parser("install", help="install the Debian packages, start nothing")
    install.set_defaults(call=_install)
    up = verbs.add_parser("up", help="install what is missing and start everything")
    up.add_argument("--min-job-age", type=int, default=300, help="seconds until jobs are purged")
    _add_exposures(up)
    up.set_defaults(call=_up)
    for name, call, text in (
        ("down", _down, "end all jobs and stop everything"),
        ("status", _status, "exit code 0 if everything runs, else 3"),
        ("wipe", _wipe, "down, then remove the folder and the test user"),
    ):
        verbs.add_parser(name, help=text).set_defaults(call=call)
    run = verbs.add_parser("run", help="run a command inside, as the test user")
    run.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument("--cwd", type=Path, help="default: here, if open to the test user, else HOME")
    _add_exposures(run)
    run.add_argument("command", nargs=argparse.REMAINDER)
    run.set_defaults(call=_run)
    for name, call in (("start", _start), ("stop", _stop)):
        verb = verbs.add_parser(name, help=f"{name} one daemon, such as slurmctld or slurmd-cpu1")
        verb.add_argument("daemon")
        verb.set_defaults(call=call)
    return parser


def _add_exposures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--expose",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="let the test user see this folder, also below closed ones",
    )
    parser.add_argument("--expose-rw", type=Path, action="append", default=[], metavar="PATH")


def _install(layout: Layout, options: argparse.Namespace) -> None:
    packages.install_packages()


def _up(layout: Layout, options: argparse.Namespace) -> None:
    begin = time.monotonic()
    exposed = cluster.up(layout, options.min_job_age, options.expose, options.expose_rw)
    print(f"up in {time.monotonic() - begin:.1f} s: SLURM_CONF={layout.slurm_conf}")
    for path in exposed:
        print(f"exposed {path}")


def _down(layout: Layout, options: argparse.Namespace) -> None:
    begin = time.monotonic()
    cluster.down(layout)
    print(f"down in {time.monotonic() - begin:.1f} s")


def _wipe(layout: Layout, options: argparse.Namespace) -> None:
    cluster.wipe(layout)


def _status(layout: Layout, options: argparse.Namespace) -> int:
    names = [namespace.HOLDER, *(daemon.name for daemon in daemons.all_daemons(layout))]
    found = {name: processes.find(layout, name) for name in names}
    for name, process in found.items():
        print(f"{name:14} {'pid ' + str(process.pid) if process else 'stopped'}")
    if found["slurmctld"]:
        nodes = daemons.node_states(layout)
        print("nodes          " + " ".join(f"{node}={state}" for node, state in nodes.items()))
    return 0 if all(found.values()) else 3


def _run(layout: Layout, options: argparse.Namespace) -> NoReturn:
    if not options.command:
        raise TestBedError("run what? for example: run squeue")
    cluster.expose_more(layout, options.expose, options.expose_rw)
    variables = dict(pair.split("=", 1) for pair in options.env)
    command = [word for i, word in enumerate(options.command) if not (i == 0 and word == "--")]
    cwd = options.cwd or namespace.visible_cwd()
    argv = namespace.as_user(layout, command, cwd, variables)
    sys.stdout.flush()
    # In our place, so that whoever signals us signals the command.
    os.execvp(argv[0], argv)  # noqa: S606 - no shell is wanted


def _start(layout: Layout, options: argparse.Namespace) -> None:
    daemon = daemons.one_daemon(layout, options.daemon)
    daemons.begin(layout, daemon)
    daemons.finish(layout, daemon)


def _stop(layout: Layout, options: argparse.Namespace) -> None:
    processes.stop(layout, [daemons.one_daemon(layout, options.daemon).name])


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
