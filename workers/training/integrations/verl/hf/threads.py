"""How many threads torch may use."""

import os

import torch


def use_all_cores() -> int:
    """Ray limits torch to one thread per process; one process computes at a time here."""
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(cores)
    return cores
