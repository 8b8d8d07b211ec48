"""Requests of one rollout meet one server."""

import pytest

pytest.importorskip("ray", reason="needs the training environment (make test-training)")

from workers.training.integrations.verl.router import StickyRouter

SERVERS = {"b": "server-b", "a": "server-a", "c": "server-c"}


def test_a_request_id_always_meets_the_same_server() -> None:
    router = StickyRouter(SERVERS, {})
    again = StickyRouter(dict(reversed(SERVERS.items())), {})
    for number in range(50):
        name, server = router.acquire_server(f"r{number}")
        assert SERVERS[name] == server
        assert again.acquire_server(f"r{number}") == (name, server)


def test_requests_spread_over_all_servers() -> None:
    router = StickyRouter(SERVERS, {})
    met = [router.acquire_server(f"r{number}")[0] for number in range(300)]
    assert all(met.count(name) > 60 for name in SERVERS)


def test_what_verl_asks_of_a_router_is_answered() -> None:
    router = StickyRouter(SERVERS, {})
    assert router.require_acquire_fields() == []
    assert router.require_release_fields() == []
    router.release_server(server_id="a")
