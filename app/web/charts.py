"""Line charts as plain numbers; ``templates/_chart.html`` draws them as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Coordinates in SVG units, origin at the top left."""

    width: int
    height: int
    left: int
    bottom: int
    """Y of the horizontal axis."""
    right: int
    dots: tuple[Point, ...]
    lines: tuple[str, ...]
    """Points of polylines; a gap in the values begins a new one."""
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True)
class Spark:
    """A small metric: its line, its newest value and its range."""

    label: str
    unit: str
    lines: tuple[str, ...]
    last: float | None
    low: float | None
    high: float | None
    width: int
    height: int
    end: Point | None
    """Where the newest value lies."""


Values = Sequence[float | None]


def moving_mean(values: Values, window: int = 5) -> list[float | None]:
    """Mean of up to ``window`` values ending here; None where the value itself is missing."""
    means: list[float | None] = []
    for index, value in enumerate(values):
        near = [v for v in values[max(0, index + 1 - window) : index + 1] if v is not None]
        means.append(sum(near) / len(near) if value is not None else None)
    return means


def reward_chart(
    steps: Sequence[int], rewards: Values, total: int, width: int = 1160, height: int = 240
) -> Chart | None:
    """Reward per step as dots, its moving mean as a line. None without any reward.

    The axis reaches to the planned number of steps, so that the eye sees how much is left.
    """
    known = [reward for reward in rewards if reward is not None]
    if not known:
        return None
    left, right, top, bottom = 40, width - 10, 10, height - 24
    y_low, y_high = min(0.0, *known), max(1.0, *known)
    x_high = max(total, steps[-1], 2)

    def x(step: float) -> float:
        return round(left + (step - 1) / (x_high - 1) * (right - left), 1)

    def y(value: float) -> float:
        return round(bottom - (value - y_low) / (y_high - y_low) * (bottom - top), 1)

    pairs = zip(steps, rewards, strict=True)
    dots = tuple((x(step), y(reward)) for step, reward in pairs if reward is not None)
    means = zip(steps, moving_mean(rewards), strict=True)
    return Chart(
        width,
        height,
        left,
        bottom,
        right,
        dots,
        _polylines([(x(step), None if mean is None else y(mean)) for step, mean in means]),
        tuple(Tick(x(step), str(step)) for step in _round_steps(x_high)),
        tuple(Tick(y(v), f"{v:g}") for v in _round_values(y_low, y_high)),
    )


def spark(label: str, unit: str, values: Values, width: int = 150, height: int = 36) -> Spark:
    finite = [v for v in values if v is not None and math.isfinite(v)]
    if not finite:
        return Spark(label, unit, (), None, None, None, width, height, None)
    low, high = min(finite), max(finite)
    span = (high - low) or 1.0
    across = max(len(values) - 1, 1)

    def y(value: float | None) -> float | None:
        if value is None or not math.isfinite(value):
            return None
        flat = 0.5 if high == low else (value - low) / span
        return round(height - 3 - flat * (height - 6), 1)

    points = [(round(2 + i / across * (width - 6), 1), y(v)) for i, v in enumerate(values)]
    ends = [(px, py) for px, py in points if py is not None]
    return Spark(label, unit, _polylines(points), finite[-1], low, high, width, height, ends[-1])


def _polylines(points: Sequence[tuple[float, float | None]]) -> tuple[str, ...]:
    lines: list[list[str]] = [[]]
    for x, y in points:
        if y is None:
            lines.append([])
        else:
            lines[-1].append(f"{x:g},{y:g}")
    return tuple(" ".join(line) for line in lines if line)


def _round_steps(last: int) -> list[int]:
    gaps = (first * 10**power for power in range(12) for first in (1, 2, 5))
    gap = next(g for g in gaps if last / g <= 8)
    return [1, *range(gap if gap > 1 else 2, last + 1, gap)]


def _round_values(low: float, high: float) -> list[float]:
    span = high - low
    gap = 10 ** math.floor(math.log10(span)) if span else 1.0
    gap = next(g for g in (gap / 5, gap / 4, gap / 2, gap, gap * 2) if span / g <= 5)
    first = math.ceil(low / gap - 1e-9)
    return [round(i * gap, 6) for i in range(first, math.floor(high / gap + 1e-9) + 1)]
