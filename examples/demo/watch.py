"""Follow a run through the API and say what changes, a line a step."""

import sys
from collections.abc import Callable, Iterator
from typing import Any

from app.cli.client import ApiClient
from app.cli.output import clean

FINAL = {"SUCCEEDED", "FAILED", "CANCELLED"}


def follow(api: ApiClient, run_id: str, wait: Callable[[float], object]) -> dict[str, Any]:
    """Until the run is final. Returns the run as the API shows it then."""
    said: set[str] = set()
    shown_step = 0
    while True:
        run = api.get(f"/runs/{run_id}")
        for line in _states(run):
            if line not in said:
                said.add(line)
                print(line, flush=True)
        for step in pages(api, f"/runs/{run_id}/steps"):
            if step["number"] > shown_step and step["seconds"] is not None:
                shown_step = step["number"]
                print(_progress(step, run), flush=True)
        if run["state"] in FINAL:
            return run
        wait(1.0)


def pages(api: ApiClient, path: str, **filters: Any) -> list[dict[str, Any]]:
    """All rows of a list, page by page."""
    return list(_rows(api, path, filters))


def _rows(api: ApiClient, path: str, filters: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = api.get(path, cursor=cursor, **filters)
        yield from page["items"]
        cursor = page.get("next_cursor")
        if cursor is None:
            return


def complain(api: ApiClient, run: dict[str, Any]) -> None:
    """The reason of a failure, and the end of both logs."""
    print(f"{run['state']}: {run['reason']}: {clean(run['reason_detail'])}", file=sys.stderr)
    for role in ("runtime", "trainer"):
        log = api.get(f"/runs/{run['id']}/logs/{role}")
        tail = "\n".join(log["text"].splitlines()[-25:])
        print(f"--- end of the {role}'s log\n{clean(tail)}", file=sys.stderr)


def _states(run: dict[str, Any]) -> Iterator[str]:
    yield f"run {run['id']} {run['state']}"
    for job in run["jobs"]:
        where = f" on {job['nodes']}" if job["nodes"] else ""
        yield f"  {job['role']} job {job['scheduler_id'] or '-'} {job['state']}{where}"
    if run["phase"]:
        yield f"  trainer: {run['phase']}"


def _progress(step: dict[str, Any], run: dict[str, Any]) -> str:
    reward = "-" if step["reward"] is None else f"{step['reward']:.3f}"
    return (
        f"  step {step['number']:>3}/{run['steps_total']}  reward {reward}  "
        f"rollouts {step['scored']}/{step['rollouts']}  executed {step['executed']}  "
        f"graded {step['graded']}  trainable tokens {step['trainable_tokens']}  "
        f"groups with advantage {step['groups_with_advantage']}/{step['groups']}  "
        f"{step['seconds']:.1f} s"
    )
