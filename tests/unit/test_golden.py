"""Promises to others do not change unnoticed. ``make golden`` rewrites the files."""

import pytest

from tests.golden.files import FILES, FOLDER


@pytest.mark.parametrize("name", ["openapi.json", "webhook_run_failed.json"])
def test_what_is_promised_is_the_golden_file(name: str) -> None:
    assert FILES[name]() == (FOLDER / name).read_text(encoding="utf-8")


def test_every_golden_file_can_be_written_anew() -> None:
    found = {path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "")}
    assert found == set(FILES)
