"""Puts a rollout driver together from the attempt file, for the process in which rollouts run."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

from workers.contract import env
from workers.contract.attempt import AttemptFile
from workers.contract.spec import RunSpec
from workers.control_plane import AsyncControlPlane, ControlPlane, read_token
from workers.training.core.agents.shell import ShellLimits
from workers.training.core.broker_client import AttachedBroker, LeaseBroker
from workers.training.core.clock import Clock
from workers.training.core.graders import HiddenTestsGrader
from workers.training.core.reporter import Reporter
from workers.training.core.rollout import RolloutDriver, RolloutSettings
from workers.training.core.sandbox_client import SandboxClient


def read_attempt(attempt_file: Path) -> AttemptFile:
    return AttemptFile.model_validate_json(attempt_file.read_bytes())


async def open_driver(
    attempt_file: str | Path,
    *,
    processes: int = 1,
    ids: Callable[[], str] = lambda: f"ro-{secrets.token_hex(8)}",
    clock: Clock | None = None,
) -> RolloutDriver:
    """``processes`` that run rollouts at the same time divide the slots among themselves."""
    attempt = read_attempt(Path(attempt_file))
    clock = clock or Clock()
    broker = _broker(attempt, clock, processes)
    await broker.start()
    reporter = make_reporter(attempt, "rollouts", clock)
    reporter.start()
    return RolloutDriver(
        broker, HiddenTestsGrader(), reporter, settings_of(attempt.spec), ids=ids, clock=clock
    )


def settings_of(spec: RunSpec) -> RolloutSettings:
    agent, trainer = spec.agent, spec.trainer
    return RolloutSettings(
        limits=ShellLimits(
            max_turns=agent.max_turns,
            turn_tokens=trainer.max_turn_tokens,
            total_tokens=trainer.max_response_tokens,
            wall_s=agent.rollout_timeout_s,
            command_timeout_s=agent.command_timeout_s,
            observation_chars=agent.max_observation_chars,
        ),
        grade_timeout_s=agent.grade_timeout_s,
        retries=agent.infrastructure_retries,
        system_prompt=spec.data.system_prompt,
    )


def make_reporter(
    attempt: AttemptFile, kind: str, clock: Clock, *, all_sources: bool = False
) -> Reporter:
    """The source names this start of this process, so that numbers never repeat."""
    directory = Path(attempt.attempt_dir)
    return Reporter(
        ControlPlane(Path(attempt.control_plane_file), directory / env.TOKEN_TRAINER),
        directory / env.SPOOL_DIR,
        attempt.run_id,
        attempt.attempt,
        f"{kind}-{os.getpid()}-{secrets.token_hex(4)}",
        now_iso=clock.iso,
        all_sources=all_sources,
    )


def _broker(attempt: AttemptFile, clock: Clock, share: int) -> LeaseBroker | AttachedBroker:
    directory = Path(attempt.attempt_dir)
    if attempt.runtime_url is not None:
        token_file = attempt.runtime_token_file or directory / env.TOKEN_SANDBOX
        client = SandboxClient(attempt.runtime_url, read_token(Path(token_file)))
        return AttachedBroker(client, clock=clock, share=share)
    token = read_token(directory / env.TOKEN_SANDBOX)
    return LeaseBroker(
        AsyncControlPlane(Path(attempt.control_plane_file), directory / env.TOKEN_TRAINER),
        lambda url: SandboxClient(url, token),
        attempt.run_id,
        attempt.attempt,
        clock=clock,
        share=share,
    )
