"""The sandbox client: which failure is which reason, and that no sandbox is forgotten."""

import asyncio

import httpx
import pytest

from tests.factories.stub_runtime import StubRuntime
from workers.contract.reports import CallCounts, InvalidReason
from workers.contract.sandbox_api import ExecRequest, SandboxCreate, SandboxErrorCode
from workers.training.core import audit
from workers.training.core.audit import CallLedger
from workers.training.core.errors import InfrastructureFailure
from workers.training.core.sandbox_client import ArchiveRefused, SandboxClient, open_sandbox

CREATE = SandboxCreate(client_key="k", image="i")
RUN = ExecRequest(command="ls")


@pytest.mark.parametrize(
    ("code", "reason", "retryable"),
    [
        (SandboxErrorCode.UNAUTHENTICATED, InvalidReason.FENCED, True),
        (SandboxErrorCode.LEASE_OVER, InvalidReason.FENCED, True),
        (SandboxErrorCode.NOT_FOUND, InvalidReason.SANDBOX_LOST, True),
        (SandboxErrorCode.NOT_READY, InvalidReason.SANDBOX_LOST, True),
        (SandboxErrorCode.NO_CAPACITY, InvalidReason.SANDBOX_LOST, True),
        (SandboxErrorCode.FAILED, InvalidReason.SANDBOX_LOST, True),
        (SandboxErrorCode.INVALID, InvalidReason.SANDBOX_LOST, False),
    ],
)
async def test_every_error_code_has_its_reason(
    code: SandboxErrorCode, reason: InvalidReason, retryable: bool
) -> None:
    runtime = StubRuntime()
    runtime.fail("create", code)
    with pytest.raises(InfrastructureFailure, match=code.value) as caught:
        await runtime.client().create(CREATE)
    assert (caught.value.reason, caught.value.retryable) == (reason, retryable)


def answering(response: httpx.Response) -> SandboxClient:
    return SandboxClient("http://x", "t", transport=httpx.MockTransport(lambda _: response))


async def test_a_missing_image_is_told_apart_and_the_wish_to_wait_is_kept() -> None:
    body = {"error": "sandbox_failed", "detail": "image: localhost/x is not here"}
    client = answering(httpx.Response(502, json=body, headers={"Retry-After": "5"}))
    with pytest.raises(InfrastructureFailure) as caught:
        await client.create(CREATE)
    assert caught.value.reason is InvalidReason.IMAGE_FAILED
    assert caught.value.retry_after_s == 5


@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(200, text="<html>another server</html>"),
        httpx.Response(200, json={"exit_code": "none"}),
        httpx.Response(500, text="Internal Server Error"),
        httpx.Response(502, json=["odd"]),
    ],
)
async def test_an_answer_that_is_not_of_the_contract_is_infrastructure(
    response: httpx.Response,
) -> None:
    with pytest.raises(InfrastructureFailure):
        await answering(response).exec("s", RUN)


async def test_a_command_is_never_sent_twice() -> None:
    runtime = StubRuntime()
    client = runtime.client()
    sandbox = await client.create(CREATE)
    runtime.fail("exec", httpx.ReadError("answer lost"))
    with pytest.raises(InfrastructureFailure, match="answer lost"):
        await client.exec(sandbox.sandbox_id, RUN)
    assert runtime.calls["exec"] == 1


async def test_what_may_be_repeated_is_tried_again_after_a_broken_connection() -> None:
    runtime = StubRuntime()
    client = runtime.client()
    for operation in ("create", "put", "delete"):
        runtime.fail(operation, httpx.ReadError("broken"))
    sandbox = await client.create(CREATE)
    await client.put_archive(sandbox.sandbox_id, "/x", b"\0" * 1024)
    await client.delete(sandbox.sandbox_id)
    assert [runtime.calls[o] for o in ("create", "put", "delete")] == [2, 2, 2]


async def test_an_archive_larger_than_wanted_or_unreadable_is_refused_by_name() -> None:
    with pytest.raises(ArchiveRefused):
        await answering(httpx.Response(200, content=b"x" * 100)).get_archive("s", "/x", 99)
    body = {"error": "invalid", "detail": "permission denied"}
    with pytest.raises(ArchiveRefused, match="permission"):
        await answering(httpx.Response(422, json=body)).get_archive("s", "/x", 99)


async def test_a_sandbox_is_given_back_when_its_user_fails() -> None:
    runtime = StubRuntime()
    with pytest.raises(ZeroDivisionError):
        async with open_sandbox(runtime.client(), CREATE):
            raise ZeroDivisionError
    assert runtime.sandboxes == {}


async def test_a_release_that_fails_does_not_hide_the_result() -> None:
    runtime = StubRuntime()
    runtime.fail("delete", SandboxErrorCode.FAILED)
    async with open_sandbox(runtime.client(), CREATE) as sandbox:
        assert sandbox.id == "sb1"


async def test_who_leaves_while_a_sandbox_is_made_leaves_none_behind() -> None:
    runtime = StubRuntime()
    gate, reached = asyncio.Event(), asyncio.Event()

    async def slow(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            reached.set()
            await gate.wait()
        return runtime.answer(request)

    client = SandboxClient("http://x", runtime.token, transport=httpx.MockTransport(slow))

    async def use() -> None:
        async with open_sandbox(client, CREATE):
            pass

    using = asyncio.create_task(use())
    await reached.wait()
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    gate.set()
    async with asyncio.timeout(5):
        while runtime.calls["delete"] == 0:
            await asyncio.sleep(0)
    assert runtime.sandboxes == {}


# --- audit ---------------------------------------------------------------------------------------


def test_commands_that_were_parsed_and_never_executed_are_an_audit_failure() -> None:
    ledger = CallLedger()
    ledger.parsed()
    with pytest.raises(InfrastructureFailure) as caught:
        audit.check(ledger.counts())
    assert caught.value.reason is InvalidReason.AUDIT_FAILED


@pytest.mark.parametrize("counts", [(0, 0), (1, 1), (3, 2)])
def test_books_that_balance_pass(counts: tuple[int, int]) -> None:
    audit.check(CallCounts(parsed=counts[0], executed=counts[1]))


def test_an_execution_without_a_call_cannot_be_entered() -> None:
    with pytest.raises(KeyError):
        CallLedger().executed(1)
    with pytest.raises(InfrastructureFailure):
        audit.check(CallCounts(parsed=1, executed=2))
