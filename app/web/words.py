"""States and reasons in plain words, and what a person may do next."""

from dataclasses import dataclass

from app.domain.states import JobState, Reason, RunState
from workers.contract.reports import InvalidReason, RolloutEnd


@dataclass(frozen=True)
class Saying:
    what: str
    next: str = ""


RUN_STATES: dict[RunState, Saying] = {
    RunState.PENDING: Saying(
        "Waiting to be admitted.",
        "Nothing to do. If it stays here, the sweep's parallel limit or a stopped reconciler "
        "holds it: see Health.",
    ),
    RunState.STARTING_RUNTIME: Saying(
        "The runtime jobs are submitted; their servers have not all registered yet.",
        "If a job is QUEUED, its pending reason below says what Slurm waits for.",
    ),
    RunState.STARTING_TRAINER: Saying(
        "Sandboxes are ready; the trainer job is starting.",
        "A first start loads the model and may take minutes; the trainer's log shows how far.",
    ),
    RunState.RUNNING: Saying("Both sides are up.", ""),
    RunState.STOPPING: Saying(
        "The attempt is ending: every job is cancelled and looked for until it is gone.",
        "Nothing to do. An unreachable scheduler makes this take longer; nothing is lost.",
    ),
    RunState.SUCCEEDED: Saying("The trainer finished all its steps.", ""),
    RunState.FAILED: Saying("The run has failed.", ""),
    RunState.CANCELLED: Saying("The run was cancelled.", ""),
}

REASONS: dict[Reason, Saying] = {
    Reason.TRAINER_COMPLETED: Saying("The trainer finished all its steps."),
    Reason.RUNTIME_COMPLETED: Saying("The runtime ended in order."),
    Reason.CANCELLED_BY_USER: Saying("Somebody asked for it.", "Launch again if that was wrong."),
    Reason.SUBMIT_REJECTED: Saying(
        "The scheduler refused a job.",
        "Read its text below, correct partition, account, time or gres in the spec, launch again.",
    ),
    Reason.OUT_OF_MEMORY: Saying(
        "A job used more memory than it asked for.",
        "Raise memory_mb of that job's resources, or lower trainer.micro_batch or runtime.slots.",
    ),
    Reason.QUEUE_TIMEOUT: Saying(
        "A job waited in the queue longer than policy.max_queue_wait_s.",
        "Ask for less, use another partition, or raise the limit.",
    ),
    Reason.PREEMPTED: Saying(
        "The scheduler took the node for a job of higher priority.",
        "A new attempt resumes from the newest complete checkpoint while attempts last.",
    ),
    Reason.NODE_FAILED: Saying(
        "A node failed under a job.", "A new attempt avoids nothing by itself: exclude a bad node."
    ),
    Reason.PREFLIGHT_FAILED: Saying(
        "A node could not do this work; nothing was begun there.",
        "Read the exit record of the job: it names the check that failed.",
    ),
    Reason.TIME_LIMIT: Saying(
        "A job reached its time limit.",
        "Raise time_limit_s, or let the next attempt resume from the checkpoint.",
    ),
    Reason.START_TIMEOUT: Saying(
        "A job ran, but its worker did not register in time.",
        "Read the end of that job's log; raise policy.start_timeout_s if it was only slow.",
    ),
    Reason.RUNTIME_FAILED: Saying(
        "A runtime job ended although it was still needed.", "Read the end of the runtime's log."
    ),
    Reason.RUNTIME_LOST: Saying(
        "Too few runtimes were heard of for too long.",
        "Look at the node's health and the runtime's log.",
    ),
    Reason.JOB_VANISHED: Saying(
        "The scheduler knows nothing of a job that was accepted, and it left no exit record.",
        "Ask the cluster's staff whether the controller lost its state.",
    ),
    Reason.TRAINER_FAILED: Saying(
        "The trainer ended with an error.", "Its exit record and the end of its log say which."
    ),
    Reason.EXIT_RECORD_MISSING: Saying(
        "A job ended as if all were well, but its worker left no exit record.",
        "It was killed or its directory is gone: read the end of its log.",
    ),
    Reason.INTERNAL_ERROR: Saying(
        "Skydeck itself met an error while handling this run.",
        "The reconciler's log names the run; please report it.",
    ),
}

JOB_STATES: dict[JobState, str] = {
    JobState.PLANNED: "planned, not submitted yet",
    JobState.SUBMITTING: "being submitted",
    JobState.HELD: "accepted and held; released once its id is recorded",
    JobState.QUEUED: "in the scheduler's queue",
    JobState.RUNNING: "running",
    JobState.SUCCEEDED: "ended well",
    JobState.FAILED: "ended with an error",
    JobState.OUT_OF_MEMORY: "killed: out of memory",
    JobState.TIMED_OUT: "killed at its time limit",
    JobState.CANCELLED: "cancelled",
    JobState.PREEMPTED: "preempted",
    JobState.NODE_FAILED: "its node failed",
    JobState.VANISHED: "unknown to the scheduler",
    JobState.REJECTED: "refused by the scheduler",
    JobState.NOT_SUBMITTED: "never submitted",
}

ENDS: dict[RolloutEnd, str] = {
    RolloutEnd.FINISHED: "the agent said it was done",
    RolloutEnd.MAX_STEPS: "turns used up",
    RolloutEnd.MAX_TOKENS: "tokens used up",
    RolloutEnd.WALL_TIME: "time used up",
    RolloutEnd.STUCK: "repeated itself",
}

INVALID: dict[InvalidReason, str] = {
    InvalidReason.SANDBOX_LOST: "its sandbox was lost",
    InvalidReason.IMAGE_FAILED: "its image could not be made ready",
    InvalidReason.NO_TESTS: "its task has no tests",
    InvalidReason.GATEWAY_FAILED: "the model could not be reached",
    InvalidReason.GRADER_FAILED: "the grader itself failed",
    InvalidReason.FENCED: "its attempt or runtime was replaced meanwhile",
    InvalidReason.AUDIT_FAILED: "its record does not add up",
}


def run_saying(state: RunState, reason: Reason | None) -> Saying:
    """What is and what to do; the reason of an ended or stopping run says more than its state."""
    about = RUN_STATES[state]
    if reason is None or state in (RunState.SUCCEEDED, RunState.RUNNING):
        return about
    why = REASONS[reason]
    if state is RunState.STOPPING:
        return Saying(f"{why.what} {about.what}", why.next)
    return why
