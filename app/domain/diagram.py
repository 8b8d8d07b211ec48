"""``docs/run-lifecycle.md``, made from the tables of states: ``python -m app.domain.diagram``."""

import sys

from app.domain.retry import ALWAYS, IF_IT_GOT_FURTHER
from app.domain.states import (
    RUN_ALLOWED,
    RUN_FINAL,
    Reason,
    RunState,
    outcome,
)

_STATES: dict[RunState, str] = {
    RunState.PENDING: (
        "Asked for, and nothing has been done yet. A run of a sweep waits here until fewer than "
        "`parallel` of its sweep are under way. An attached run waits until the runtime that it "
        "names answers. A cancel ends it without a job ever having been submitted."
    ),
    RunState.STARTING_RUNTIME: (
        "An attempt has begun. Its directory and token files are made, the runtime jobs are "
        "submitted, and the run goes on when all of them run, have registered and were heard of "
        "lately. Waiting in the queue is not starting: `policy.start_timeout_s` counts from the "
        "moment a job runs, `policy.max_queue_wait_s` is separate and off by default. A runtime "
        "job that is refused or ends stops the attempt."
    ),
    RunState.STARTING_TRAINER: (
        "The training job is submitted, and the run goes on when it runs and has registered. "
        "From here on runtimes that end or fall silent are replaced by the next generation, "
        "within `runtime.max_replacements`, as long as `runtime.min_count` others live."
    ),
    RunState.RUNNING: (
        "Trainer and runtimes work. The end of the trainer is looked at before lost runtimes, so "
        "that runtimes that leave with a completed trainer are no loss. The trainer's exit record "
        "decides: success by the scheduler alone is none. When either side ends, the other is "
        "released within a minute."
    ),
    RunState.STOPPING: (
        "The reason is fixed. Every job is cancelled, and the run stays here until each is proven "
        "ended or never submitted: a submission without an answer is waited for. Then follows the "
        "next attempt or the final state. A cancel that arrives now takes away the next attempt."
    ),
    RunState.SUCCEEDED: "The trainer completed; without a trainer, the runtimes left in order.",
    RunState.FAILED: "The reason of the last attempt says why, in words and with the job's name.",
    RunState.CANCELLED: "A user cancelled it before it had ended otherwise.",
}

_REASONS: dict[Reason, str] = {
    Reason.TRAINER_COMPLETED: "the trainer's exit record says so",
    Reason.RUNTIME_COMPLETED: "all runtimes of a run without a trainer left in order",
    Reason.CANCELLED_BY_USER: "through API, command line or dashboard",
    Reason.SUBMIT_REJECTED: "the scheduler refused a job for good",
    Reason.OUT_OF_MEMORY: "a job used more memory than it had asked for",
    Reason.QUEUE_TIMEOUT: "a job waited longer than `policy.max_queue_wait_s`",
    Reason.PREEMPTED: "the scheduler took the nodes for others",
    Reason.NODE_FAILED: "a node was lost",
    Reason.PREFLIGHT_FAILED: "a worker found its node unfit; the node is avoided next time",
    Reason.TIME_LIMIT: "a job reached its wall time",
    Reason.START_TIMEOUT: "a job ran, but was not ready within `policy.start_timeout_s`",
    Reason.RUNTIME_FAILED: "a runtime job ended, or was cancelled outside Skydeck",
    Reason.RUNTIME_LOST: "no heartbeat from a runtime, although other workers were heard",
    Reason.JOB_VANISHED: "neither queue, accounting nor an exit record knows a job's end",
    Reason.TRAINER_FAILED: "the trainer failed, or was cancelled outside Skydeck",
    Reason.EXIT_RECORD_MISSING: "the trainer ended well by the scheduler, without a last word",
    Reason.INTERNAL_ERROR: "Skydeck itself failed",
}


def diagram() -> str:
    """The run's states and transitions as a mermaid state diagram."""
    lines = ["stateDiagram-v2", f"    [*] --> {RunState.PENDING}"]
    for state, leaves in RUN_ALLOWED.items():
        lines += [f"    {state} --> {to}" for to in RunState if to in leaves]
    lines += [f"    {state} --> [*]" for state in RunState if state in RUN_FINAL]
    return "\n".join(lines)


def page() -> str:
    """The whole document."""
    states = "\n\n".join(f"**{state}.** {_STATES[state]}" for state in RunState)
    rows = "\n".join(
        f"| `{reason}` | {text} | {outcome(reason)} | {_again(reason)} |"
        for reason, text in _REASONS.items()
    )
    return f"""# The life of a run

<!-- Made by `python -m app.domain.diagram > docs/run-lifecycle.md`; do not edit. -->

A run is launched once and tried in numbered attempts. Only the reconciler writes its state; what
people want (`desired`) and what workers report are separate columns.

```mermaid
{diagram()}
```

{states}

## Why an attempt stopped

| reason | what it means | final state | next attempt |
|---|---|---|---|
{rows}

A next attempt has new job names, a new directory and new tokens. It begins only after all jobs of
the old one are proven gone, and resumes from the newest complete checkpoint of any earlier
attempt. `policy.max_attempts` and `policy.max_attempts_without_checkpoint` bound the attempts.

While the scheduler does not answer, no state changes but by a user's cancel: an outage is not a
failure.
"""


def _again(reason: Reason) -> str:
    if reason in ALWAYS:
        return "yes"
    if reason in IF_IT_GOT_FURTHER:
        return "with `policy.retry_trainer_failed`, if it saved a newer checkpoint"
    return "no"


if __name__ == "__main__":
    sys.stdout.write(page())
