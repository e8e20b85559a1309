"""The client's address, and whether its connection is encrypted, as far as trusted proxies report it.

The service speaks plain HTTP; TLS ends at a proxy. The forwarding headers of a request are believed only if the
connection itself comes from an address that `BINDINGS_TRUSTED_PROXIES` names: any client can write a header. In
a list of forwarders the last one that is not a trusted proxy counts.
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

    def __init__(self, networks: tuple[Network, ...]) -> None:
        self._networks = networks

    def over_tls(self, scope: Mapping[str, Any]) -> bool:
        """Return whether a trusted proxy reports that the client's connection is encrypted."""
        protocols = _header(scope, b"x-forwarded-proto")
        return self.trust(_peer(scope)) and protocols.rpartition(",")[2].strip().lower() == "https"

    def address(self, scope: Mapping[str, Any]) -> str:
        """Return the address that the request came from."""
        peer = _peer(scope)
        if not self.trust(peer):
            return peer
        hops = [hop.strip() for hop in _header(scope, b"x-forwarded-for").split(",") if hop.strip()]
        return next((hop for hop in reversed(hops) if not self.trust(hop)), peer)

    def trust(self, address: str) -> bool:
        """Return whether a connection from this address is one of the proxies."""
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else UNKNOWN


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    values = [value.decode("latin-1") for header, value in scope["headers"] if header == name]
    return ",".join(values)
