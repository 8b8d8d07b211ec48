"""Texts of the files in a task's workspace and of its hidden tests."""

from __future__ import annotations

import json
from collections.abc import Iterable

PUBLIC_CHECK = "check.py"
HIDDEN_TESTS = "hidden_tests.py"


def module(function: str, expression: str) -> str:
    return f"def {function}(a, b):\n    return {expression}\n"


def public_check(module_name: str, function: str, a: int, b: int, expected: int) -> str:
    """The check the agent may run. It leaves no bytecode behind, which would enter the patch and,
    being valid for a file of the same second and size, hide a later edit."""
    return f"""\
import sys

sys.dont_write_bytecode = True
try:
    from {module_name} import {function}

    got = {function}({a}, {b})
except Exception as error:
    got = type(error).__name__
if got == {expected}:
    print("PASSED")
else:
    print("FAILED {function}({a}, {b}) =", got)
    sys.exit(1)
"""


def hidden_tests(cases: Iterable[tuple[str, str, int, int, int]]) -> str:
    """The grader's tests.

    The workspace's code runs in a forked child that may only send values; the parent, which never
    imports it, compares them and writes the results last. Code that exits early, prints a forged
    summary or writes the result file itself gains nothing.
    """
    table = [[m, f, a, b, expected] for m, f, a, b, expected in cases]
    listed = "".join(f"    {json.dumps(case)},\n" for case in table)
    return f'''\
"""Hidden tests: run by the grader in a fresh container."""
import importlib
import json
import os
import sys

CASES = [
{listed}]


def observe(case):
    module, function, a, b, _ = case
    try:
        value = getattr(importlib.import_module(module), function)(a, b)
    except Exception as error:
        value = type(error).__name__
    return value if type(value) is int else repr(value)


def observe_apart():
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        sys.path.insert(0, os.getcwd())
        os.write(writer, json.dumps([observe(case) for case in CASES]).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    try:
        return json.loads(text)
    except ValueError:
        return ["no result"] * len(CASES)


def main():
    path = os.environ.pop("SKYDECK_RESULTS")
    tests = {{}}
    for (module, function, a, b, expected), value in zip(CASES, observe_apart()):
        name = f"{{module}}.{{function}}({{a}}, {{b}})"
        tests[name] = type(value) is int and value == expected
        if not tests[name]:
            print(f"FAILED {{name}} = {{value}}, expected {{expected}}")
    with open(path, "w") as stream:
        json.dump({{"tests": tests}}, stream)
    return 0 if len(tests) == len(CASES) and all(tests.values()) else 1


sys.exit(main())
'''
