"""The error answers that a route documents."""

from typing import Any

from app.api.schemas import ErrorOut

_TEXTS = {
    401: "No valid token",
    403: "This token may not do that",
    404: "There is no such thing",
    409: "Contradicts what was accepted before",
    410: "This attempt or generation is over: stop",
    422: "The request is not valid; the detail has one line per problem",
    503: "Not now: try again after Retry-After seconds",
}


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """401, 422 and 503 can come from every signed route; ``codes`` adds the others."""
    return {code: {"model": ErrorOut, "description": _TEXTS[code]} for code in _sorted(codes)}


def _sorted(codes: tuple[int, ...]) -> list[int]:
    return sorted({401, 403, 422, 503, *codes})
