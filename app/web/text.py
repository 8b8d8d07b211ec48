"""Agent output is hostile: made visible and bounded here, escaped by the templates.

Nothing in this module returns markup; autoescaping stays the only place that writes entities.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

MAX_CHARS = 50_000
MAX_DIFF_LINES = 2_000

# CSI, OSC (ended by BEL or ST) and the two-character escapes of a terminal.
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_KEPT = frozenset("\n\t")
# These reorder or hide what stands beside them: a reader must see that they are there.
_DECEIVING = frozenset(
    "\u061c\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f"
    "\ufeff\ufff9\ufffa\ufffb\u00ad"
)


@dataclass(frozen=True)
class Bounded:
    """Text fit to be shown, and how many characters in the middle were left out."""

    head: str
    omitted: int = 0
    tail: str = ""


@dataclass(frozen=True)
class DiffLine:
    kind: str
    """``add``, ``del``, ``hunk``, ``file`` or ``same``: also the CSS class."""
    text: str


def visible(text: str) -> str:
    """Terminal colours dropped; control and direction characters written out as ``[U+202E]``."""
    text = _ANSI.sub("", text.replace("\r\n", "\n"))
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(map(_visible_char, text))


def bounded(text: str, limit: int = MAX_CHARS) -> Bounded:
    """Head and tail of a long text: errors stand at the end, causes at the beginning."""
    if len(text) <= limit:
        return Bounded(visible(text))
    head, tail = limit * 3 // 4, limit // 4
    return Bounded(visible(text[:head]), len(text) - head - tail, visible(text[-tail:]))


def diff(patch: str) -> list[DiffLine]:
    """The lines of a unified diff, each with what it does."""
    lines = patch.removesuffix("\n").split("\n") if patch else []
    shown = list(_diff_lines(lines[:MAX_DIFF_LINES]))
    if len(lines) > MAX_DIFF_LINES:
        shown.append(DiffLine("hunk", f"… {len(lines) - MAX_DIFF_LINES:,} more lines"))
    return shown


def _diff_lines(lines: list[str]) -> Iterator[DiffLine]:
    for line in lines:
        cut = bounded(line, 2_000)
        text = cut.head + (f" … {cut.omitted:,} characters … {cut.tail}" if cut.omitted else "")
        yield DiffLine(_kind(line), text)


def _kind(line: str) -> str:
    if line.startswith(("--- ", "+++ ", "diff ", "index ")):
        return "file"
    return {"@": "hunk", "+": "add", "-": "del"}.get(line[:1], "same")


def _visible_char(char: str) -> str:
    if char in _KEPT:
        return char
    if char in _DECEIVING or unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co"):
        return f"[U+{ord(char):04X}]"
    return char
