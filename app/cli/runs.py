"""``launch``, ``ps``, ``show``, ``logs``, ``cancel``: commands about runs, all through the API."""

import sys
import uuid
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

from app.cli.client import ApiClient, CliError
from app.cli.exit_codes import Exit
from app.cli.output import clean, show_json, show_table
from app.specfile import read_document

FINAL = {"SUCCEEDED": Exit.OK, "FAILED": Exit.RUN_FAILED, "CANCELLED": Exit.RUN_CANCELLED}

Wait = Callable[[float], object]
"""Waits for so many seconds; injected so that tests need no real time."""


def launch(args: Namespace, api: ApiClient, wait: Wait | None = None) -> Exit:
    body = {"spec": document(args), "sets": list(args.set or ()), "preset": args.preset}
    if args.dry_run:
        return _dry_run(args, api.post("/runs", body, dry_run="true"))
    key = args.idempotency_key or uuid.uuid4().hex
    run = api.post("/runs", body, headers={"Idempotency-Key": key})
    _warn(api, run["id"])
    if not args.wait:
        show_json(run) if args.json else print(f"{run['id']}  {run['name']}  {run['state']}")
        return Exit.OK
    return follow(args, api, run["id"], wait or Event().wait)


def _warn(api: ApiClient, run_id: str) -> None:
    for found in api.get(f"/runs/{run_id}/findings")["items"]:
        if found["code"].startswith("plan."):
            print(f"warning: {clean(found['text'])}", file=sys.stderr)


def document(args: Namespace) -> dict[str, Any]:
    """The spec document of a launch: the file, and what the short forms add to it."""
    spec = read_document(Path(args.spec)) if args.spec else {}
    if args.runtime_only:
        spec = {"name": "runtime", **spec, "kind": "runtime-only"}
    if args.runtime_url:
        spec = {**spec, "kind": "attached", "runtime_url": args.runtime_url}
        if args.runtime_token_file:
            spec["runtime_token_file"] = str(Path(args.runtime_token_file).resolve())
    if not spec:
        raise CliError("give a spec file, or --runtime-only", Exit.INVALID)
    return spec


def _dry_run(args: Namespace, answer: dict[str, Any]) -> Exit:
    plan = answer["plan"]
    if args.json:
        show_json(answer)
        return Exit.INVALID if plan["problems"] else Exit.OK
    for name, number in plan["numbers"].items():
        print(f"{name:>20}  {number}")
    for text in plan["warnings"]:
        print(f"warning: {text}")
    for text in plan["problems"]:
        print(f"impossible: {text}")
    for name, script in answer.get("scripts", {}).items():
        print(f"\n--- {name}\n{script}")
    return Exit.INVALID if plan["problems"] else Exit.OK


def follow(args: Namespace, api: ApiClient, run_id: str, wait: Wait) -> Exit:
    """Until the run is final: a line whenever its state or step changes."""
    last = ""
    while True:
        run = api.get(f"/runs/{run_id}")
        line = f"{run['id']}  {run['state']}  step {run.get('step', 0)}/{run.get('steps_total', 0)}"
        if line != last and not args.json:
            print(line, flush=True)
        last = line
        if run["state"] in FINAL:
            break
        wait(1.0)
    if args.json:
        show_json(run)
    elif run.get("reason"):
        print(f"{run['reason']}: {clean(run.get('reason_detail') or '')}")
    return FINAL[run["state"]]


def ps(args: Namespace, api: ApiClient) -> Exit:
    runs: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = api.get("/runs", state=args.state, experiment=args.experiment, cursor=cursor)
        runs += page["items"]
        cursor = page.get("next_cursor")
        if cursor is None or (not args.all and len(runs) >= 50):
            break
    if args.json:
        show_json(runs)
    else:
        columns = ("id", "name", "experiment", "state", "reason", "attempt", "step", "created_at")
        show_table(runs, columns)
    return Exit.OK


def show(args: Namespace, api: ApiClient) -> Exit:
    run = api.get(f"/runs/{args.run}")
    if args.json:
        show_json(run)
        return Exit.OK
    for key, value in run.items():
        if not isinstance(value, dict | list):
            print(f"{key:>20}  {clean(str(value))}")
    print()
    for truth in run["truths"].values():
        print(f"{truth['label']:>20}  {truth['verdict']:<4}  {clean(truth['text'])}")
    print()
    show_table(run["jobs"], ("role", "index", "generation", "state", "scheduler_id", "nodes"))
    return Exit.OK


def logs(args: Namespace, api: ApiClient, wait: Wait | None = None) -> Exit:
    """The end of a job's log; with ``-f`` until the run is final and all of it is shown."""
    pause = wait or Event().wait
    offset: int | None = None
    while True:
        final = api.get(f"/runs/{args.run}")["state"] in FINAL
        answer = api.get(
            f"/runs/{args.run}/logs/{args.role}",
            offset=offset,
            index=args.index,
            attempt=args.attempt,
        )
        sys.stdout.write(clean(answer["text"]))
        sys.stdout.flush()
        moved = offset != answer["next_offset"]
        offset = answer["next_offset"]
        if not args.follow or (final and not moved):
            return Exit.OK
        pause(1.0)


def cancel(args: Namespace, api: ApiClient) -> Exit:
    runs = [api.post(f"/runs/{run_id}/cancel") for run_id in args.run]
    if args.json:
        show_json(runs)
    else:
        for run in runs:
            print(f"{run['id']}  {run['state']}, wanted: {run['desired']}")
    return Exit.OK
