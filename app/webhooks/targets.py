"""Where a webhook may go: not to this machine, nor to the cluster behind it, unless allowed."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from app.errors import Invalid

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Sequence[str]]
"""Addresses of a host name; raises OSError when there are none."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class Target:
    """One address that was checked: connecting to it, and to nothing else, is allowed."""

    url: httpx.URL
    address: str

    @property
    def pinned(self) -> httpx.URL:
        """The URL with the address in the host's place, so that no second look-up can differ."""
        return self.url.copy_with(host=self.address)

    @property
    def host_header(self) -> str:
        return self.url.netloc.decode("ascii")


def resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def check_url(text: str) -> httpx.URL:
    """Raises Invalid for what can never be a target, without looking anything up."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise Invalid(f"{text[:200]!r} is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise Invalid("a webhook's URL begins with http:// or https:// and names a host")
    if url.userinfo:
        raise Invalid("a webhook's URL holds no user name or password: check the signature instead")
    return url


def choose(text: str, allow: Sequence[str], look_up: Resolve = resolve) -> Target:
    """The address to connect to. Raises Invalid if any address of the host is out of bounds.

    ``allow`` names hosts and networks that may be reached although they are private. One forbidden
    address among good ones refuses the host: the choice would otherwise be the attacker's.
    """
    url = check_url(text)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        addresses = list(look_up(url.host, port))
    except (OSError, UnicodeError) as error:
        raise Invalid(f"{url.host} cannot be looked up: {error}", code="webhook_dns") from None
    if not addresses:
        raise Invalid(f"{url.host} has no address", code="webhook_dns")
    for address in addresses:
        if url.host not in allow and not _is_allowed(ipaddress.ip_address(address), allow):
            raise Invalid(
                f"{url.host} is {address}, a loopback, private or reserved address: webhooks do "
                "not go there. To allow it, put the host or its network into "
                "SKYDECK_WEBHOOK_ALLOW",
                code="webhook_target",
            )
    return Target(url, addresses[0])


def _is_allowed(address: Address, allow: Sequence[str]) -> bool:
    return is_public(address) or any(address in network for network in _networks(allow))


def is_public(address: Address) -> bool:
    """A global unicast address; one that hides an IPv4 address is judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def _networks(
    allow: Sequence[str],
) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for entry in allow:
        try:
            networks.append(ipaddress.ip_network(entry, strict=False))
        except ValueError:
            continue  # a host name, compared as such
    return networks
