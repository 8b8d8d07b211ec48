"""Webhook endpoints and what became of their deliveries."""

from typing import Annotated

from fastapi import APIRouter, Form, Response

from app.errors import Invalid
from app.services import views_webhooks, webhooks
from app.web.shell import Ui, Writer, needs_own_form, see_other

router = APIRouter(prefix="/webhooks")

USUAL = "run.failed"


@router.get("")
def show(ui: Ui) -> Response:
    return ui.page(
        "webhooks/index.html",
        current="/webhooks",
        hooks=views_webhooks.webhooks(ui.session),
        secret="",
        problem="",
        url="",
        events=USUAL,
    )


@router.get("/fragments/deliveries")
def deliveries(ui: Ui) -> Response:
    hooks = views_webhooks.webhooks(ui.session)
    return ui.fragment("webhooks/_deliveries.html", hooks=hooks)


@router.post("", dependencies=[needs_own_form])
def create(
    ui: Ui,
    writer: Writer,
    url: Annotated[str, Form(max_length=2000)],
    events: Annotated[str, Form(max_length=2000)] = USUAL,
) -> Response:
    """The answer is the page itself, not a redirect: the secret is shown here and never again."""
    kinds = [kind for kind in (part.strip() for part in events.split(",")) if kind]
    secret, problem = "", ""
    try:
        secret = webhooks.create(
            writer,
            url.strip(),
            kinds or ["*"],
            at=ui.here.clock(),
            ids=ui.here.ids,
            check=ui.here.check_target,
        ).secret
    except Invalid as error:
        problem = error.detail
    return ui.page(
        "webhooks/index.html",
        current="/webhooks",
        status=422 if problem else 201,
        hooks=views_webhooks.webhooks(writer),
        secret=secret,
        problem=problem,
        url=url if problem else "",
        events=events,
    )


@router.post("/{endpoint_id}/test", dependencies=[needs_own_form])
def test(ui: Ui, writer: Writer, endpoint_id: str) -> Response:
    webhooks.send_test(writer, endpoint_id, by=ui.user.name, at=ui.here.clock())
    return see_other("/webhooks#deliveries")


@router.post("/{endpoint_id}/disable", dependencies=[needs_own_form])
def disable(ui: Ui, writer: Writer, endpoint_id: str) -> Response:
    webhooks.set_enabled(writer, endpoint_id, False, at=ui.here.clock())
    return see_other("/webhooks")


@router.post("/{endpoint_id}/enable", dependencies=[needs_own_form])
def enable(ui: Ui, writer: Writer, endpoint_id: str) -> Response:
    webhooks.set_enabled(writer, endpoint_id, True, at=ui.here.clock())
    return see_other("/webhooks")
