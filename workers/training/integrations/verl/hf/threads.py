"""How many threads torch may use for decoding, beside which sandboxes run."""

import torch

SMALL = 20_000_000
"""Parameters below which a decoding step is too short to be shared between threads."""


def use_threads_for(parameters: int) -> None:
    """Leaves larger models with the threads that the process was started with."""
    if parameters < SMALL:
        torch.set_num_threads(1)
