"""Promises of docs/architecture.md and the other documents that no type checker keeps."""

import ast
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from app.__main__ import parser
from app.cli.exit_codes import Exit
from app.reconciler import files
from app.settings import Settings
from slurm.script import render
from tests.factories.world import World
from workers.contract import env

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("app", "slurm", "workers", "scripts", "examples")
MAX_LINES = 400
MAX_DECISION_LINES = 40


@cache
def sources() -> dict[str, str]:
    """Text by path, of every program file of ours outside the tests."""
    found = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.[pc]*")))
    return {
        str(path.relative_to(ROOT)): path.read_text()
        for path in found
        if path.suffix in (".py", ".c")
    }


@cache
def trees() -> dict[str, ast.Module]:
    return {path: ast.parse(text) for path, text in sources().items() if path.endswith(".py")}


def places(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for path, tree in trees().items():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, kinds))


def text_of(document: str) -> str:
    return (ROOT / "docs" / document).read_text()


# Modules


def test_no_module_knows_what_its_layer_forbids() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Contracts: [1-9]\d* kept, 0 broken", done.stdout)


def test_no_module_is_too_long_to_read() -> None:
    lengths = {path: len(text.splitlines()) for path, text in sources().items()}
    assert len(lengths) > 100
    assert {path: n for path, n in lengths.items() if n > MAX_LINES} == {}


def test_only_the_integration_imports_verl() -> None:
    importers = set[str]()
    for path, node in places(ast.Import, ast.ImportFrom):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(name.split(".")[0] == "verl" for name in names):
            importers.add(path)
    assert importers
    inside = "workers/training/integrations/verl/"
    assert [path for path in importers if not path.startswith(inside)] == []


READS_THE_ENVIRONMENT = {
    "app/settings.py": "the one reader of settings",
    "app/cli/server.py": "children inherit all of it",
    "workers/training/integrations/verl/agent_loop.py": "Ray starts it without arguments of ours",
    "slurm/testbed/layout.py": "a program of its own",
    "slurm/testbed/packages.py": "a program of its own",
}


def test_only_entry_points_read_the_environment() -> None:
    readers = {
        path
        for path, node in places(ast.Attribute)
        if ast.unparse(node) in ("os.environ", "os.environb", "os.getenv")
        and not path.startswith(("scripts/", "examples/"))
        and not path.endswith("__main__.py")
    }
    assert readers == set(READS_THE_ENVIRONMENT)


# State


def test_only_the_reconciler_s_queries_change_the_state_of_runs_and_jobs() -> None:
    updates = {
        path
        for path, node in places(ast.Call)
        if re.match(r"update\((Run|Job)\)", text := ast.unparse(node))
        and ".values(" in text
        and re.search(r"\bstate=|\*\*|\.values\(\w+\)", text)
    }
    assert updates == {"app/db/runs.py"}
    assigned = {
        f"{path}: {ast.unparse(target)}"
        for path, node in places(ast.Assign, ast.AugAssign, ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])  # type: ignore[attr-defined]
        if path.startswith("app/") and isinstance(target, ast.Attribute) and target.attr == "state"
    }
    # A sandbox is no job: the broker keeps what its runtime says of it.
    assert assigned <= {"app/services/broker.py: sandbox.state"}


# Names that cross a process border


VARIABLES = (env.ATTEMPT_FILE, env.ROLE, env.INDEX, env.GENERATION, env.JOB_NAME, env.RESULTS)
SANDBOX_TEXTS = {
    "workers/training/core/graders.py": "a shell script that runs in the grading sandbox",
    "workers/training/tiny/sources.py": "a Python program that runs in the grading sandbox",
    "workers/contract/tasks.py": "the documentation of a field",
}


def test_names_of_the_contract_are_spelt_once() -> None:
    elsewhere = {
        (path, name)
        for path, text in sources().items()
        for name in VARIABLES
        if re.search(rf"{name}\b", text) and path != "workers/contract/env.py"
    }
    assert {path for path, _ in elsewhere} <= set(SANDBOX_TEXTS)
    assert {name for _, name in elsewhere} <= {env.RESULTS}


# Documents


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented(name: str) -> None:
    assert f"`SKYDECK_{name.upper()}`" in text_of("operations.md")


def commands() -> list[str]:
    return [name for action in parser()._actions for name in (action.choices or ())]


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented(name: str) -> None:
    assert re.search(rf"`{name}\b", text_of("cli.md"))


@pytest.mark.parametrize("code", Exit)
def test_every_exit_code_is_documented(code: Exit) -> None:
    assert re.search(rf"^\| {code.value} \| \S", text_of("cli.md"), re.MULTILINE)


def test_decisions_are_numbered_without_gaps_and_short() -> None:
    found = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
    assert [int(path.name[:4]) for path in found] == list(range(1, len(found) + 1))
    for path in found:
        lines = path.read_text().splitlines()
        assert len(lines) <= MAX_DECISION_LINES, path
        assert lines[0].startswith(f"# {int(path.name[:4])}. "), path


# Secrets


def test_what_the_scheduler_and_the_attempt_file_get_holds_no_token(tmp_path: Path) -> None:
    world = World(tmp_path)
    run = world.launch()
    world.work()
    while len(world.cluster.submitted()) < 2:
        world.work()
        world.tick()
        world.pass_time(1)
    directory = world.settings.runs_dir / run / "a1"
    names = (env.TOKEN_RUNTIME, env.TOKEN_TRAINER, env.TOKEN_SANDBOX)
    tokens = {(directory / name).read_text() for name in names}
    assert len(tokens) == 3
    attempt = directory / env.ATTEMPT_FILE_NAME
    shown = [attempt.read_text()]
    for job in world.cluster.submitted():
        shown += [render(job), " ".join(job.command), *job.environment.values()]
    assert len(shown) > 6
    assert [token for token in tokens for text in shown if token in text] == []
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    private = [attempt, *(directory / name for name in names)]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}


def test_tokens_are_written_for_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    program = (
        "import os, sys; os.umask(0); from pathlib import Path; from app.reconciler import files; "
        "files._keep_or_write(Path(sys.argv[1]), lambda: 'secret')"
    )
    path = tmp_path / env.TOKEN_RUNTIME
    subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, check=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files._keep_or_write(path, lambda: "another") == "secret", "a job may hold it already"
