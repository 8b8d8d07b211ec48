"""What commands print: tables for people, JSON for programs."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

_UNPRINTABLE = {code: "�" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}


def show_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def show_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Columns as wide as their content; an empty table says so."""
    if not rows:
        print("(none)")
        return
    cells = [[clean(_text(row.get(column))) for column in columns] for row in rows]
    widths = [
        max(len(column), *(len(line[i]) for line in cells)) for i, column in enumerate(columns)
    ]
    for line in [[column.upper() for column in columns], *cells]:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def clean(text: str) -> str:
    """Without control characters: what agents wrote must not steer the terminal."""
    return text.translate(_UNPRINTABLE)


def complain(text: str) -> None:
    print(f"skydeck: {clean(text)}", file=sys.stderr)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return str(value)
