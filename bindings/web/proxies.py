"""The client's address, and whether its connection is encrypted, as far as trusted proxies report it.

The service speaks plain HTTP; TLS ends at a proxy. The forwarding headers of a request are believed only if the
connection itself comes from an address that `BINDINGS_TRUSTED_PROXIES` names: any client can write a header. In
a list of forwarders the last one that is not a trusted proxy counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bindings.domain import addresses
from bindings.domain.addresses import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bindings.settings import Network

UNKNOWN = "unknown"
# Headers that proxies, load balancers and content delivery networks add, by how their names begin.
FORWARDING_HEADERS = (
    "akamai-",
    "cdn-",
    "cf-",
    "client-ip",
    "cloudfront-",
    "fastly-",
    "fly-",
    "forwarded",
    "proxy-",
    "remote-",
    "ssl-client-",
    "tailscale-",
    "true-client-",
    "via",
    "x-akamai-",
    "x-amz",
    "x-appengine-",
    "x-arr-",
    "x-azure-",
    "x-client-",
    "x-cloud-trace-",
    "x-cluster-",
    "x-envoy-",
    "x-forward",
    "x-google-",
    "x-haproxy-",
    "x-host",
    "x-nf-",
    "x-ngrok-",
    "x-nginx-",
    "x-original-",
    "x-proxy",
    "x-real-",
    "x-remote-",
    "x-request-start",
    "x-scheme",
    "x-ssl-",
    "x-traefik-",
    "x-varnish",
    "x-vercel-",
)


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

    def trust_peer(self, scope: Mapping[str, Any]) -> bool:
        """Return whether the connection of a request comes from one of the proxies."""
        return self.trust(_peer(scope))

    def trust(self, address: str) -> bool:
        """Return whether a connection from this address is one of the proxies."""
        try:
            parsed = addresses.parse(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)


def is_direct(scope: Mapping[str, Any], headers: Mapping[str, str]) -> bool:
    """Return whether a request comes directly from a program of this host, as far as a request can tell.

    Not from a proxy (nginx speaks HTTP/1.0 by default), and not from a page of another site, which may resolve its
    own name to this address or send a form to it. A forwarded TCP connection looks like a direct one.
    """
    host = headers.get("host", "")
    origin = headers.get("origin")
    return (
        is_loopback(_peer(scope))
        and is_loopback(_host_name(host))
        and scope["http_version"] == "1.1"
        and (origin is None or origin.partition("://")[2] == host)
        and headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        and not any(name.lower().startswith(FORWARDING_HEADERS) for name in headers)
    )


def _host_name(host: str) -> str:
    """Return the name or address in a Host header, without the port."""
    name, bracket, _ = host.removeprefix("[").partition("]")
    return name if bracket else host.partition(":")[0].lower()


def _peer(scope: Mapping[str, Any]) -> str:
    client = scope.get("client")
    return str(client[0]) if client else UNKNOWN


def _header(scope: Mapping[str, Any], name: bytes) -> str:
    values = [value.decode("latin-1") for header, value in scope["headers"] if header == name]
    return ",".join(values)
