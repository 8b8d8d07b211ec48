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
    turns: int
    schedule: Schedule


@dataclass(frozen=True)
class Recipe:
    version: int
    shape: Shape
    phases: tuple[Phase, ...]
    train_tasks: int
    eval_tasks: int
    measured_tasks: int


# First the craft, from short and nearly faultless dialogues; then dialogues of three turns, where
# only `-i` is often missing; then all of the beginner's habits. Noise from the start makes finding
# what to copy several times slower.
RECIPE = Recipe(
    version=3,
    shape=Shape(hidden=64, layers=3, ffn=192, heads=4, kv_heads=2),
    phases=(
        Phase(Skill(0.9, 0.97, 0.97, 0.97), 1, Schedule(60, 32, 4e-3, floor=0.5)),
        Phase(Skill(0.2, 0.95, 0.95, 0.95), 3, Schedule(80, 32, 4e-3, floor=0.5)),
        Phase(Skill(0.15, 0.65, 0.85, 0.6), 3, Schedule(160, 32, 3e-3, floor=0.02)),
    ),
    train_tasks=480,
    eval_tasks=128,
    measured_tasks=256,
)
