"""verl's agent loop handed to the rollout core. One instance is one rollout."""

import asyncio
import functools
import importlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from verl.experimental.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics

from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.tasks import Task
from workers.training.core.policy import Policy, TokenRecord
from workers.training.integrations.verl.groups import Groups
from workers.training.integrations.verl.token_policy import Limits, VerlPolicy, derived_seed

logger = logging.getLogger(__name__)


class Result(Protocol):
    """Of a whole rollout; without a reward it is an infrastructure failure after all retries."""

    @property
    def reward(self) -> float | None: ...

    @property
    def record(self) -> TokenRecord | None: ...


class Driver(Protocol):
    """The rollout core, one per process. It asks for a fresh policy for each try."""

    async def run(
        self,
        task: Task,
        *,
        step: int,
        group: str,
        sample: int,
        policy: Callable[[], Policy],
        validation: bool = False,
    ) -> Result: ...


class Shared:
    """What all rollouts of this process share; opened by the first of them."""

    def __init__(self, driver_factory: str) -> None:
        self._factory = driver_factory
        self._lock = asyncio.Lock()
        self._driver: Driver | None = None
        self.attempt_file = attempt_path()
        self.attempt = AttemptFile.model_validate_json(self.attempt_file.read_text())
        self.groups = Groups()

    async def driver(self) -> Driver:
        async with self._lock:
            if self._driver is None:
                self._driver = await _load(self._factory)(self.attempt_file)
            return self._driver


@functools.cache
def shared(driver_factory: str) -> Shared:
    """verl makes a loop object per rollout and offers no place for what outlives it."""
    return Shared(driver_factory)


class SkydeckAgentLoop(AgentLoopBase):
    def __init__(self, *args: Any, driver_factory: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._shared = shared(driver_factory)

    async def run(
        self, sampling_params: dict[str, Any], **row: Any
    ) -> AgentLoopOutput | list[AgentLoopOutput]:
        """One rollout. An empty list keeps it out of the batch and of its group's statistics."""
        size = self._group_size(bool(row["validation"]))
        output: AgentLoopOutput | None = None
        try:
            output = await self._rollout(sampling_params, row)
        finally:
            usable = await self._shared.groups.settle(row["uid"], size, output is not None)
        return output if output is not None and usable else []

    async def _rollout(
        self, sampling: dict[str, Any], row: dict[str, Any]
    ) -> AgentLoopOutput | None:
        began = time.monotonic()
        driver = await self._shared.driver()
        tries: list[VerlPolicy] = []

        def fresh() -> VerlPolicy:
            tries.append(self._policy(sampling, row, len(tries)))
            return tries[-1]

        result = await driver.run(
            Task.model_validate_json(row["task"]),
            step=int(row["global_steps"]),
            group=str(row["uid"]),
            sample=int(row["session_id"]),
            policy=fresh,
            validation=bool(row["validation"]),
        )
        if result.reward is None or result.record is None:
            return None
        if result.record.trainable_tokens == 0:
            logger.warning("a rollout was graded without one sampled token; it is left out")
            return None
        seconds = time.monotonic() - began
        return _output(result.record, tries[-1], result.reward, seconds)

    def _policy(self, sampling: dict[str, Any], row: dict[str, Any], number: int) -> VerlPolicy:
        seed = self._shared.attempt.spec.trainer.seed
        phase = "eval" if row["validation"] else row["global_steps"]
        identity = (seed, phase, row["index"], row["session_id"], number)
        return VerlPolicy(
            engine=self.server_manager,
            builder=self.continuous_token_builder,
            tokenizer=self.tokenizer,
            limits=Limits(self.rollout_config.prompt_length, self.rollout_config.response_length),
            sampling=sampling,
            seed_of=lambda turn: derived_seed(*identity, turn),
            clock=time.monotonic,
        )

    def _group_size(self, validation: bool) -> int:
        config = self.rollout_config
        return int(config.val_kwargs.n if validation else config.n)


def _output(
    record: TokenRecord, policy: VerlPolicy, reward: float, seconds: float
) -> AgentLoopOutput:
    """Every field explicitly: verl drops unset ones, and the columns of a batch must agree."""
    return AgentLoopOutput(
        prompt_ids=list(record.prompt_ids),
        response_ids=list(record.response_ids),
        response_mask=list(record.mask),
        response_logprobs=list(record.logprobs),
        reward_score=reward,
        num_turns=policy.chat_turns,
        metrics=AgentLoopMetrics(
            generate_sequences=policy.seconds,
            tool_calls=max(0.0, seconds - policy.seconds),
            compute_score=0.0,
            num_preempted=-1,
        ),
        extra_fields=policy.extra_fields
        | {"reward_extra_info": {}, "turn_scores": [], "tool_rewards": []},
    )


def attempt_path() -> Path:
    # verl starts this process; its environment is the only way in.
    return Path(os.environ[env.ATTEMPT_FILE])  # noqa: TID251


def _load(factory: str) -> Callable[[Path], Any]:
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)
