"""Layers of a run's spec: site profile < preset < document < ``--set``, with origins kept.

Pure: what a file contains is parsed by ``app.specfile``.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from app.errors import Invalid
from workers.contract.spec import RunSpec

Document = Mapping[str, Any]


def build_spec(
    document: Document,
    *,
    sets: Sequence[str] = (),
    profile: Document | None = None,
    preset: Document | None = None,
) -> tuple[RunSpec, dict[str, str]]:
    """The validated spec, and for each dotted key the layer that set it.

    Layers, later wins: ``default``, ``profile``, ``preset``, ``spec``, ``set``.
    Raises Invalid with one line per problem: where, what, and what would do.
    """
    layers = (
        ("profile", profile or {}),
        ("preset", preset or {}),
        ("spec", document),
        ("set", parse_sets(sets)),
    )
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, layer in layers:
        merged = merge(merged, layer)
        origins.update({key: name for key, _ in flatten(layer)})
    try:
        spec = RunSpec.model_validate(merged)
    except ValidationError as error:
        raise Invalid("\n".join(explain(error, origins)), code="invalid_spec") from None
    return spec, {key: origins.get(key, "default") for key, _ in flatten(spec.model_dump())}


def merge(below: Document, above: Document) -> dict[str, Any]:
    """``above`` over ``below``: mappings key by key, anything else replaced whole."""
    result = dict(below)
    for key, value in above.items():
        old, new = _mapping(result.get(key)), _mapping(value)
        result[key] = merge(old, new) if old is not None and new is not None else value
    return result


def flatten(document: Document, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and leaf values; an empty mapping is a leaf."""
    for key, value in document.items():
        path = f"{prefix}{key}"
        if inner := _mapping(value):
            yield from flatten(inner, f"{path}.")
        else:
            yield path, value


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of :func:`flatten`; raises Invalid when a key is both leaf and mapping."""
    result: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node: dict[str, Any] = result
        for part in parents:
            below = node.setdefault(part, {})
            if not isinstance(below, dict):
                raise Invalid(f"{path}: {part} already has a value of its own")
            node = cast("dict[str, Any]", below)
        node[leaf] = value
    return result


def parse_sets(sets: Sequence[str]) -> dict[str, Any]:
    """``a.b=c`` pairs. Values are JSON where they parse as JSON (``3``, ``true``, ``[1, 2]``),
    else text."""
    flat: dict[str, Any] = {}
    for item in sets:
        key, sign, value = item.partition("=")
        if not sign or not key.strip():
            raise Invalid(f"--set {item}: write it as key.subkey=value")
        flat[key.strip()] = _value(value)
    return nest(flat)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def explain(error: ValidationError, origins: Mapping[str, str]) -> Iterator[str]:
    """One line per problem, with the layer it came from and the nearest known key."""
    for problem in error.errors(include_url=False):
        path = ".".join(str(part) for part in problem["loc"])
        where = f"{path} ({origins[path]})" if path in origins else path
        if problem["type"] == "extra_forbidden":
            yield f"{where}: unknown key{suggestion([str(part) for part in problem['loc']])}"
        else:
            message = problem["msg"].removeprefix("Value error, ")
            given = "" if problem["type"] == "missing" else f", not {_shown(problem['input'])}"
            yield f"{where or 'spec'}: {message}{given if path else ''}"


def suggestion(location: Sequence[str]) -> str:
    """``; did you mean ...?`` for an unknown key, from the keys that are known at its level."""
    level: Any = RunSpec
    for part in location[:-1]:
        field = level.model_fields.get(part) if _is_model(level) else None
        level = field.annotation if field is not None else None
    known = list(level.model_fields) if _is_model(level) else []
    if near := difflib.get_close_matches(location[-1], known, n=1):
        return f"; did you mean {near[0]}?"
    elsewhere = [key for key in known_keys() if key.endswith(f".{location[-1]}")]
    if elsewhere:
        return f"; did you mean {elsewhere[0]}?"
    return f"; known here: {', '.join(known)}" if known else ""


def known_keys(model: type[BaseModel] = RunSpec, prefix: str = "") -> Iterator[str]:
    """Every dotted key that a spec can have."""
    for name, field in model.model_fields.items():
        kind: Any = field.annotation
        if _is_model(kind):
            yield from known_keys(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _mapping(value: object) -> Document | None:
    return cast("Document", value) if isinstance(value, Mapping) else None


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
