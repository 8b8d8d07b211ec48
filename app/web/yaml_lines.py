"""Which line of a YAML text a complaint is about."""

import re
from dataclasses import dataclass

import yaml

_MARK = re.compile(r"\bline (\d+)")


@dataclass(frozen=True)
class Problem:
    text: str
    line: int | None = None


def located(text: str, complaints: str) -> list[Problem]:
    """One problem per line of ``complaints``, with the line of ``text`` that sets its key."""
    lines = _lines(text)
    return [Problem(one, _line(one, lines)) for one in complaints.splitlines() if one.strip()]


def _line(complaint: str, lines: dict[str, int]) -> int | None:
    if mark := _MARK.search(complaint):
        return int(mark[1])
    for key in re.findall(r"[A-Za-z_][\w-]*(?:\.[\w-]+)+|^[A-Za-z_][\w-]*", complaint):
        if key in lines:
            return lines[key]
    return None


def _lines(text: str) -> dict[str, int]:
    """Dotted key to line number, from 1; empty when the text is no YAML mapping."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    found: dict[str, int] = {}
    pending: list[tuple[str, yaml.Node | None]] = [("", root)]
    while pending:
        prefix, node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                path = f"{prefix}{key.value}"
                found[path] = key.start_mark.line + 1
                # An alias may point back at its own parent: each key is entered once.
                if path.count(".") < 20:
                    pending.append((f"{path}.", value))
    return found
