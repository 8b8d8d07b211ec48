"""How many threads torch may use. Ray sets one per process, whatever the model."""

import os

import torch

SMALL = 20_000_000
"""Parameters below which a decoding step is too short to be shared between threads."""


def use_all_cores() -> int:
    """For training: one process computes at a time."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    return cores


def use_cores_for(parameters: int) -> int:
    """For decoding, beside which sandboxes run."""
    if parameters >= SMALL:
        return use_all_cores()
    torch.set_num_threads(1)
    return 1
