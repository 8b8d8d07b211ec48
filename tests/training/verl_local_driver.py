"""A rollout driver without sandboxes, for tests of the trainer side only.

``dice`` tasks reward the parity of what the model wrote; one sample of each group may be
told to fail like broken infrastructure. Other tasks run their commands in a temporary
folder of this machine.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from workers.contract.attempt import AttemptFile
from workers.contract.tasks import Task
from workers.training.core.policy import Policy, PolicyOutOfRoom, TokenRecord

CALL = re.compile(r"<parameter=command>(.*?)</parameter>", re.DOTALL)


@dataclass(frozen=True)
class LocalResult:
    reward: float | None
    record: TokenRecord


class LocalDriver:
    def __init__(self, attempt: AttemptFile, broken_samples: frozenset[int]) -> None:
        self._agent = attempt.spec.agent
        self._turn_tokens = attempt.spec.trainer.max_turn_tokens
        self._records = Path(attempt.attempt_dir) / "records.jsonl"
        self._broken = broken_samples
        self._slots = asyncio.Semaphore(8)

    async def run(
        self,
        task: Task,
        *,
        step: int,
        group: str,
        sample: int,
        policy: Callable[[], Policy],
        validation: bool = False,
    ) -> LocalResult:
        chosen = policy()
        with tempfile.TemporaryDirectory() as folder:
            texts = await self._talk(task, chosen, Path(folder))
            reward = await self._reward(task, texts, Path(folder))
        if sample in self._broken:
            reward = None
        record = chosen.record()
        about = {"step": step, "sample": sample, "task": task.task_id, "validation": validation}
        with self._records.open("a", encoding="utf-8") as out:
            out.write(
                json.dumps(about | asdict(record) | {"reward": reward, "texts": texts}) + "\n"
            )
        return LocalResult(reward, record)

    async def _talk(self, task: Task, policy: Policy, folder: Path) -> list[str]:
        for name, text in task.files.items():
            (folder / name).write_text(text)
        await policy.start([message.model_dump() for message in task.prompt], [])
        texts: list[str] = []
        for _ in range(self._agent.max_turns):
            turn = await policy.turn(self._turn_tokens)
            texts.append(turn.text)
            if turn.stop == "length":
                break
            call = CALL.search(turn.text)
            observation = await self._execute(call[1], folder) if call else "no call"
            if task.data_source != "dice" and not call:
                break
            try:
                await policy.observe([{"role": "tool", "content": observation.strip()}])
            except PolicyOutOfRoom:
                break
        return texts

    async def _execute(self, command: str, folder: Path) -> str:
        async with self._slots:
            process = await asyncio.create_subprocess_exec(
                "bash", "-c", command,
                cwd=folder,
                env={"PATH": "/usr/bin:/bin", "SKYDECK_RESULTS": str(folder / ".results")},
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            out, _ = await process.communicate()
        return out.decode("utf-8", "replace")[:200]

    async def _reward(self, task: Task, texts: list[str], folder: Path) -> float:
        if task.data_source == "dice":
            return float(sum(map(len, texts)) % 2)
        for name, text in task.tests.items():
            (folder / name).write_text(text)
        await self._execute(task.test_command, folder)
        results = folder / ".results"
        tests = json.loads(results.read_text())["tests"] if results.exists() else {"none": False}
        return float(all(tests.values()))


async def open_driver(attempt_file: Path) -> LocalDriver:
    attempt = AttemptFile.model_validate_json(attempt_file.read_text())
    broken = attempt.spec.trainer.environment.get("TEST_BROKEN_SAMPLES", "")
    return LocalDriver(attempt, frozenset(map(int, filter(None, broken.split(",")))))
