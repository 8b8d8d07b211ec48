"""The Jinja environment, its filters, and the two ways to answer with HTML."""

import json
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from fastapi import Request, Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context

from app.web import text, words
from app.web.security import HEADERS

TEMPLATES = Path(__file__).resolve().parents[2] / "templates"
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


@cache
def environment() -> Environment:
    """One per process and never changed after it is made."""
    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(default_for_string=True, default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        {
            "visible": text.visible,
            "bounded": text.bounded,
            "diff": text.diff,
            "ago": ago,
            "age": age,
            "clock": clock,
            "seconds": seconds,
            "size": size,
            "number": number,
            "value": value,
            "query": query,
            "yaml": lambda found: yaml.safe_dump(found, sort_keys=False, allow_unicode=True),
        }
    )
    env.globals.update({"words": words})
    return env


def page(request: Request, template: str, status: int = 200, **context: Any) -> Response:
    """A whole page, or a fragment: the template decides."""
    body = (
        environment()
        .get_template(template)
        .render(request=request, path=request.url.path, **context)
    )
    return HTMLResponse(body, status, HEADERS)


def elapsed(span: timedelta) -> str:
    left = max(0, int(span.total_seconds()))
    for unit, name in _UNITS:
        if left >= unit:
            whole, rest = divmod(left, unit)
            smaller = {"d": (3_600, "h"), "h": (60, "min"), "min": (1, "s")}[name]
            return f"{whole} {name}" + (
                f" {rest // smaller[0]} {smaller[1]}" if rest // smaller[0] and whole < 10 else ""
            )
    return f"{left} s"


@pass_context
def ago(context: Context, at: datetime | None) -> str:
    return "never" if at is None else f"{elapsed(context['now'] - at)} ago"


@pass_context
def age(context: Context, began: datetime | None, ended: datetime | None = None) -> str:
    """How long something has lasted, or lasted."""
    return "–" if began is None else elapsed((ended or context["now"]) - began)


def clock(at: datetime | None) -> str:
    return "–" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def seconds(span: float | None) -> str:
    if span is None:
        return "–"
    if span < 1:
        return f"{span * 1000:.0f} ms"
    return f"{span:.1f} s" if span < 100 else elapsed(timedelta(seconds=span))


def size(count: int) -> str:
    amount = float(count)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def number(found: float | None, digits: int = 2) -> str:
    if found is None:
        return "–"
    if float(found).is_integer():
        return f"{int(found):,}"
    return f"{found:.{digits}f}" if 0.001 <= abs(found) < 1e6 else f"{found:.{digits}g}"


def value(found: object) -> str:
    """A value of a spec as one would write it in YAML."""
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)


@pass_context
def query(context: Context, _: object = None, **changed: object) -> str:
    """This page's query with some keys changed; None or nothing removes one."""
    request: Request = context["request"]
    kept = {**request.query_params, **changed}
    pairs = [(key, item) for key, item in kept.items() if item not in (None, "")]
    return "?" + urlencode(pairs)
