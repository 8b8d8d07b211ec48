"""Signatures and targets, without any network."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from app.errors import Invalid
from app.webhooks import sign, targets

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
AT = datetime.fromtimestamp(1614265330, UTC)


def _looking_up(*addresses: str) -> targets.Resolve:
    def look_up(host: str, port: int) -> Sequence[str]:
        return addresses

    return look_up


def test_signature_is_the_one_of_the_published_example() -> None:
    headers = sign.headers(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", AT, b'{"test": 2432232314}')
    assert headers["webhook-timestamp"] == "1614265330"
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_old_message_and_foreign_secret_are_not_accepted() -> None:
    headers = sign.headers(SECRET, "msg_1", AT, b"{}")
    assert sign.verify(SECRET, headers, b"{}", now=AT)
    assert not sign.verify(SECRET, headers, b"{}", now=AT + timedelta(minutes=6))
    assert not sign.verify("whsec_AAAA", headers, b"{}", now=AT)
    assert not sign.verify(SECRET, {}, b"{}", now=AT)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
    ],
)
def test_addresses_inside_are_refused(address: str) -> None:
    with pytest.raises(Invalid, match="webhooks do not go there"):
        targets.choose("https://example.org/x", (), _looking_up(address))


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:8.8.8.8"])
def test_public_addresses_are_pinned(address: str) -> None:
    target = targets.choose("https://example.org:8443/x?y=1", (), _looking_up(address))
    assert target.pinned.host == address
    assert target.pinned.path == "/x"
    assert target.host_header == "example.org:8443"


def test_one_inner_address_among_public_ones_refuses_the_host() -> None:
    with pytest.raises(Invalid, match=r"10\.0\.0\.1"):
        targets.choose("https://example.org", (), _looking_up("8.8.8.8", "10.0.0.1"))


@pytest.mark.parametrize("allow", [("10.0.0.0/8",), ("hooks.cluster",), ("10.0.0.1",)])
def test_allowed_networks_and_hosts_may_be_reached(allow: tuple[str, ...]) -> None:
    target = targets.choose("http://hooks.cluster/x", allow, _looking_up("10.0.0.1"))
    assert target.address == "10.0.0.1"


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://example.org", "https://", "https://user:pw@example.org/", "x"],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(Invalid):
        targets.choose(url, (), _looking_up("8.8.8.8"))


def test_name_without_an_address_is_told_apart_because_it_may_come_back() -> None:
    def nothing(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    with pytest.raises(Invalid) as caught:
        targets.choose("https://nowhere.example", (), nothing)
    assert caught.value.code == "webhook_dns"
