"""What the process writes about itself holds no token."""

import io
import json
import logging

import pytest

from app import logs


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abcdefgh12345678",
        "secret=whsec_c2VjcmV0c2VjcmV0c2VjcmV0",
        '{"token": "abcdefgh12345678"}',
        "SKYDECK_TOKEN=abcdefgh12345678",
    ],
)
def test_tokens_are_redacted(text: str) -> None:
    shown = logs.redact(text)
    assert "[redacted]" in shown
    assert "abcdefgh12345678" not in shown
    assert "c2VjcmV0" not in shown


def test_a_line_is_one_json_object_with_the_extra_keys() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.Logger("skydeck.test")
    logger.addHandler(handler)
    logger.warning("two\nlines", extra={"run": "r1"})
    line = json.loads(stream.getvalue())
    assert (line["text"], line["run"], line["level"]) == ("two\nlines", "r1", "WARNING")
