"""The environment is read once, and unknown variables are errors."""

from datetime import timedelta
from pathlib import Path

import pytest

from app.errors import Invalid
from app.settings import load_settings


def test_variables_and_overrides_make_settings() -> None:
    settings = load_settings(
        {"SKYDECK_TICK": "0.5", "SKYDECK_WEBHOOK_ALLOW": "127.0.0.1, hooks.local"}, port=0
    )
    assert settings.tick == timedelta(seconds=0.5)
    assert settings.webhook_allow == ("127.0.0.1", "hooks.local")
    assert settings.port == 0


def test_an_unknown_variable_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(Invalid, match=r"SKYDECK_TIK.*known: SKYDECK_DATA_DIR"):
        load_settings({"SKYDECK_TIK": "1"})


def test_a_duration_that_is_no_number_names_its_variable() -> None:
    with pytest.raises(Invalid, match="SKYDECK_TICK='soon' is not a number of seconds"):
        load_settings({"SKYDECK_TICK": "soon"})


def test_variables_of_the_workers_and_the_client_are_not_settings() -> None:
    assert load_settings({"SKYDECK_URL": "http://x", "SKYDECK_TOKEN": "t"}).port == 8480


def test_the_database_lies_in_the_data_folder_unless_told_otherwise(tmp_path: Path) -> None:
    settings = load_settings({"SKYDECK_DATA_DIR": str(tmp_path)})
    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/skydeck.db"
