"""Addresses: which of them other hosts can reach, and which URLs send in clear to them. Pure."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name localhost, is reachable from this host only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def origin(url: str) -> str:
    """Return the scheme, host and port of a URL, without a path, which may be a secret."""
    return "{}://{}".format(*urlsplit(url)[:2])


def sends_in_clear(url: str) -> bool:
    """Return whether requests to a URL leave this host without TLS."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not is_loopback(parts.hostname or "")
