"""Known symptoms: what they mean and what to do next. Pure."""

import re
from dataclasses import dataclass

from app.domain.states import Reason


@dataclass(frozen=True)
class Finding:
    code: str
    severity: str
    """``info``, ``warning`` or ``error``."""
    text: str
    """The evidence, then the next action."""


_SYMPTOMS: tuple[tuple[str, str, str], ...] = (
    ("partition", r"invalid partition", "set resources.partition to one that `sinfo` lists"),
    (
        "account",
        r"invalid account|account/partition combination",
        "set resources.account to one that `sacctmgr show assoc user=$USER` lists",
    ),
    ("qos", r"invalid qos|\bqos\b", "set resources.qos to one that your account may use"),
    (
        "walltime",
        r"time limit.*(exceed|invalid)|requested time limit",
        "lower resources.time_limit_s below the partition's limit (`sinfo -o '%P %l'`)",
    ),
    (
        "gres",
        r"invalid generic resource|\bgres\b",
        "set resources.gres to what `sinfo -o '%P %G'` shows for the partition",
    ),
    (
        "node_configuration",
        r"node configuration is not available|memory specification",
        "ask for fewer cpus or less memory_mb in resources: no node has that much",
    ),
    (
        "gpu_memory",
        r"cuda out of memory|outofmemoryerror",
        "lower trainer.micro_batch or trainer.gpu_memory_utilization, or set param_offload",
    ),
    (
        "module_missing",
        r"no module named|modulenotfounderror",
        "install it into the environment of trainer.python, or choose another interpreter",
    ),
    ("disk_full", r"no space left on device", "free space where the run directories lie"),
    (
        "podman",
        r"podman",
        "see the runtime's log; `skydeck doctor` checks podman on this machine",
    ),
)

_ACTIONS: dict[Reason, str] = {
    Reason.SUBMIT_REJECTED: "correct the resources in the spec and launch again",
    Reason.OUT_OF_MEMORY: "raise resources.memory_mb of that job, or lower what it does at once",
    Reason.QUEUE_TIMEOUT: "raise policy.max_queue_wait_s, or ask for less",
    Reason.PREEMPTED: "nothing is wrong with the run; a partition without preemption avoids it",
    Reason.NODE_FAILED: "nothing is wrong with the run; tell the site if a node does it again",
    Reason.PREFLIGHT_FAILED: "see the job's log for the check that failed",
    Reason.TIME_LIMIT: "raise resources.time_limit_s, or save checkpoints more often",
    Reason.START_TIMEOUT: "see the job's log; raise policy.start_timeout_s if it is merely slow",
    Reason.RUNTIME_FAILED: "see the runtime's log",
    Reason.RUNTIME_LOST: "see the runtime's log; can its node reach the control plane?",
    Reason.JOB_VANISHED: "ask the site for the job's record; is accounting on?",
    Reason.TRAINER_FAILED: "see the trainer's log",
    Reason.EXIT_RECORD_MISSING: "see the end of the trainer's log: something ended it quietly",
    Reason.INTERNAL_ERROR: "see the log of the reconciler and report it",
}


def unprepared(folder: str, why: str) -> Finding:
    """The attempt's directory cannot be made: nothing can be submitted until a person mends it."""
    text = f"the attempt's directory below {folder} cannot be written: {why}"
    action = "free space there, or give the folder back to the user that runs Skydeck"
    return Finding("attempt_unprepared", "error", f"{text}. Next: {action}; it is tried again.")


def runtime_unusable(why: str) -> Finding:
    """An attached run waits for a runtime that somebody else started."""
    action = "start that runtime, or cancel this run and launch it with another runtime_url"
    return Finding("runtime_unusable", "warning", f"{why}. The run waits for it. Next: {action}.")


def unsteppable(error: BaseException) -> Finding:
    """A fault of ours. The text of the error may hold anything: it is for the log."""
    text = f"the reconciler cannot go on with this run ({type(error).__name__})"
    return Finding("step_failed", "error", f"{text}. Next: {_ACTIONS[Reason.INTERNAL_ERROR]}.")


def explain(reason: Reason, detail: str) -> Finding | None:
    """What a person should do about an attempt that stopped; None if nothing is wrong."""
    action = _ACTIONS.get(reason)
    if action is None:
        return None
    code = reason.value
    for symptom, pattern, remedy in _SYMPTOMS:
        if re.search(pattern, detail, re.IGNORECASE):
            code, action = f"{reason}.{symptom}", remedy
            break
    evidence = detail or reason.value.replace("_", " ")
    severity = "warning" if reason in (Reason.PREEMPTED, Reason.NODE_FAILED) else "error"
    return Finding(code, severity, f"{evidence}. Next: {action}.")
