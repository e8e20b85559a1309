"""Addresses: which are public or of this host only, and which URLs send in clear to other hosts. Pure."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
# The last four bytes of these are an IPv4 address: NAT64, and the IPv4-compatible addresses of RFC 4291.
_WITH_IPV4 = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96")))
# Not public, though `is_global` of some versions of Python says so: local NAT64 (RFC 8215), site-local, stateless
# translation (RFC 2765).
_INSIDE = tuple(map(ipaddress.IPv6Network, ("64:ff9b:1::/48", "fec0::/10", "::ffff:0:0:0/96")))
# Here AWS, Google, Azure and Oracle serve credentials to each machine, though these are not link-local addresses.
_CREDENTIAL_SERVICES = frozenset(
    map(ipaddress.ip_address, ("fd00:ec2::254", "fd20:ce::254", "168.63.129.16", "192.0.0.192"))
)


def parse(text: str) -> _Address:
    """Return an IP address; of one of IPv4 that is written as IPv6 (::ffff:192.0.2.1) that of IPv4.

    Raises `ValueError` for any other text.
    """
    address = ipaddress.ip_address(text)
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name localhost, is reachable from this host only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: str, networks: Sequence[_Network] = ()) -> bool:
    """Return whether an address is of the internet, or in one of the networks.

    An IPv6 address that leads to an IPv4 one (mapped, compatible, 6to4, NAT64) is judged by that. False for an
    address at which a cloud serves credentials, also if it is in a network.
    """
    parsed = _target(ipaddress.ip_address(address.partition("%")[0]))
    if parsed in _CREDENTIAL_SERVICES:
        return False
    is_inside = parsed.is_multicast or any(parsed in network for network in _INSIDE)
    return (parsed.is_global and not is_inside) or any(parsed in network for network in networks)


def _target(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if int(address) > 1 and any(address in network for network in _WITH_IPV4):  # `::` and `::1` are IPv6
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def literal_address(host: str) -> str | None:
    """Return the address that a host names without a lookup, or None; 127.1 and 2130706433 are such names too."""
    if host == "localhost" or host.endswith(".localhost"):
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def origin(url: str) -> str:
    """Return the scheme, host and port of a URL, without a path, which may be a secret."""
    return "{}://{}".format(*urlsplit(url)[:2])


def sends_in_clear(url: str) -> bool:
    """Return whether requests to a URL leave this host without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
