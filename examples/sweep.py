"""Drive a sweep through the API: create it, wait for its end, print a table.

    python examples/sweep.py spec.yaml --grid trainer.seed=1,2 --grid trainer.temperature=0.8,1.0

The address and the token come from --url and --token, or from SKYDECK_URL and SKYDECK_TOKEN. The
idempotency key is made from the request, so a script that is started again goes on watching the
sweep that it made before.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import yaml

FINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}


def main() -> int:
    args = arguments()
    client = httpx.Client(
        base_url=f"{args.url.rstrip('/')}/api/v1",
        headers={"Authorization": f"Bearer {args.token}"},
        timeout=30,
    )
    body = {
        "spec": yaml.safe_load(args.spec.read_text()),
        "grid": dict(axis(text) for text in args.grid),
        "parallel": args.parallel,
    }
    sweep = create(client, body)
    print(
        f"sweep {sweep['id']}: {len(sweep['points'])} runs, {sweep['parallel']} at once", flush=True
    )
    while not ended(sweep):
        time.sleep(args.poll)
        sweep = watch(client, sweep["id"], args.poll)
    show(sweep)
    return 0 if set(sweep["runs"]) == {"SUCCEEDED"} else 1


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Create a sweep and wait for its end.")
    parser.add_argument("spec", type=Path, help="the base document, YAML")
    parser.add_argument(
        "--grid", action="append", required=True, metavar="KEY=V1,V2", help="one axis; repeatable"
    )
    parser.add_argument("--parallel", type=int, default=1, help="runs under way at once")
    parser.add_argument("--poll", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--url", default=os.environ.get("SKYDECK_URL", "http://127.0.0.1:8480"))
    parser.add_argument("--token", default=os.environ.get("SKYDECK_TOKEN"))
    args = parser.parse_args()
    if not args.token:
        parser.error("give --token, or set SKYDECK_TOKEN (make one with `skydeck token create`)")
    return args


def axis(text: str) -> tuple[str, list[Any]]:
    """``trainer.seed=1,2`` as a key and its values."""
    key, sign, values = text.partition("=")
    if not sign or not values:
        sys.exit(f"--grid {text}: write it as KEY=VALUE,VALUE")
    return key, [value_of(part) for part in values.split(",")]


def value_of(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def create(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    key = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return checked(client.post("/sweeps", json=body, headers={"Idempotency-Key": key}))


def watch(client: httpx.Client, sweep_id: str, poll: float) -> dict[str, Any]:
    """The sweep now. A control plane that restarts is waited for: the sweep goes on without it."""
    while True:
        try:
            answer = client.get(f"/sweeps/{sweep_id}")
        except httpx.TransportError as error:
            print(f"no answer ({error}); asking again", file=sys.stderr)
        else:
            if answer.status_code != 503:
                return checked(answer)
        time.sleep(poll)


def checked(answer: httpx.Response) -> dict[str, Any]:
    if answer.is_success:
        return answer.json()
    try:
        sys.exit(f"{answer.status_code}: {answer.json()['detail']}")
    except (ValueError, KeyError):
        sys.exit(f"{answer.status_code}: {answer.text[:500]}")


def ended(sweep: dict[str, Any]) -> bool:
    return all(point["state"] in FINAL for point in sweep["points"])


def show(sweep: dict[str, Any]) -> None:
    axes = list(sweep["grid"])
    rows = [[*axes, "run", "state", "first reward", "final reward"]]
    for point in sweep["points"]:
        values = [str(point["values"][name]) for name in axes]
        rewards = [number(point["first_reward"]), number(point["final_reward"])]
        rows.append([*values, point["run_id"], point["state"], *rewards])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    sys.exit(main())
