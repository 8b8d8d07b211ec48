"""Structured logging, one JSON object a line, with tokens redacted."""

import json
import logging
import re
import sys
from typing import TextIO

# Bearer headers, webhook secrets, and our 43-character tokens where a key announces them.
_SECRETS = re.compile(
    r"(?i)(bearer\s+|whsec_|(?:token|secret|password|skydeck_token)[\"']?\s*[=:]\s*[\"']?)"
    r"[A-Za-z0-9_\-./+=]{8,}"
)
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def redact(text: str) -> str:
    return _SECRETS.sub(r"\1[redacted]", text)


class JsonFormatter(logging.Formatter):
    """``extra={"run": id}`` of a log call becomes a key of the line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "logger": record.name,
            "text": record.getMessage(),
        }
        line.update({key: value for key, value in vars(record).items() if key not in _USUAL})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return redact(json.dumps(line, default=str, ensure_ascii=False))


def configure(level: str = "INFO", stream: TextIO | None = None) -> None:
    """Send all logging of this process to ``stream`` (stderr); repeating it replaces the last."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # One line for each request or outgoing call would drown the rest.
    logging.getLogger("httpx").setLevel(logging.WARNING)
