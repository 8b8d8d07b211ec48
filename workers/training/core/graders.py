"""Grading: hidden tests against the agent's patch, in a sandbox the agent never saw.

What makes a result hard to forge:

- the sandbox is fresh; only the patch goes in, minus everything at or around the test files and
  minus files that Python would run by itself (``conftest.py``, ``sitecustomize.py``, new modules
  named like ones of the standard library);
- the result goes to a path nobody can guess and is copied the moment the tests end to a stream
  that is ours alone: output of the tests goes elsewhere, and whatever else is written to our
  stream spoils the result instead of replacing it;
- the exit code and the result must agree.

The gap that remains: code that the test command imports *into its own process* can read the path
from the environment, write the file and exit; and code of the same user can read the test files.
Tests of untrusted code must therefore observe it from another process and write the result last,
as those of the demo do.
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
from workers.training.core.sandbox_client import CommandResult, Sandbox
from workers.training.core.workspace import File, pack, text_files

_SCRATCH = "/tmp/"  # noqa: S108 - in the sandbox, which nobody else uses
_LOG_TAIL = 4000
_OUTPUT_BYTES = 2**20
_RUN_BY_PYTHON = frozenset({"conftest.py", "sitecustomize.py", "usercustomize.py"})

# $1 workdir, $2 staging folder, $3 nonce, $4 test command, then the test paths to replace.
_RUNNER = """\
mkdir -p "$1" "${SKYDECK_RESULTS%/*}" && cd "$1" || exit 97
command -v patch >/dev/null || exit 98
stage=$2 nonce=$3 tests=$4
shift 4
if [ -d "$stage/files" ]; then cp -R "$stage/files/." . || exit 97; fi
if [ -s "$stage/patch" ] && ! patch -p1 --batch --forward --fuzz=0 --no-backup-if-mismatch \
-s <"$stage/patch" >&2
then echo "$nonce refused"; exit 1
fi
rm -rf -- "$@" && cp -R "$stage/tests/." . && rm -rf "$stage" || exit 99
echo "$nonce applied"
shell=sh
if command -v bash >/dev/null; then shell=bash; fi
"$shell" -c "$tests" >&2 </dev/null
code=$?
if [ -f "$SKYDECK_RESULTS" ]; then cat "$SKYDECK_RESULTS"; fi
exit $code
"""
_RUNNER_TROUBLE = {
    97: "the working directory cannot be written",
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
        """One archive with workspace, patch and tests; one command that applies and tests."""
        nonce, stage, results = self.nonce(), _SCRATCH + self.nonce(), _SCRATCH + self.nonce()
        await sandbox.put(stage, pack(_contents(task, protected(task, patch))))
        run = await sandbox.run(_request(task, stage, nonce, f"{results}/r.json", timeout_s))
        return self._judge(task, run, nonce, sandbox)

    def _judge(self, task: Task, run: CommandResult, nonce: str, sandbox: Sandbox) -> Grade:
        first, _, written = run.stdout.partition("\n")
        log = run.stderr.strip()[-_LOG_TAIL:]
        if first == f"{nonce} refused":
            return self._grade(run, sandbox, False, (), f"the patch does not apply\n{log}")
        if first != f"{nonce} applied":
            raise _failed(task, _RUNNER_TROUBLE.get(run.exit_code, f"exit {run.exit_code}"), log)
        if run.timed_out:
            raise _failed(task, f"the tests ran longer than {run.seconds:.0f} s", log)
        tests = _tests(task, written, log)
        passed = all(test.passed for test in tests)
        if passed != (run.exit_code == 0):
            raise _failed(task, f"exit code {run.exit_code} and the result disagree", log)
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


def _contents(task: Task, patch: Patch) -> dict[str, File]:
    """Below the staging folder."""
    return {
        **{f"files/{name}": file for name, file in text_files(task.files).items()},
        **{f"tests/{name}": file for name, file in text_files(task.tests).items()},
        "patch": File(patch.text.encode()),
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


def _tests(task: Task, written: str, log: str) -> tuple[TestResult, ...]:
    if not written:
        raise _failed(task, f"the test command wrote nothing to ${RESULTS}", log)
    try:
        results = _Results.model_validate(json.loads(written))
    except (ValidationError, ValueError, RecursionError) as error:
        raise _failed(task, f"the result is not of the agreed form: {error}", log) from error
    if not results.tests:
        raise InfrastructureFailure(
            InvalidReason.NO_TESTS, f"task {task.task_id}: no test ran\n{log}", retryable=False
        )
    return tuple(
        TestResult(name=_clean(name), passed=passed) for name, passed in results.tests.items()
    )


def _clean(name: str) -> str:
    """JSON may spell lone surrogates, which no report could carry on."""
    return name.encode("utf-8", "replace").decode()


def _failed(task: Task, text: str, log: str) -> InfrastructureFailure:
    """Not retryable as a whole: the same patch would do it again."""
    return InfrastructureFailure(
        InvalidReason.GRADER_FAILED, f"task {task.task_id}: {text}\n{log}".strip(), retryable=False
    )
