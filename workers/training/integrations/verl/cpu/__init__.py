"""verl plugin for machines without a GPU; named in ``VERL_USE_EXTERNAL_MODULES``.

Importing it registers three things with verl, in this order: the platform, the rollout
engine, the trainer. The trainer's import asks verl for the platform, so it comes last.
"""

from workers.training.integrations.verl.cpu import (
    platform,
    registration,
    trainer,
)

__all__ = ["platform", "registration", "trainer"]
