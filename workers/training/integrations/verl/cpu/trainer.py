"""verl's synchronous trainer with CPU workers: ``trainer.v1.trainer_mode=cpu_sync``."""

import random

import numpy
import ray
import torch
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

from workers.training.integrations.verl.hf.actors import server_actor

MODE = "cpu_sync"
POLL_SECONDS = 0.05


@ray.remote(num_cpus=0)
def warm_up() -> None:
    """Leaves behind an idle worker that has imported verl and this plugin.

    Ray gives it to the next actor without a runtime environment of its own: the agent-loop
    worker, which verl starts last. Its imports so run beside the training worker's.
    """


@register_trainer(MODE)
class CpuSyncTrainer(PPOTrainerSync):
    def __init__(self, config: DictConfig) -> None:
        # Any other name than "sync" selects the asynchronous replay buffer in the base class.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        self._warm = warm_up.remote()
        model, rollout = config.actor_rollout_ref.model, config.actor_rollout_ref.rollout
        self._server = server_actor(0, model.path, rollout.response_length)
        super().__init__(config)
        # The default of 2 s is as long as a whole step here.
        self.replay_buffer.poll_interval = POLL_SECONDS
        seed = int(config.data.seed)
        random.seed(seed)
        numpy.random.seed(seed)
        torch.manual_seed(seed)

    def _init_resource_pool_mgr(self) -> None:
        # Here, because only the process that trains needs the workers' imports.
        from workers.training.integrations.verl.cpu.workers import (
            CpuActorRolloutRefWorker,
            CpuTrainingWorker,
        )

        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            worker = CpuTrainingWorker if role == Role.Critic else CpuActorRolloutRefWorker
            self.role_worker_mapping[role] = ray.remote(worker)
