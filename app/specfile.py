"""Spec documents, presets and site profiles as YAML files."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from app.errors import Invalid


class _UniqueKeys(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win in silence; a spec must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is written twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_document(text: str, name: str = "spec") -> dict[str, Any]:
    """The mapping that a YAML text holds. Raises Invalid with line and column."""
    try:
        loaded = yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise Invalid(f"{name}: {_where(error)}", code="invalid_spec") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise Invalid(
            f"{name}: the top level must be a mapping of keys to values", code="invalid_spec"
        )
    return loaded


def read_document(path: Path) -> dict[str, Any]:
    """Raises Invalid when the file cannot be read or is no mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path}: cannot be read: {error}") from None
    return parse_document(text, str(path))


def presets(folder: Path) -> dict[str, Path]:
    """Presets by name: the ``*.yaml`` files of a folder."""
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    if mark is None:
        return problem
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"
