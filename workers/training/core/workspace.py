"""Workspaces as tar archives: written into a sandbox, and read back without trust.

Nothing is ever unpacked on the trainer's disk. A workspace that comes back was made by the agent:
names may point anywhere, links may lead out, sizes may lie. Only regular files with plain relative
names are taken; everything else is dropped and named in a note.
"""

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

MAX_ARCHIVE = 64 * 2**20
MAX_FILES = 20_000
_EXECUTABLE = 0o111
_IGNORED_PARTS = frozenset({".git", "__pycache__", ".pytest_cache"})
_NOTE_LIMIT = 50
_MTIME = 946684800
"""Fixed and old: bytecode caches compare times, and an edited file must look newer."""


class BadArchive(Exception):
    """Not a readable tar: the transfer broke."""


@dataclass(frozen=True, slots=True)
class File:
    content: bytes
    executable: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    files: Mapping[str, File]
    """By path relative to the workspace."""
    notes: tuple[str, ...] = field(default=())
    """What was dropped, for people."""


def text_files(files: Mapping[str, str]) -> dict[str, File]:
    return {name: File(text.encode()) for name, text in files.items()}


def pack(files: Mapping[str, File]) -> bytes:
    """A tar of the files. It has no entries for folders, which would change those there."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, file in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755 if file.executable else 0o644
            entry.mtime = _MTIME
            entry.size = len(file.content)
            tar.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def unpack(tar: bytes, folder: str) -> Snapshot:
    """The files of a tar of ``folder``. Its entries are relative to it: ``./a/b`` or ``a/b``."""
    files: dict[str, File] = {}
    notes: list[str] = []
    try:
        with tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as archive:
            for entry in archive:
                _take(archive, entry, files, notes)
                if len(files) > MAX_FILES:
                    notes.append(f"only the first {MAX_FILES} files were read")
                    break
    except (tarfile.TarError, EOFError, ValueError, UnicodeError) as error:
        raise BadArchive(f"tar of {folder}: {error}") from error
    return Snapshot(files, tuple(notes[:_NOTE_LIMIT]))


def _take(
    archive: tarfile.TarFile,
    entry: tarfile.TarInfo,
    files: dict[str, File],
    notes: list[str],
) -> None:
    if entry.isdir():
        return
    name = _relative(entry.name)
    if name is None or not is_plain(name):
        notes.append(f"{entry.name!r}: not a plain name, dropped")
    elif not entry.isreg():
        notes.append(f"{name}: not a regular file, dropped")
        files.pop(name, None)
    elif not is_ignored(name):
        content = archive.extractfile(entry)
        assert content is not None, "regular files have content"
        files[name] = File(content.read(), bool(entry.mode & _EXECUTABLE))


def _relative(name: str) -> str | None:
    """The name below the folder; None for absolute names and names that climb."""
    if name.startswith("/") or ".." in name.split("/"):
        return None
    return name.removeprefix("./")


def is_plain(name: str) -> bool:
    """True for names that every tool on the way reads alike: patch headers have no safe quoting."""
    parts = name.split("/")
    return (
        all(part not in ("", ".", "..") for part in parts)
        and name == name.strip()
        and name.isprintable()
        and not set(name) & {'"', "\\"}
    )


def is_ignored(name: str) -> bool:
    """What tools leave behind; never part of a patch."""
    return not _IGNORED_PARTS.isdisjoint(PurePosixPath(name).parts)


def conflicts(name: str, with_names: frozenset[str]) -> bool:
    """True when the path is one of the names, lies below one, or would have to be its folder."""
    return any(
        name == other or name.startswith(f"{other}/") or other.startswith(f"{name}/")
        for other in with_names
    )
