"""Grading: hidden tests against the agent's patch, in a sandbox the agent never saw.

What makes a result hard to forge:

- the sandbox is fresh; only the patch goes in, minus everything at or around the test files and
  minus files that Python would run by itself (``conftest.py``, ``sitecustomize.py``, new modules
  named like ones of the standard library);
- the result is a file at a path nobody can guess, fetched by the engine and not by a program of
  the sandbox; stdout counts for nothing after its first line, which is ours and is printed before
  any of the agent's code can run;
- the exit code and the file must agree.

The gap that remains: code that the test command imports *into its own process* can read the path
from the environment and write the file. Tests of untrusted code must therefore observe it from
another process and write the result last, as those of the demo do.
"""

import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from pydantic import BaseModel, ConfigDict, StrictBool, ValidationError

from workers.contract.env import RESULTS
from workers.contract.reports import Grade, InvalidReason, TestResult
from workers.contract.sandbox_api import ExecRequest
from workers.contract.tasks import Task
from workers.training.core.errors import InfrastructureFailure
from workers.training.core.patches import FileDiff, Patch
from workers.training.core.sandbox_client import ArchiveTooLarge, CommandResult, Sandbox
from workers.training.core.workspace import BadArchive, File, pack, text_files, unpack

_SCRATCH = "/tmp/"  # noqa: S108 - in the sandbox, which nobody else uses
_LOG_TAIL = 4000
_OUTPUT_BYTES = 65536
_MAX_RESULT = 2**20
_RUN_BY_PYTHON = frozenset({"conftest.py", "sitecustomize.py", "usercustomize.py"})

# $1 workdir, $2 staging folder, $3 nonce, $4 test command, then the test paths to replace.
_RUNNER = """\
mkdir -p "$1" && cd "$1" || exit 97
command -v patch >/dev/null || exit 98
stage=$2 nonce=$3 tests=$4
shift 4
if [ -s "$stage/patch" ] && ! patch -p1 --batch --forward --fuzz=0 --no-backup-if-mismatch \
-s <"$stage/patch" >"$stage/log" 2>&1
then echo "$nonce refused"; cat "$stage/log"; exit 1
fi
rm -rf -- "$@" && cp -R "$stage/tests/." . && rm -rf "$stage" || exit 99
echo "$nonce applied"
unset stage nonce
if command -v bash >/dev/null; then exec bash -c "$tests"; fi
exec sh -c "$tests"
"""
_RUNNER_TROUBLE = {
    97: "the working directory cannot be made",
    98: "the image has no `patch`; install it there",
    99: "the tests could not be written",
}


class Grader(Protocol):
    """Reward or "not graded", never a guess. Grading may be repeated with the same patch."""

    @property
    def name(self) -> str:
        """With a version: grades of different graders are not comparable."""
        ...

    def needless(self, task: Task, patch: Patch) -> Grade | None:
        """The grade where no sandbox is needed to know it. Raises ``no_tests``."""
        ...

    async def grade(self, task: Task, patch: Patch, sandbox: Sandbox, timeout_s: float) -> Grade:
        """Raises ``InfrastructureFailure`` when there is no trustworthy result."""
        ...


