"""``skydeck``: the command line. Parses arguments, calls one function, returns its exit code."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from app.cli import admin, runs, server
from app.cli.client import CliError, connect
from app.cli.exit_codes import Exit
from app.cli.output import complain
from app.errors import AppError
from app.settings import Settings, load_settings

API_COMMANDS = {
    "launch": runs.launch,
    "ps": runs.ps,
    "show": runs.show,
    "logs": runs.logs,
    "cancel": runs.cancel,
}
LOCAL_COMMANDS = {
    "up": server.up,
    "web": server.web,
    "reconciler": server.reconciler,
    "migrate": server.migrate,
    "token": admin.token,
    "doctor": admin.doctor,
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        settings = load_settings(
            data_dir=args.data_dir,
            port=getattr(args, "port", None),
            host=getattr(args, "host", None),
            scheduler=getattr(args, "scheduler", None),
        )
        return _run(args, settings)
    except AppError as error:
        complain(error.detail)
        return Exit.INVALID if error.status == 422 else Exit.FAILED
    except CliError as error:
        complain(str(error))
        return error.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) is gone; nothing more is wanted.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK


def _run(args: argparse.Namespace, settings: Settings) -> int:
    if args.command in LOCAL_COMMANDS:
        return LOCAL_COMMANDS[args.command](args, settings)
    with_env = os.environ.get
    api = connect(
        settings, args.url or with_env("SKYDECK_URL"), args.token or with_env("SKYDECK_TOKEN")
    )
    return API_COMMANDS[args.command](args, api)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="skydeck", description="Coupled RL runs on Slurm.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data-dir", type=Path, help="data folder (SKYDECK_DATA_DIR)")
    common.add_argument("--json", action="store_true", help="print JSON")
    remote = argparse.ArgumentParser(add_help=False, parents=[common])
    remote.add_argument("--url", help="control plane (SKYDECK_URL)")
    remote.add_argument("--token", help="API token (SKYDECK_TOKEN)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _server_commands(commands, common)
    _run_commands(commands, remote)
    return top


Commands = argparse._SubParsersAction


def _server_commands(commands: "Commands", common: argparse.ArgumentParser) -> None:
    up = commands.add_parser("up", parents=[common], help="start web and reconciler")
    up.add_argument("--host")
    up.add_argument("--port", type=int)
    up.add_argument("--scheduler", choices=["auto", "local", "slurm"])
    web = commands.add_parser("web", parents=[common], help="the web process alone")
    web.add_argument("--fd", type=int, help="inherited listening socket")
    web.add_argument("--host")
    web.add_argument("--port", type=int)
    commands.add_parser("reconciler", parents=[common], help="the reconciler alone")
    commands.add_parser("migrate", parents=[common], help="bring the database to head")
    commands.add_parser("doctor", parents=[common], help="what works on this machine")
    token = commands.add_parser("token", parents=[common], help="API tokens")
    token.add_argument("action", choices=["create", "list", "revoke"])
    token.add_argument("name", nargs="?", help="name (create) or id (revoke)")
    token.add_argument("--days", type=int, help="expires after so many days")


def _run_commands(commands: "Commands", remote: argparse.ArgumentParser) -> None:
    launch = commands.add_parser("launch", parents=[remote], help="launch a run")
    launch.add_argument("spec", nargs="?", help="YAML file")
    launch.add_argument("--set", action="append", metavar="KEY=VALUE")
    launch.add_argument("--preset")
    launch.add_argument("--dry-run", action="store_true", help="plan and scripts, no side effect")
    launch.add_argument("--wait", action="store_true", help="until the run is final")
    launch.add_argument("--idempotency-key", help="the same key twice launches once")
    launch.add_argument("--runtime-only", action="store_true")
    launch.add_argument("--runtime-url", help="attach to a runtime that already exists")
    launch.add_argument("--runtime-token-file")
    ps = commands.add_parser("ps", parents=[remote], help="list runs")
    ps.add_argument("--state")
    ps.add_argument("--experiment")
    ps.add_argument("--all", action="store_true", help="all, not the newest 50")
    commands.add_parser("show", parents=[remote], help="one run").add_argument("run")
    logs = commands.add_parser("logs", parents=[remote], help="a job's log")
    logs.add_argument("run")
    logs.add_argument("role", choices=["runtime", "trainer"])
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("--index", type=int, default=0)
    logs.add_argument("--attempt", type=int)
    commands.add_parser("cancel", parents=[remote], help="cancel runs").add_argument(
        "run", nargs="+"
    )


if __name__ == "__main__":
    sys.exit(main())
