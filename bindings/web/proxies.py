"""Where a request came from, and whether it came over TLS, as far as somebody that we trust says so.

The service speaks plain HTTP; TLS ends at a proxy. What a request's own headers say about that is believed only
where the connection itself comes from an address that `BINDINGS_TRUSTED_PROXIES` names: anybody can write a
header. Of a list of forwarders the last one counts that is no such proxy.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.settings import Network

UNKNOWN = "unknown"


class TrustedProxies:
    """The proxies in front of this service, by address or network."""

    def __init__(self, trusted: tuple[Network, ...]) -> None:
        self._trusted = trusted

    def over_tls(self, scope: Mapping[str, Any]) -> bool:
        """Whether the browser's connection was encrypted, for all that is known."""
        told = _header(scope, b"x-forwarded-proto")
        return self._is_trusted(_peer(scope)) and told.rpartition(",")[2].strip().lower() == "https"

    def address(self, scope: Mapping[str, Any]) -> str:
        """The address that a request came from."""
        peer = _peer(scope)
        if not self._is_trusted(peer):
            return peer
        hops = [hop.strip() for hop in _header(scope, b"x-forwarded-for").split(",") if hop.strip()]
        return next((hop for hop in reversed(hops) if not self._is_trusted(hop)), peer)

    def _is_trusted(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._trusted)


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else UNKNOWN


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    values = [value.decode("latin-1") for each, value in scope["headers"] if each == name]
    return ",".join(values)
