"""The native API over HTTP, on the fake engine."""

import base64
import io
import json
import tarfile
from pathlib import Path

import pytest
from runtime_world import IMAGE, TOKEN, World, runtime_world

ROUTES = (
    ("POST", "/v1/sandboxes"),
    ("GET", "/v1/sandboxes"),
    ("GET", "/v1/sandboxes/x"),
    ("POST", "/v1/sandboxes/x/exec"),
    ("PUT", "/v1/sandboxes/x/archive?path=/"),
    ("GET", "/v1/sandboxes/x/archive?path=/"),
    ("DELETE", "/v1/sandboxes/x"),
)


async def made(world: World, key: str = "k") -> str:
    async with world.client() as client:
        answer = await client.post("/v1/sandboxes", json={"client_key": key, "image": IMAGE})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["sandbox_id"])


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("token", [None, "", "x" * 32, TOKEN[:-1], TOKEN + "t"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_every_route_but_health_needs_the_token(
    tmp_path: Path, method: str, path: str, token: str | None
) -> None:
    async with runtime_world(tmp_path) as world, world.client(token) as client:
        answer = await client.request(method, path)
        assert answer.status_code == 401
        assert answer.json()["error"] == "unauthenticated"


async def test_health_needs_no_token_and_tells_none(tmp_path: Path) -> None:
    async with runtime_world(tmp_path, slots=3) as world:
        await made(world)
        async with world.client(None) as client:
            answer = await client.get("/health")
        assert answer.status_code == 200
        assert (answer.json()["slots"], answer.json()["slots_used"]) == (3, 1)
        assert answer.json()["ready"]
        assert TOKEN not in answer.text


async def test_a_command_s_result_comes_back_whole(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        sandbox = await made(world)
        body = {
            "command": "cat; echo $A >&2; exit 4",
            "env": {"A": "b"},
            "stdin_b64": base64.b64encode(b"\x00\xff").decode(),
        }
        answer = await client.post(f"/v1/sandboxes/{sandbox}/exec", json=body)
        result = answer.json()
        assert base64.b64decode(result["stdout_b64"]) == b"\x00\xff"
        assert base64.b64decode(result["stderr_b64"]) == b"b\n"
        assert (result["exit_code"], result["timed_out"]) == (4, False)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"command": "true", "argv": ["true"]},
        {"argv": []},
        {"argv": ["a\0b"]},
        {"command": "true", "env": {"A=B": "c"}},
        {"command": "true", "stdin_b64": "%%%"},
        {"command": "true", "timeout_s": 0},
        {"command": "true", "no_such_key": 1},
    ],
)
async def test_a_wrong_command_is_refused_with_a_reason(
    tmp_path: Path, body: dict[str, object]
) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        sandbox = await made(world)
        answer = await client.post(f"/v1/sandboxes/{sandbox}/exec", json=body)
        assert answer.status_code == 422
        assert answer.json()["error"] == "invalid"
        assert answer.json()["detail"]


async def test_creating_twice_with_one_key_gives_one_sandbox(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        assert await made(world, "same") == await made(world, "same")
        assert len((await client.get("/v1/sandboxes")).json()["sandboxes"]) == 1


async def test_delete_may_be_repeated_and_commands_afterwards_are_not_ready(
    tmp_path: Path,
) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        sandbox = await made(world)
        for _ in range(2):
            assert (await client.delete(f"/v1/sandboxes/{sandbox}")).status_code == 204
        assert (await client.delete("/v1/sandboxes/never-was")).status_code == 204
        answer = await client.post(f"/v1/sandboxes/{sandbox}/exec", json={"command": "true"})
        assert answer.status_code == 409
        assert "released" in answer.json()["detail"]
        assert (await client.get(f"/v1/sandboxes/{sandbox}")).json()["state"] == "GONE"
        answer = await client.get("/v1/sandboxes/never-was")
        assert (answer.status_code, answer.json()["error"]) == (404, "sandbox_not_found")


async def test_archives_go_in_and_come_out(tmp_path: Path) -> None:
    target = tmp_path / "in" / "sandbox"
    async with runtime_world(tmp_path) as world, world.client() as client:
        path = f"/v1/sandboxes/{await made(world)}/archive"
        content = tar_of({"a/b.py": b"x = 1\n", "c.bin": bytes(range(256))})
        answer = await client.put(path, params={"path": str(target)}, content=content)
        assert answer.status_code == 204, answer.text
        assert (target / "a/b.py").read_text() == "x = 1\n"
        folder = await client.get(path, params={"path": str(target)})
        assert folder.headers["content-type"] == "application/x-tar"
        with tarfile.open(fileobj=io.BytesIO(folder.content)) as tar:
            names = tar.getnames()
        assert set(names) == {".", "./a", "./a/b.py", "./c.bin"}
        file = await client.get(path, params={"path": str(target / "c.bin")})
        with tarfile.open(fileobj=io.BytesIO(file.content)) as tar:
            entry = tar.extractfile("c.bin")
            assert entry is not None
            assert entry.read() == bytes(range(256))


@pytest.mark.parametrize("path", ["relative", "/a/../b", "..", "/.."])
async def test_a_path_that_hides_where_it_leads_is_refused(tmp_path: Path, path: str) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        url = f"/v1/sandboxes/{await made(world)}/archive"
        for answer in (
            await client.get(url, params={"path": path}),
            await client.put(url, params={"path": path}, content=tar_of({})),
        ):
            assert (answer.status_code, answer.json()["error"]) == (422, "invalid")


async def test_what_is_no_archive_and_what_is_not_there_is_said_so(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        url = f"/v1/sandboxes/{await made(world)}/archive"
        answer = await client.put(url, params={"path": str(tmp_path)}, content=b"not a tar" * 99)
        assert answer.status_code == 422
        answer = await client.get(url, params={"path": "/no/such/file"})
        assert answer.status_code == 422
        assert "does not exist" in answer.json()["detail"]


async def test_a_failed_start_is_infrastructure_with_its_kind_in_front(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        answer = await client.post(
            "/v1/sandboxes", json={"client_key": "k", "image": "localhost/none:1"}
        )
        assert (answer.status_code, answer.json()["error"]) == (502, "sandbox_failed")
        assert answer.json()["detail"].startswith("image: ")


async def test_a_full_runtime_answers_with_retry_after(tmp_path: Path) -> None:
    async with runtime_world(tmp_path, slots=1) as world, world.client() as client:
        await made(world)
        body = {"client_key": "k2", "image": IMAGE, "wait_s": 0.05}
        answer = await client.post("/v1/sandboxes", json=body)
        assert (answer.status_code, answer.json()["error"]) == (503, "no_capacity")
        assert int(answer.headers["Retry-After"]) > 0


async def test_a_draining_runtime_sends_clients_away(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world, world.client() as client:
        world.sandboxes.close_door()
        answer = await client.post("/v1/sandboxes", json={"client_key": "k", "image": IMAGE})
        assert (answer.status_code, answer.json()["error"]) == (410, "lease_over")
        assert not (await client.get("/health")).json()["ready"]


async def test_errors_never_repeat_the_given_token(tmp_path: Path) -> None:
    async with runtime_world(tmp_path) as world, world.client("s3cr3t" * 5) as client:
        answer = await client.get("/v1/sandboxes")
        assert "s3cr3t" not in json.dumps(dict(answer.headers)) + answer.text
