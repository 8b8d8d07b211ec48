"""``token`` and ``doctor``: commands about this installation, without the API."""

from argparse import Namespace

from app import doctor as checks
from app import wiring
from app.cli.client import CliError
from app.cli.exit_codes import Exit
from app.cli.output import show_json, show_table
from app.clock import system_clock
from app.db import tokens
from app.db.engine import make_sessions
from app.settings import Settings


def token(args: Namespace, settings: Settings) -> Exit:
    """``create NAME`` prints the token once; only its hash is kept."""
    if args.action == "list":
        return _list(args, settings)
    if not args.name:
        raise CliError(f"token {args.action}: name it", Exit.INVALID)
    if args.action == "create":
        made = wiring.create_token(settings, args.name, args.days)
        show_json({"name": args.name, "token": made}) if args.json else print(made)
        return Exit.OK
    with make_sessions(wiring.engine(settings)).begin() as session:
        if not any(row.id == args.name for row in tokens.every(session)):
            raise CliError(f"no token has the id {args.name}", Exit.NOT_FOUND)
        tokens.revoke(session, args.name, system_clock())
    return Exit.OK


def _list(args: Namespace, settings: Settings) -> Exit:
    with make_sessions(wiring.engine(settings))() as session:
        rows = [
            {
                "id": row.id,
                "name": row.name,
                "created": row.created_at.isoformat(timespec="seconds"),
                "expires": row.expires_at and row.expires_at.isoformat(timespec="seconds"),
                "revoked": row.revoked_at and row.revoked_at.isoformat(timespec="seconds"),
            }
            for row in tokens.every(session)
        ]
    if args.json:
        show_json(rows)
    else:
        show_table(rows, ("id", "name", "created", "expires", "revoked"))
    return Exit.OK


def doctor(args: Namespace, settings: Settings) -> Exit:
    """Look at everything a run needs; exit 12 when something would make it fail."""
    results = checks.examine(settings, checks.this_machine())
    if args.json:
        show_json([result.__dict__ for result in results])
    else:
        for result in results:
            mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}[result.verdict]
            print(f"{mark}  {result.name}: {result.text}")
            if result.mend:
                print(f"         mend: {result.mend}")
    return Exit.UNHEALTHY if any(r.verdict == "error" for r in results) else Exit.OK
