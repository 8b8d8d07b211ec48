"""What the agent changed, as a unified diff made here and not in the sandbox.

`git diff` in the sandbox would trust the agent's git, miss new files and follow its hooks. So the
workspace is compared with its base, file by file, on our side. The diff is what `patch -p1`
applies; symbolic links, binary files and odd names never enter it.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from workers.training.core.errors import AgentFailure
from workers.training.core.workspace import File, Snapshot, conflicts

MAX_FILE = 2**19
MAX_PATCH = 2**19
_CONTEXT = 3
_NO_NEWLINE = "\n\\ No newline at end of file\n"
_MAX_COMPARISONS = 4_000_000
"""Lines times lines that difflib may compare; beyond, a change is written as one replacement,
because its worst case is quadratic and the text is hostile."""


class PatchTooLarge(AgentFailure):
    """More changes than a patch may hold."""


@dataclass(frozen=True, slots=True)
class FileDiff:
    path: str
    text: str
    created: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """An empty patch is a fact, not an error."""

    files: tuple[FileDiff, ...] = ()
    notes: tuple[str, ...] = ()
    """Changes that are not in the patch, and why."""

    @property
    def text(self) -> str:
        return "".join(file.text for file in self.files)

    def __bool__(self) -> bool:
        return bool(self.files)

    def without(self, paths: frozenset[str]) -> "Patch":
        """Leaves out everything at, below or in the way of these paths."""
        kept = tuple(file for file in self.files if not conflicts(file.path, paths))
        dropped = [file.path for file in self.files if conflicts(file.path, paths)]
        return Patch(kept, (*self.notes, *(f"{path}: protected, not applied" for path in dropped)))


def make_patch(base: Mapping[str, File], after: Snapshot) -> Patch:
    """Compares the workspace with its base. Raises :class:`PatchTooLarge`."""
    diffs: list[FileDiff] = []
    notes = list(after.notes)
    size = 0
    for path in sorted(base.keys() | after.files.keys()):
        made = _diff(path, base.get(path), after.files.get(path))
        if isinstance(made, str):
            notes.append(made)
        elif made is not None:
            diffs.append(made)
            size += len(made.text)
        if size > MAX_PATCH:
            raise PatchTooLarge(f"the changes are larger than {MAX_PATCH} bytes")
    return Patch(tuple(diffs), tuple(notes))


def _diff(path: str, before: File | None, after: File | None) -> FileDiff | str | None:
    """The diff of one file, a note on why there is none, or None when nothing changed."""
    if before == after:
        return None
    if after is None and before is not None and not before.content:
        return f"{path}: empty and deleted, which GNU patch refuses to do; kept"
    old, new = _text(before), _text(after)
    if old is None or new is None:
        return f"{path}: binary or larger than {MAX_FILE} bytes, dropped"
    body = "".join(_body(path, _lines(old), _lines(new), before is None, after is None))
    return FileDiff(path, _header(path, before, after) + body, created=before is None)


def _text(file: File | None) -> str | None:
    if file is None:
        return ""
    if len(file.content) > MAX_FILE or b"\0" in file.content:
        return None
    try:
        return file.content.decode()
    except UnicodeDecodeError:
        return None


def _header(path: str, before: File | None, after: File | None) -> str:
    """git's extended header: it alone can tell of empty files and of modes."""
    quote = '"' if " " in path else ""
    first = f"diff --git {quote}a/{path}{quote} {quote}b/{path}{quote}\n"
    if before is None:
        assert after is not None, "one side exists"
        return first + f"new file mode {_mode(after)}\n"
    if after is None:
        return first + f"deleted file mode {_mode(before)}\n"
    if before.executable != after.executable:
        return first + f"old mode {_mode(before)}\nnew mode {_mode(after)}\n"
    return first


def _mode(file: File) -> str:
    return "100755" if file.executable else "100644"


def _lines(text: str) -> list[str]:
    """Split at newlines only: `str.splitlines` also splits at form feeds and the like."""
    lines = text.split("\n")
    last = lines.pop()
    return [f"{line}\n" for line in lines] + ([last] if last else [])


def _body(path: str, old: list[str], new: list[str], created: bool, deleted: bool) -> Iterator[str]:
    if old == new:
        return
    # A tab ends the name, or a name with blanks would be cut at the first of them.
    end = "\t\n" if " " in path else "\n"
    yield "--- /dev/null\n" if created else f"--- a/{path}{end}"
    yield "+++ /dev/null\n" if deleted else f"+++ b/{path}{end}"
    for group in _hunks(old, new):
        yield from _hunk(group, old, new)


Opcode = tuple[str, int, int, int, int]


def _hunks(old: list[str], new: list[str]) -> Iterable[list[Opcode]]:
    if len(old) * len(new) <= _MAX_COMPARISONS:
        return difflib.SequenceMatcher(None, old, new).get_grouped_opcodes(_CONTEXT)
    return [[("replace", 0, len(old), 0, len(new))]]


def _hunk(group: list[Opcode], old: list[str], new: list[str]) -> Iterator[str]:
    first, last = group[0], group[-1]
    yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n"
    for tag, i1, i2, j1, j2 in group:
        if tag == "equal":
            yield from (_line(" ", line) for line in old[i1:i2])
            continue
        yield from (_line("-", line) for line in old[i1:i2])
        yield from (_line("+", line) for line in new[j1:j2])


def _range(start: int, stop: int) -> str:
    """POSIX: an empty range names the line before it."""
    length = stop - start
    return f"{start + 1 if length else start},{length}"


def _line(sign: str, line: str) -> str:
    return f"{sign}{line}" if line.endswith("\n") else f"{sign}{line}{_NO_NEWLINE}"
