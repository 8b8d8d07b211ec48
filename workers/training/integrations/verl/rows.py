"""Tasks -> rows of a verl dataset. Standard library and contract only."""

import json
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from workers.contract.tasks import Task
from workers.training.integrations.base import IntegrationError
from workers.training.integrations.verl.config import AGENT_NAME


def write_rows(tasks_file: Path, rows_file: Path, validation: bool) -> int:
    """Writes one row per task and returns their number; the same input gives the same file.

    The task travels as one JSON text. As nested columns, verl's reader would give every row
    the union of all rows' file names, with None for the files a task does not have.
    """
    rows_file.parent.mkdir(parents=True, exist_ok=True)
    partial = rows_file.with_suffix(".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as out:
        for count, task in enumerate(read_tasks(tasks_file), start=1):
            out.write(json.dumps(_row(task, count - 1, validation), ensure_ascii=False) + "\n")
    partial.replace(rows_file)
    return count


def read_tasks(path: Path) -> Iterator[Task]:
    """Tasks of a JSON-lines file. Raises ``IntegrationError`` with file and line."""
    if path.suffix not in {".jsonl", ".json"}:
        raise IntegrationError(
            f"{path}: tasks are read from JSON lines (.jsonl), not {path.suffix}"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise IntegrationError(f"{path}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield Task.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "line"
            raise IntegrationError(f"{path}:{number}: {where}: {first['msg']}") from error


def _row(task: Task, index: int, validation: bool) -> dict[str, object]:
    return {
        "data_source": task.data_source or "skydeck",
        "prompt": [message.model_dump() for message in task.prompt],
        "agent_name": AGENT_NAME,
        "reward_model": {"style": "sandbox", "ground_truth": ""},
        "extra_info": {"index": index, "split": "eval" if validation else "train"},
        "task": task.model_dump_json(),
        # verl does not tell an agent loop that it is validating.
        "validation": validation,
    }
