"""verl's synchronous trainer with CPU workers: ``trainer.v1.trainer_mode=cpu_sync``."""

import random

import numpy
import ray
import torch
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1.trainer_base import register_trainer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync

MODE = "cpu_sync"
POLL_SECONDS = 0.05


@register_trainer(MODE)
class CpuSyncTrainer(PPOTrainerSync):
    def __init__(self, config: DictConfig) -> None:
        # Any other name than "sync" selects the asynchronous replay buffer in the base class.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
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
