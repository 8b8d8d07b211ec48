"""A control plane's internal API over real HTTP, for workers under test."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from workers.contract import env
from workers.contract.leases import LeaseAnswer, LeaseOut
from workers.contract.reports import Report, ReportBatch


@dataclass
class HttpControlPlane:
    """A control plane's internal API: takes everything, answers as the test says."""

    statuses: dict[str, int] = field(default_factory=dict)
    beat: dict[str, bool] = field(default_factory=dict)
    leases: tuple[LeaseOut, ...] = ()
    bodies: dict[str, list[bytes]] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, object]]:
        name = path.removeprefix("/api/internal/")
        with self.changed:
            self.bodies.setdefault(name, []).append(body)
            self.changed.notify_all()
        status = self.statuses.get(name, 200)
        if status != 200:
            return status, {"error": "x", "detail": "as the test says"}
        if name == "trainers/register":
            return 200, {"heartbeat_s": 0.1}
        if name == "leases":
            return 200, LeaseAnswer(leases=self.leases).model_dump(mode="json")
        return 200, dict(self.beat) if name == "trainers/heartbeat" else {"accepted": True}

    def wait_for(self, true: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(true, timeout=60)

    def reports(self) -> list[Report]:
        batches = [ReportBatch.model_validate_json(b) for b in self.bodies.get("reports", [])]
        return [report for batch in batches for report in batch.reports]


def _handler_of(plane: HttpControlPlane) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = plane.answer(self.path, body)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None: ...

    return Handler


@contextmanager
def serving(directory: Path) -> Iterator[HttpControlPlane]:
    """Serves, and writes the address and a trainer token where the jobs of ``directory`` look."""
    plane = HttpControlPlane()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(plane))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    (directory / env.CONTROL_PLANE_FILE).write_text(json.dumps({"url": url}))
    (directory / env.TOKEN_TRAINER).touch(mode=0o600)
    (directory / env.TOKEN_TRAINER).write_text("tok")
    try:
        yield plane
    finally:
        server.shutdown()
        server.server_close()
