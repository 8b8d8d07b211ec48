"""The command line against the real application, without a network."""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from app import __main__ as skydeck
from app.cli import runs
from app.cli.client import ApiClient, CliError, connect
from app.cli.exit_codes import Exit
from app.db.tables import Run
from app.domain.states import Reason, RunState
from app.settings import Settings
from tests.factories.client import TestClient
from tests.factories.databases import Database

SPEC = """\
name: small
data: {train_file: /data/train.jsonl}
trainer: {model_path: /models/tiny, steps: 3}
"""


@pytest.fixture
def api(client: TestClient) -> ApiClient:
    token = client.headers["Authorization"].removeprefix("Bearer ")
    return ApiClient(str(client.base_url), token, transport=client._transport)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def parsed(*argv: str) -> Namespace:
    return skydeck.parser().parse_args(argv)


def launch(api: ApiClient, *argv: str) -> Exit:
    return runs.launch(parsed("launch", *argv), api, wait=lambda _: None)


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_launch_prints_the_run_and_the_same_key_launches_once(
    api: ApiClient, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = []
    for _ in range(2):
        assert launch(api, str(spec), "--json", "--idempotency-key", "k") is Exit.OK
        ids.append(printed(capsys)["id"])
    assert ids[0] == ids[1]
    assert runs.ps(parsed("ps", "--json"), api) is Exit.OK
    assert [run["id"] for run in printed(capsys)] == ids[:1]


def test_a_dry_run_shows_plan_and_scripts_and_launches_nothing(
    api: ApiClient, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(api, str(spec), "--dry-run", "--set", "trainer.steps=7") is Exit.OK
    assert "rollouts_per_step  32" in capsys.readouterr().out
    runs.ps(parsed("ps", "--json"), api)
    assert printed(capsys) == []


def test_an_impossible_plan_ends_a_dry_run_with_exit_code_2(
    api: ApiClient, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = launch(api, str(spec), "--dry-run", "--set", "trainer.prompts_per_step=640")
    assert code is Exit.INVALID
    assert "impossible: a step needs 5120 sandboxes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--set", "trainer.stepz=3"], Exit.INVALID, "did you mean steps?"),
        (["--preset", "huge"], Exit.INVALID, "there is no preset 'huge'"),
    ],
)
def test_a_wrong_launch_names_what_is_wrong(
    api: ApiClient, spec: Path, argv: Sequence[str], code: Exit, text: str
) -> None:
    with pytest.raises(CliError, match=text) as caught:
        launch(api, str(spec), *argv)
    assert caught.value.code is code


def test_a_launch_without_anything_to_launch_is_refused(api: ApiClient) -> None:
    with pytest.raises(CliError, match="give a spec file, or --runtime-only"):
        launch(api)


def test_a_runtime_alone_needs_no_spec_file(
    api: ApiClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(api, "--runtime-only", "--json") is Exit.OK
    assert printed(capsys)["kind"] == "runtime-only"


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        (RunState.SUCCEEDED, Reason.TRAINER_COMPLETED, Exit.OK),
        (RunState.FAILED, Reason.OUT_OF_MEMORY, Exit.RUN_FAILED),
        (RunState.CANCELLED, Reason.CANCELLED_BY_USER, Exit.RUN_CANCELLED),
    ],
)
def test_waiting_ends_with_the_runs_outcome(
    api: ApiClient,
    spec: Path,
    database: Database,
    state: RunState,
    reason: Reason,
    code: Exit,
    capsys: pytest.CaptureFixture[str],
) -> None:
    launch(api, str(spec), "--idempotency-key", "k")
    with database.sessions.begin() as session:
        run = session.query(Run).one()
        run.state, run.reason = state, reason
    assert launch(api, str(spec), "--idempotency-key", "k", "--wait") is code
    assert reason.value in capsys.readouterr().out


def test_cancel_says_what_is_wanted_now(
    api: ApiClient, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(api, str(spec), "--json")
    run_id = printed(capsys)["id"]
    assert runs.cancel(parsed("cancel", run_id), api) is Exit.OK
    assert "wanted: CANCELLED" in capsys.readouterr().out


def test_show_tells_the_four_truths_apart(
    api: ApiClient, spec: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch(api, str(spec), "--json")
    runs.show(parsed("show", printed(capsys)["id"]), api)
    shown = capsys.readouterr().out
    run = api.get("/runs")["items"][0]["id"]
    assert len(api.get(f"/runs/{run}")["truths"]) == 4
    for truth in api.get(f"/runs/{run}")["truths"].values():
        assert truth["label"] in shown


def test_an_unknown_run_ends_with_exit_code_4(api: ApiClient) -> None:
    with pytest.raises(CliError) as caught:
        runs.show(parsed("show", "nothere"), api)
    assert caught.value.code is Exit.NOT_FOUND


def test_a_wrong_token_ends_with_exit_code_5(client: TestClient) -> None:
    api = ApiClient(str(client.base_url), "wrong", transport=client._transport)
    with pytest.raises(CliError) as caught:
        api.get("/runs")
    assert caught.value.code is Exit.FORBIDDEN


def test_no_control_plane_ends_with_exit_code_3_and_the_mend(settings: Settings) -> None:
    with pytest.raises(CliError, match="start one with `skydeck up`") as caught:
        connect(settings, None, None)
    assert caught.value.code is Exit.UNREACHABLE
    with pytest.raises(CliError, match="no control plane answers") as caught:
        ApiClient("http://127.0.0.1:9", "t").get("/runs")
    assert caught.value.code is Exit.UNREACHABLE


def test_control_characters_of_agents_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from app.cli.output import show_table

    show_table([{"name": "\x1b]0;owned\x07run"}], ["name"])
    assert "\x1b" not in capsys.readouterr().out


def test_an_unknown_setting_is_an_error_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SKYDECK_TIK", "1")
    assert skydeck.main(["ps"]) == Exit.INVALID
    assert "SKYDECK_TIK" in capsys.readouterr().err
