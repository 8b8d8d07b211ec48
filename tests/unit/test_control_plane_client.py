"""The client of the internal API: what is tried again, what is told apart, where secrets lie."""

import errno
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from workers.contract.leases import LeaseRequest
from workers.contract.registration import TrainerHeartbeat
from workers.contract.reports import ReportBatch
from workers.control_plane import (
    AsyncControlPlane,
    Conflict,
    ControlPlane,
    ControlPlaneError,
    Rejected,
    Retry,
    Superseded,
    Unavailable,
    read_token,
)

BEAT = TrainerHeartbeat(run_id="r", attempt=1, generation=1, job_name="j", phase="training")
BATCH = ReportBatch(contract_version=1, run_id="r", attempt=1, source="s", sequence=1, reports=())
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    address, token = tmp_path / "control-plane.json", tmp_path / "token"
    address.write_text(json.dumps({"url": "http://one:1/"}))
    token.touch(mode=0o600)
    token.write_text("tok\n")
    return address, token


class Server:
    """Answers with the given statuses in turn, the last for ever."""

    def __init__(self, *answers: int | Exception, retry_after: str | None = None) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.headers = {"Retry-After": retry_after} if retry_after else {}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        body: object = {"error": "no_runtime", "detail": "why"}
        if answer == 200:
            body = {"stop": False, "drain": True} if "heartbeat" in str(request.url) else {}
        return httpx.Response(answer, json=body, headers=self.headers)


def client(
    files: tuple[Path, Path], server: Handler, waits: list[float], tries: int = 4
) -> ControlPlane:
    return ControlPlane(
        *files,
        retry=Retry(tries=tries, random=lambda: 1.0),
        wait=waits.append,
        transport=httpx.MockTransport(server),
    )


def test_a_call_carries_the_token_and_goes_to_the_internal_api(files: tuple[Path, Path]) -> None:
    server = Server(200)
    assert client(files, server, []).trainer_heartbeat(BEAT).drain
    request = server.requests[0]
    assert str(request.url) == "http://one:1/api/internal/trainers/heartbeat"
    assert request.headers["Authorization"] == "Bearer tok"


@pytest.mark.parametrize("trouble", [503, 500, 429, httpx.ConnectError("no")])
def test_trouble_is_tried_again_with_growing_waits(
    files: tuple[Path, Path], trouble: int | Exception
) -> None:
    waits: list[float] = []
    client(files, Server(trouble, trouble, 200), waits).trainer_heartbeat(BEAT)
    assert waits == [0.2, 0.4]


def test_the_wish_of_the_server_bounds_the_wait(files: tuple[Path, Path]) -> None:
    waits: list[float] = []
    with pytest.raises(Unavailable) as caught:
        client(files, Server(503, retry_after="3"), waits, tries=3).trainer_heartbeat(BEAT)
    assert waits == [3.0, 3.0]
    assert (caught.value.code, caught.value.retry_after_s) == ("no_runtime", 3.0)


@pytest.mark.parametrize(
    ("status", "error"),
    [(410, Superseded), (409, Conflict), (401, Rejected), (422, Rejected), (404, Rejected)],
)
def test_final_answers_are_told_apart_and_never_repeated(
    files: tuple[Path, Path], status: int, error: type[ControlPlaneError]
) -> None:
    server = Server(status)
    with pytest.raises(error, match="why"):
        client(files, server, []).trainer_heartbeat(BEAT)
    assert len(server.requests) == 1


def test_an_answer_that_does_not_fit_the_contract_is_rejected(files: tuple[Path, Path]) -> None:
    with pytest.raises(Rejected, match="contract"):
        client(files, Server(200), []).report(BATCH)


def test_a_restarted_control_plane_is_found_at_its_new_address(files: tuple[Path, Path]) -> None:
    seen: list[str] = []

    def server(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.host)
        if request.url.host == "one":
            files[0].write_text(json.dumps({"url": "http://two:2"}))
            raise httpx.ConnectError("gone")
        return httpx.Response(200, json={})

    client(files, server, []).trainer_heartbeat(BEAT)
    assert seen == ["one", "two"]


@pytest.mark.parametrize("text", [None, "", "{}", "[1]"])
def test_no_address_is_an_outage(files: tuple[Path, Path], text: str | None) -> None:
    files[0].unlink() if text is None else files[0].write_text(text)
    with pytest.raises(Unavailable, match="skydeck up"):
        client(files, Server(200), []).trainer_heartbeat(BEAT)


def test_a_token_that_others_may_read_is_refused(files: tuple[Path, Path]) -> None:
    files[1].chmod(0o640)
    with pytest.raises(Rejected, match="chmod 600"):
        read_token(files[1])


def test_a_token_file_on_a_file_system_in_trouble_is_an_outage_and_a_missing_one_is_not(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(_: Path) -> str:
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_text", stale)
        with pytest.raises(Unavailable, match="Stale"):
            read_token(files[1])
    files[1].unlink()
    with pytest.raises(Rejected, match="No such file"):
        read_token(files[1])


def test_no_error_shows_the_token(files: tuple[Path, Path]) -> None:
    with pytest.raises(Unavailable) as caught:
        client(files, Server(httpx.ConnectError("no")), []).trainer_heartbeat(BEAT)
    assert "tok" not in str(caught.value).replace("trainers", "")


async def test_the_async_client_keeps_the_same_promises(files: tuple[Path, Path]) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    server = Server(503, httpx.ReadTimeout("slow"), 410)
    control_plane = AsyncControlPlane(
        *files,
        retry=Retry(random=lambda: 0.5),
        sleep=sleep,
        transport=httpx.MockTransport(server),
    )
    with pytest.raises(Superseded):
        await control_plane.lease(LeaseRequest(run_id="r", attempt=1))
    assert waits == [0.1, 0.2]
    await control_plane.close()


def test_jitter_spreads_waits_below_the_ceiling() -> None:
    retry = Retry(first_s=1, ceiling_s=4, random=lambda: 0.999)
    assert [round(retry.delay(n)) for n in (1, 2, 3, 4, 9)] == [1, 2, 4, 4, 4]
    assert Retry(random=lambda: 0.0).delay(5) == 0.0
