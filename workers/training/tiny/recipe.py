"""The numbers from which the world is made, found by simulation over several seeds."""

from __future__ import annotations

from dataclasses import dataclass

from workers.training.tiny.demonstrator import Skill


@dataclass(frozen=True)
class Shape:
    """Of the Qwen2 model."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int


@dataclass(frozen=True)
class Schedule:
    steps: int
    batch: int
    lr: float
    ramp: int = 20
    floor: float = 0.05
    """Last learning rate as a share of `lr`."""


@dataclass(frozen=True)
class Phase:
    """A stretch of the warm-up: who demonstrates, how long a dialogue is, and how it is learned."""

    skill: Skill
    attempts: int
    schedule: Schedule


@dataclass(frozen=True)
class Recipe:
    version: int
    shape: Shape
    phases: tuple[Phase, ...]
    train_tasks: int
    eval_tasks: int
    measured_tasks: int


# First the craft, from short and nearly faultless dialogues; then the beginner's habits, from
# whole ones. Noise from the start makes finding what to copy several times slower.
RECIPE = Recipe(
    version=1,
    shape=Shape(hidden=96, layers=3, ffn=256, heads=4, kv_heads=2),
    phases=(
        Phase(Skill(0.9, 0.97, 0.97, 0.97), 1, Schedule(80, 64, 3e-3, floor=0.5)),
        Phase(Skill(0.25, 0.7, 0.85, 0.7), 2, Schedule(120, 64, 2e-3, floor=0.02)),
    ),
    train_tasks=480,
    eval_tasks=128,
    measured_tasks=256,
)
