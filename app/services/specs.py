"""From what people send to a spec: layers, validation, arithmetic, rendered scripts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.domain.plan import Plan, plan
from app.domain.spec import build_spec
from app.errors import Invalid
from app.services.visibility import unseen
from workers.contract.spec import RunSpec

RenderScripts = Callable[[RunSpec], Mapping[str, str]]
"""Batch scripts by role, for show: rendered with placeholders for what only a real run has."""


def render_nothing(spec: RunSpec) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class SpecLayers:
    """What lies below every document of this installation."""

    profile: Mapping[str, Any] = field(default_factory=dict[str, Any])
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])

    def preset(self, name: str) -> Mapping[str, Any]:
        if name not in self.presets:
            known = ", ".join(sorted(self.presets)) or "none"
            raise Invalid(f"there is no preset {name!r}; known: {known}", code="invalid_spec")
        return self.presets[name]


Preset = str | Mapping[str, Any]
"""The name of a preset of this installation, or a document that serves as one."""


@dataclass(frozen=True)
class Draft:
    """A valid spec that nobody has launched yet."""

    spec: RunSpec
    origins: dict[str, str]
    plan: Plan


def draft(
    document: Mapping[str, Any],
    *,
    layers: SpecLayers,
    sets: Sequence[str] = (),
    preset: Preset | None = None,
) -> Draft:
    """Raises Invalid: an unknown preset, or one line per fault of the spec."""
    below = layers.preset(preset) if isinstance(preset, str) else preset
    spec, origins = build_spec(document, sets=sets, profile=layers.profile, preset=below)
    fitted = plan(spec)
    return Draft(spec, origins, replace(fitted, warnings=(*fitted.warnings, *unseen(spec))))


def require_possible(made: Draft) -> None:
    """Raises Invalid when the plan says that this can never run."""
    if made.plan.problems:
        raise Invalid("\n".join(made.plan.problems), code="impossible_plan")
