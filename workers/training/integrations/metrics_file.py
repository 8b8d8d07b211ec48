"""Steps from a JSON-lines file that a trainer appends to: ``{"step": n, "data": {...}}``."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workers.training.integrations.base import Finding, StepMetrics


@dataclass(slots=True)
class MetricsTail:
    """Follows a JSON-lines file by byte offset; an unfinished last line waits for its end.

    A file shorter than the offset was truncated by a restarted logger: read it anew.
    """

    path: Path
    offset: int = 0

    def lines(self) -> list[str]:
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, 2)
                self.offset = self.offset if self.offset <= size else 0
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self.offset += len(whole)
        return whole.decode("utf-8", "replace").splitlines()


def parse_metrics(line: str) -> StepMetrics:
    """``{"step": n, "data": {...}}``. Raises ValueError on anything else."""
    record: Any = json.loads(line)
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        raise ValueError(f"no step number in metrics line: {line[:200]}")
    data = record.get("data")
    if not isinstance(data, dict):
        raise ValueError(f"no data in metrics line: {line[:200]}")
    numbers = {str(key): _number(value) for key, value in data.items() if _is_metric(value)}
    return StepMetrics(record["step"], numbers)


def _is_metric(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def read_steps(tail: MetricsTail) -> tuple[tuple[StepMetrics, ...], tuple[Finding, ...]]:
    """New steps, and a finding for each line that is none."""
    steps: list[StepMetrics] = []
    findings: list[Finding] = []
    for line in tail.lines():
        try:
            steps.append(parse_metrics(line))
        except ValueError as error:
            findings.append(Finding("metrics_unreadable", "warning", str(error)))
    return tuple(steps), tuple(findings)
