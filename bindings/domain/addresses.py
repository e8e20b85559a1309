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
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name localhost, is reachable from this host only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_public(address: str, networks: Sequence[_Network] = ()) -> bool:
    """Return whether an address is of the internet, or in one of the networks.

    An IPv6 address that leads to an IPv4 one (mapped, 6to4, NAT64) is judged by that.
    """
    parsed = _target(ipaddress.ip_address(address.partition("%")[0]))
    return (parsed.is_global and not parsed.is_multicast) or any(parsed in network for network in networks)


def _target(address: _Address) -> _Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    nat64 = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else None
    return address.ipv4_mapped or address.sixtofour or nat64 or address


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
