"""What the demo proves, as numbers, and whether they are proof. Pure."""

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]


def summarise(
    run: Row,
    steps: Sequence[Row],
    checkpoints: Sequence[Row],
    evaluation: Sequence[Row],
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """The content of ``demo-summary.json``; rows are those of the public API."""
    totals = run["totals"]
    first, last = fifths([step["reward"] for step in steps])
    trained = [step for step in steps if step["rollouts"]]
    return {
        "run": run["id"],
        "state": run["state"],
        "reason": run["reason"],
        "steps": len(trained),
        "rollouts": totals["rollouts"],
        "tool_calls": {
            "offered": totals["turns"],
            "parsed": totals["parsed"],
            "executed": totals["executed"],
            "malformed": totals["malformed"],
        },
        "graded_by_tests": totals["graded"],
        "scored": totals["scored"],
        "infrastructure_failures": totals["invalid"],
        "trainable_tokens": totals["trainable_tokens"],
        "trainable_tokens_per_step": [step["trainable_tokens"] for step in trained],
        "groups": sum(step["groups"] for step in trained),
        "groups_with_nonzero_advantage": sum(step["groups_with_advantage"] for step in trained),
        "reward": {
            "first_fifth": first,
            "last_fifth": last,
            "ratio": round(last / first, 2) if first and last is not None else None,
            "per_step": [step["reward"] for step in trained],
        },
        "evaluation": _evaluation(evaluation),
        "checkpoints": {
            "complete": sum(1 for row in checkpoints if row["complete"]),
            "partial": sum(1 for row in checkpoints if not row["complete"] and row["bytes"]),
            "deleted_by_trainer": sum(
                1 for row in checkpoints if not row["complete"] and not row["bytes"]
            ),
        },
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def shortfalls(summary: Row) -> list[str]:
    """What keeps this from being proof; empty when every one of the four truths holds."""
    demands = {
        "the run did not succeed": summary["state"] == "SUCCEEDED",
        "no tool call was executed in a sandbox": summary["tool_calls"]["executed"] > 0,
        "no rollout was graded by running tests": summary["graded_by_tests"] > 0,
        "no token was trainable": summary["trainable_tokens"] > 0,
        "no group had a non-zero advantage": summary["groups_with_nonzero_advantage"] > 0,
        "no checkpoint is complete": summary["checkpoints"]["complete"] > 0,
    }
    return [text for text, holds in demands.items() if not holds]


def fifths(rewards: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean reward of the first and of the last fifth of the steps that have one."""
    known = [reward for reward in rewards if reward is not None]
    if not known:
        return None, None
    size = max(1, len(known) // 5)
    return round(sum(known[:size]) / size, 4), round(sum(known[-size:]) / size, 4)


def phases(run: Row) -> dict[str, float]:
    """Seconds between the moments of a run that the API knows, in their order."""
    started = {job["role"]: job["started_at"] for job in run["jobs"]}
    attempt = run["attempts"][-1] if run["attempts"] else {}
    moments = {
        "launched": run["created_at"],
        "runtime started": started.get("runtime"),
        "trainer started": started.get("trainer"),
        "trainer registered": attempt.get("trainer_registered_at"),
        "ended": run["ended_at"],
    }
    known = sorted((datetime.fromisoformat(at), name) for name, at in moments.items() if at)
    return {
        f"{a} to {b}": (later - earlier).total_seconds()
        for (earlier, a), (later, b) in itertools.pairwise(known)
    }


def table(summary: Row) -> str:
    """For people: one line per number."""
    calls, reward, marks = summary["tool_calls"], summary["reward"], summary["checkpoints"]
    judged = summary["evaluation"]
    rows = [
        ("run", f"{summary['run']}  {summary['state']} ({summary['reason']})"),
        ("steps, rollouts", f"{summary['steps']}, {summary['rollouts']}"),
        (
            "tool calls",
            f"{calls['offered']} offered, {calls['parsed']} parsed, {calls['executed']} executed",
        ),
        ("graded by tests", f"{summary['graded_by_tests']} of {summary['scored']} scored"),
        ("infrastructure failures", f"{summary['infrastructure_failures']} (never a reward)"),
        ("trainable tokens", f"{summary['trainable_tokens']}"),
        (
            "groups with advantage",
            f"{summary['groups_with_nonzero_advantage']} of {summary['groups']}",
        ),
        (
            "reward, first -> last fifth",
            f"{_shown(reward['first_fifth'])} -> {_shown(reward['last_fifth'])}"
            f"  ({_shown(reward['ratio'])}x)",
        ),
        (
            "held-out tasks, temperature 1",
            f"{_shown(judged['before'])} -> {_shown(judged['after'])}",
        ),
        (
            "checkpoints",
            f"{marks['complete']} complete, {marks['partial']} partial, "
            f"{marks['deleted_by_trainer']} deleted by the trainer",
        ),
        ("seconds", ", ".join(f"{name} {value:g}" for name, value in summary["seconds"].items())),
    ]
    return "\n".join(f"{name:>30}  {value}" for name, value in rows)


def _evaluation(rollouts: Sequence[Row]) -> dict[str, Any]:
    """Mean sampled reward on the held-out tasks, before the first and after the last step."""
    scored = [row for row in rollouts if row["state"] == "SCORED"]
    steps = sorted({row["step"] for row in scored})
    if len(steps) < 2:
        return {"before": None, "after": None, "rollouts": len(scored)}

    def mean(step: int) -> float:
        rewards = [row["reward"] for row in scored if row["step"] == step]
        return round(sum(rewards) / len(rewards), 4)

    return {"before": mean(steps[0]), "after": mean(steps[-1]), "rollouts": len(scored)}


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
