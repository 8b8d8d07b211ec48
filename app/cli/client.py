"""The command line's way to the API."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from app.cli.exit_codes import Exit
from app.settings import Settings
from workers.contract.env import AUTHORIZATION, CONTROL_PLANE_FILE

TOKEN_FILE = "token"  # noqa: S105 - a file name


class CliError(Exception):
    """Ends a command with a text on stderr and an exit code."""

    def __init__(self, text: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(text)
        self.code = code


_CODES = {401: Exit.FORBIDDEN, 403: Exit.FORBIDDEN, 404: Exit.NOT_FOUND, 422: Exit.INVALID}


class ApiClient:
    """Requests to one control plane; every failure becomes a CliError with a mend."""

    def __init__(self, url: str, token: str, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url
        headers = {AUTHORIZATION: f"Bearer {token}"}
        self._http = httpx.Client(
            base_url=url, headers=headers, timeout=30, transport=transport, trust_env=False
        )

    def get(self, path: str, **params: Any) -> Any:
        return self._call("GET", path, params={k: v for k, v in params.items() if v is not None})

    def post(
        self,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        **params: Any,
    ) -> Any:
        return self._call("POST", path, json=body, headers=headers, params=params)

    def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._http.request(method, f"/api/v1{path}", **options)
        except httpx.TransportError as error:
            raise CliError(
                f"no control plane answers at {self.url} ({error}); start one with `skydeck up`, "
                "or name another with --url",
                Exit.UNREACHABLE,
            ) from None
        if response.is_success:
            return response.json() if response.content else None
        raise CliError(_detail(response), _CODES.get(response.status_code, Exit.FAILED))


def connect(settings: Settings, url: str | None, token: str | None) -> ApiClient:
    """A client for ``url`` and ``token``, or for the control plane of the data folder."""
    return ApiClient(url or _url(settings), token or _token(settings))


def _url(settings: Settings) -> str:
    path = settings.home / CONTROL_PLANE_FILE
    try:
        return str(json.loads(path.read_text())["url"])
    except (OSError, ValueError, KeyError):
        raise CliError(
            f"no control plane is known ({path} is missing); start one with `skydeck up`, or give "
            "--url and --token",
            Exit.UNREACHABLE,
        ) from None


def _token(settings: Settings) -> str:
    path: Path = settings.home / TOKEN_FILE
    try:
        return path.read_text().strip()
    except OSError:
        raise CliError(
            f"no token: {path} cannot be read; give --token or set SKYDECK_TOKEN", Exit.FORBIDDEN
        ) from None


def _detail(response: httpx.Response) -> str:
    try:
        body = response.json()
        return f"{body['detail']}" if body.get("detail") else str(body["error"])
    except (ValueError, KeyError, AttributeError):
        return f"HTTP {response.status_code}: {response.text[:500]}"
