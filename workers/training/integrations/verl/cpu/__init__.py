"""verl plugin for machines without a GPU; named in ``VERL_USE_EXTERNAL_MODULES``.

Importing it registers three things with verl, in this order: the platform, the rollout
engine, the trainer. The trainer's import asks verl for the platform, so it comes last.
"""

import ray

from workers.training.integrations.verl.cpu import platform, registration

__all__ = ["platform", "registration"]

# The driver is connected to Ray only after its imports and never looks up a trainer; without
# this import it starts seconds earlier.
if ray.is_initialized():
    from workers.training.integrations.verl.cpu import trainer

    __all__ += ["trainer"]
