"""Patches: what our diff says, GNU patch must do; what an agent smuggles, it must not hold."""

import io
import shutil
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workers.training.core import patches
from workers.training.core.patches import Patch, PatchTooLarge, make_patch
from workers.training.core.workspace import (
    BadArchive,
    File,
    Snapshot,
    is_plain,
    pack,
    text_files,
    unpack,
)

FOLDER = "/testbed"


def apply(base: dict[str, File], patch: Patch) -> dict[str, File]:
    """What the real `patch -p1` makes of it, with the options of the grader."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for path, file in base.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(file.content)
            (root / path).chmod(0o755 if file.executable else 0o644)
        ran = subprocess.run(
            ["patch", "-p1", "--batch", "--forward", "--fuzz=0", "--no-backup-if-mismatch", "-s"],
            cwd=root,
            input=patch.text.encode(),
            capture_output=True,
            check=False,
        )
        assert ran.returncode == 0, (ran.stdout, patch.text)
        return {
            str(p.relative_to(root)): File(p.read_bytes(), bool(p.stat().st_mode & 0o111))
            for p in root.rglob("*")
            if p.is_file()
        }


def diff(base: dict[str, File], after: dict[str, File]) -> Patch:
    return make_patch(base, Snapshot(after))


LINES = st.sampled_from(["a", "b", "", " x", "+", "-", "--- a/x", "@@ -1 +1 @@", "\f", "é", "\r"])
TEXTS = st.builds(
    lambda lines, end: ("\n".join(lines) + end).encode(),
    st.lists(LINES, max_size=12),
    st.sampled_from(["", "\n"]),
)
NAMES = st.sampled_from(["a.py", "b c.py", "d/e.txt", "d/f g/h", "é.md", "-x", "z"])
FILES = st.dictionaries(NAMES, st.builds(File, TEXTS, st.booleans()), max_size=5)


@pytest.mark.skipif(shutil.which("patch") is None, reason="needs GNU patch")
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(FILES, FILES)
def test_gnu_patch_rebuilds_the_workspace_exactly(
    base: dict[str, File], after: dict[str, File]
) -> None:
    kept = {name: file for name, file in base.items() if name not in after and not file.content}
    assert apply(base, diff(base, after)) == {**kept, **after}


def test_the_deletion_of_an_empty_file_is_a_note_because_gnu_patch_refuses_it() -> None:
    patch = diff({"a": File(b"")}, {})
    assert not patch
    assert "kept" in patch.notes[0]


def test_nothing_changed_is_an_empty_patch() -> None:
    base = text_files({"a.py": "x\n"})
    patch = diff(base, base)
    assert not patch
    assert patch.text == ""
    assert patch.notes == ()


def test_new_changed_and_deleted_files_are_all_in_the_patch() -> None:
    base = text_files({"same": "1\n", "changed": "1\n", "deleted": "1\n"})
    after = text_files({"same": "1\n", "changed": "2\n", "new": "1\n"})
    assert [file.path for file in diff(base, after).files] == ["changed", "deleted", "new"]


def test_binary_files_are_dropped_with_a_note() -> None:
    patch = diff({}, {"a.bin": File(b"\0\1"), "b": File(b"\xff\xfe")})
    assert not patch
    assert len(patch.notes) == 2


def test_too_many_changes_are_refused() -> None:
    many = {f"f{i}": File(b"x" * 200_000) for i in range(4)}
    with pytest.raises(PatchTooLarge):
        diff({}, many)


def test_hostile_files_do_not_take_quadratic_time() -> None:
    old = File("".join(f"{i % 90}\n" for i in range(50_000)).encode())
    new = File("".join(f"{i * 7 % 91}\n" for i in range(50_000)).encode())
    began = time.perf_counter()
    assert diff({"f": old}, {"f": new})
    assert time.perf_counter() - began < 3.0


def test_protected_paths_take_what_lies_below_and_above_with_them() -> None:
    after = text_files({"tests/t.py": "", "tests/t.py2": "", "tests/u/x": "", "v": "1\n"})
    patch = diff({}, after).without(frozenset({"tests/t.py", "tests/u", "v/w.py"}))
    assert [file.path for file in patch.files] == ["tests/t.py2"]
    assert len(patch.notes) == 3


# --- archives ------------------------------------------------------------------------------------


def tar_of(*entries: tuple[str, bytes, bytes, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, content, link in entries:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), link
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def regular(name: str, content: bytes = b"x") -> tuple[str, bytes, bytes, str]:
    return (name, tarfile.REGTYPE, content, "")


@pytest.mark.parametrize("name", ["./a.py", "a.py"])
def test_names_are_relative_to_the_workspace(name: str) -> None:
    assert list(unpack(tar_of(regular(name)), FOLDER).files) == ["a.py"]


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "../../x",
        "a\nb",
        'a"b',
        "a\\b",
        "a ",
        "a\tb",
    ],
)
def test_odd_names_are_dropped_with_a_note(name: str) -> None:
    snapshot = unpack(tar_of(regular(name)), FOLDER)
    assert snapshot.files == {}
    assert len(snapshot.notes) == 1


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_dropped_and_replace_what_was_there(kind: bytes) -> None:
    tar = tar_of(regular("a"), ("a", kind, b"", "/etc/passwd"))
    snapshot = unpack(tar, FOLDER)
    assert snapshot.files == {}
    assert "not a regular file" in snapshot.notes[0]


def test_leftovers_of_tools_are_ignored() -> None:
    names = [".git/config", "__pycache__/a.pyc", "d/.pytest_cache/x"]
    assert unpack(tar_of(*(regular(n) for n in names)), FOLDER) == Snapshot({}, ())


def test_a_broken_archive_is_told_apart_from_an_empty_one() -> None:
    with pytest.raises(BadArchive):
        unpack(b"not a tar" * 200, FOLDER)
    whole = pack({"a": File(b"x" * 5000)})
    with pytest.raises(BadArchive):
        unpack(whole[:3000], FOLDER)


@settings(deadline=None)
@given(FILES)
def test_what_is_packed_comes_back(files: dict[str, File]) -> None:
    assert unpack(pack(files), FOLDER).files == files


@settings(deadline=None)
@given(st.text(max_size=20))
def test_plain_names_survive_a_patch_header(name: str) -> None:
    if is_plain(name):
        assert not set(name) & set('\n\t"\\\0')
        assert ".." not in name.split("/")
        assert not name.startswith("/")


def test_large_files_are_not_compared() -> None:
    patch = diff({}, {"big": File(b"x" * (patches.MAX_FILE + 1))})
    assert not patch
    assert "dropped" in patch.notes[0]
