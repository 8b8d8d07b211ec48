"""Whoever has this attempt's sandbox token may use the sandboxes. It cannot be switched off."""

import hmac
from pathlib import Path

from workers.runtime.errors import Unauthenticated

SCHEME = "Bearer "


def read_token(path: Path) -> str:
    token = path.read_text().strip()
    if len(token) < 16:
        raise ValueError(f"{path} holds no usable token: at least 16 characters are expected")
    return token


class TokenCheck:
    def __init__(self, token: str) -> None:
        self._expected = token.encode()

    def __call__(self, header: str | None) -> None:
        """Raises Unauthenticated. Takes the same time however much of the token is right."""
        if header is None or not header.startswith(SCHEME):
            raise Unauthenticated("send the sandbox token: Authorization: Bearer ...")
        given = header[len(SCHEME) :].strip().encode()
        if not hmac.compare_digest(given, self._expected):
            raise Unauthenticated("this is not the sandbox token of this attempt")
