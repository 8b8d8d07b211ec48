"""The launch form: a spec as YAML, checked without side effects, launched once."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Depends, Request, Response
from starlette.datastructures import FormData, UploadFile

from app.errors import AppError, Conflict, Invalid
from app.ids import new_id
from app.services import launch, views_run
from app.services.specs import Draft, draft
from app.specfile import parse_document, presets
from app.web.shell import Shell, Ui, Writer, needs_own_form, see_other
from app.web.yaml_lines import Problem, located

router = APIRouter(prefix="/launch")

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
MAX_SPEC = 200_000
EMPTY = "name: my run\nexperiment: default\n"


@dataclass(frozen=True)
class Field:
    key: str
    label: str
    number: bool = True
    value: str = ""


FIELDS = (
    Field("name", "Name", number=False),
    Field("experiment", "Experiment", number=False),
    Field("trainer.steps", "Steps"),
    Field("trainer.prompts_per_step", "Prompts per step"),
    Field("trainer.rollouts_per_prompt", "Rollouts per prompt"),
    Field("trainer.learning_rate", "Learning rate"),
    Field("trainer.seed", "Seed"),
    Field("runtime.slots", "Sandbox slots"),
)


@dataclass(frozen=True)
class Filled:
    """What the form holds."""

    key: str
    text: str
    start: str = ""
    preset: str = ""
    fields: tuple[Field, ...] = FIELDS
    action: str = "check"

    @property
    def sets(self) -> list[str]:
        """Non-empty fields as the topmost layer; text stays text even where it looks like JSON."""
        filled = [field for field in self.fields if field.value]
        return [f"{f.key}={f.value if f.number else json.dumps(f.value)}" for f in filled]


async def _filled(request: Request) -> Filled:
    form = await request.form(max_part_size=MAX_SPEC * 4)
    filled = Filled(
        key=_text(form, "key")[:200] or new_id(),
        text=_text(form, "spec").replace("\r\n", "\n"),
        start=_text(form, "start"),
        preset=_text(form, "preset"),
        fields=tuple(replace(field, value=_text(form, field.key).strip()) for field in FIELDS),
        action=_text(form, "action") or "check",
    )
    if len(filled.text) > MAX_SPEC:
        raise Invalid(f"the spec is longer than {MAX_SPEC:,} characters")
    return filled


@router.get("")
def show(ui: Ui, start: str = "", run: str = "") -> Response:
    """``start`` names an example; ``run`` takes over the spec of an earlier run."""
    if run:
        text = _as_yaml(views_run.get_run(ui.session, run).spec)
    else:
        path = presets(EXAMPLES).get(start)
        text = path.read_text(encoding="utf-8") if path else EMPTY
    return _page(ui, Filled(key=new_id(20), text=text, start=start))


@router.post("", dependencies=[needs_own_form])
def submit(ui: Ui, writer: Writer, filled: Annotated[Filled, Depends(_filled)]) -> Response:
    try:
        document = parse_document(filled.text)
        made = draft(
            document, layers=ui.here.layers, sets=filled.sets, preset=filled.preset or None
        )
        problems = "\n".join(made.plan.problems)
    except Invalid as error:
        return _page(ui, filled, problems=located(filled.text, error.detail))
    if filled.action != "launch" or problems:
        return _page(ui, filled, made=made, problems=located(filled.text, problems))
    try:
        run = _launch(ui, writer, filled, document, made)
    except Conflict:
        # Launched before with another text: this is a new wish, so it gets a key of its own.
        run = _launch(ui, writer, replace(filled, key=new_id(20)), document, made)
    return see_other(f"/runs/{run}")


def _launch(
    ui: Shell, writer: Writer, filled: Filled, document: dict[str, Any], made: Draft
) -> str:
    run, _ = launch.launch(
        writer,
        made,
        key=f"form-{filled.key}",
        hashed=launch.request_hash(document, filled.sets, filled.preset or None),
        by=ui.user.name,
        at=ui.here.clock(),
        ids=ui.here.ids,
    )
    return run.id


def _page(
    ui: Shell,
    filled: Filled,
    *,
    made: Draft | None = None,
    problems: list[Problem] | None = None,
) -> Response:
    return ui.page(
        "launch/index.html",
        current="/launch",
        status=422 if problems else 200,
        checked=problems is not None,
        problems=problems or [],
        warnings=made.plan.warnings if made else (),
        made=made,
        scripts=_scripts(ui, made) if made else {},
        spec_lines=_lines(made) if made else [],
        key=filled.key,
        text=filled.text,
        start=filled.start,
        preset=filled.preset,
        fields=filled.fields,
        starts=list(presets(EXAMPLES)),
        presets=sorted(ui.here.layers.presets),
    )


def _scripts(ui: Shell, made: Draft) -> dict[str, str]:
    try:
        return dict(ui.here.render_scripts(made.spec))
    except AppError as error:
        return {"first": f"# cannot be rendered: {error.detail}"}


def _lines(made: Draft) -> list[views_run.SpecLine]:
    return views_run.spec_lines(made.spec.model_dump(mode="json"), made.origins)


def _as_yaml(spec: dict[str, Any]) -> str:
    return yaml.safe_dump(spec, sort_keys=False, allow_unicode=True)


def _text(form: FormData, key: str) -> str:
    value = form.get(key)
    return "" if value is None or isinstance(value, UploadFile) else value