class _Results(BaseModel):
    """What a test command must write."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tests: dict[str, StrictBool]


@dataclass(frozen=True, slots=True)
class HiddenTestsGrader:
    """Applies the patch, lays the hidden tests over it and runs the task's test command."""

    nonce: Callable[[], str] = secrets.token_hex
    name: str = "hidden-tests/1"

    def needless(self, task: Task, patch: Patch) -> Grade | None:
        if not task.tests:
            raise InfrastructureFailure(
                InvalidReason.NO_TESTS, f"task {task.task_id} has no tests", retryable=False
            )
        if protected(task, patch):
            return None
        notes = "\n".join(protected(task, patch).notes)
        return Grade(grader=self.name, passed=False, log_tail=f"empty patch\n{notes}".strip())

    async def grade(self, task: Task, patch: Patch, sandbox: Sandbox, timeout_s: float) -> Grade:
        """1. one archive with workspace, patch and tests; 2. one command that applies and tests;
        3. the result file, fetched from outside."""
        nonce, stage, results = self.nonce(), _SCRATCH + self.nonce(), _SCRATCH + self.nonce()
        applied = protected(task, patch)
        await sandbox.put("/", pack(_contents(task, applied, stage, results), "/"))
        run = await sandbox.run(_request(task, stage, nonce, f"{results}/r.json", timeout_s))
        return await self._judge(task, run, nonce, results, sandbox)

    async def _judge(
        self, task: Task, run: CommandResult, nonce: str, results: str, sandbox: Sandbox
    ) -> Grade:
        first, _, rest = run.stdout.partition("\n")
        log = f"{rest}\n{run.stderr}".strip()[-_LOG_TAIL:]
        if first == f"{nonce} refused":
            return self._grade(run, sandbox, False, (), f"the patch does not apply\n{log}")
        if first != f"{nonce} applied":
            raise _failed(task, _RUNNER_TROUBLE.get(run.exit_code, f"exit {run.exit_code}"), log)
        if run.timed_out:
            raise _failed(task, f"the tests ran longer than {run.seconds:.0f} s", log)
        tests = _tests(task, await _fetch(sandbox, results), log)
        passed = all(test.passed for test in tests)
        if passed != (run.exit_code == 0):
            raise _failed(task, f"exit code {run.exit_code} and the result file disagree", log)
        return self._grade(run, sandbox, passed, tests, log)

    def _grade(
        self,
        run: CommandResult,
        sandbox: Sandbox,
        passed: bool,
        tests: tuple[TestResult, ...],
        log: str,
    ) -> Grade:
        return Grade(
            grader=self.name,
            passed=passed,
            tests=tests,
            exit_code=run.exit_code,
            seconds=run.seconds,
            log_tail=log,
            sandbox_id=sandbox.id,
        )


def protected(task: Task, patch: Patch) -> Patch:
    """The patch without what could touch the judging instead of the task."""
    meddling = {file.path for file in patch.files if _meddles(file)}
    return patch.without(frozenset(task.tests) | meddling)


def _meddles(file: FileDiff) -> bool:
    path = PurePosixPath(file.path)
    top = PurePosixPath(path.parts[0]).stem
    shadows = file.created and top in sys.stdlib_module_names
    return path.name in _RUN_BY_PYTHON or path.suffix == ".pth" or shadows


def _contents(task: Task, patch: Patch, stage: str, results: str) -> dict[str, File]:
    below = task.workdir.lstrip("/")
    given, tests = text_files(task.files), text_files(task.tests)
    return {
        **{f"{below}/{name}": file for name, file in given.items()},
        **{f"{stage.lstrip('/')}/tests/{name}": file for name, file in tests.items()},
        f"{stage.lstrip('/')}/patch": File(patch.text.encode()),
        f"{results.lstrip('/')}/about": File(b""),
    }


def _request(task: Task, stage: str, nonce: str, results: str, timeout_s: float) -> ExecRequest:
    arguments = (task.workdir, stage, nonce, task.test_command, *sorted(task.tests))
    return ExecRequest(
        argv=("sh", "-c", _RUNNER, "sh", *arguments),
        cwd="/",
        env={RESULTS: results},
        timeout_s=timeout_s,
        output_limit=_OUTPUT_BYTES,
    )


async def _fetch(sandbox: Sandbox, results: str) -> bytes | None:
    try:
        tar = await sandbox.fetch(results, _MAX_RESULT)
        file = unpack(tar, results).files.get("r.json")
    except (BadArchive, ArchiveTooLarge):
        return None
    return file.content if file is not None else None


def _tests(task: Task, content: bytes | None, log: str) -> tuple[TestResult, ...]:
    if content is None:
        raise _failed(task, f"the test command wrote no file to ${RESULTS}", log)
    try:
        results = _Results.model_validate(json.loads(content))
    except (ValidationError, ValueError, RecursionError) as error:
        raise _failed(task, f"the result file is not of the agreed form: {error}", log) from error
    if not results.tests:
        raise InfrastructureFailure(
            InvalidReason.NO_TESTS, f"task {task.task_id}: no test ran\n{log}", retryable=False
        )
    return tuple(TestResult(name=name, passed=passed) for name, passed in results.tests.items())


def _failed(task: Task, text: str, log: str) -> InfrastructureFailure:
    """Not retryable as a whole: the same patch would do it again."""
    return InfrastructureFailure(
        InvalidReason.GRADER_FAILED, f"task {task.task_id}: {text}\n{log}".strip(), retryable=False
    )
