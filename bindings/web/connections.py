"""Which connections stay open when there are many: no client may take them all.

At the limit of the process or of one client address, the connection that has been idle for the longest is closed
to make room. A new connection is refused only if none is idle. What one connection may send is in
`http_protocol`. For the event loop's thread only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bindings.web.proxies import TrustedProxies

MAX_CONNECTIONS = 2_000
MAX_CONNECTIONS_OF_ADDRESS = 500  # a trusted proxy has no limit of its own: it stands for many clients


class Connection(Protocol):
    """An open connection of a client."""

    def close_idle(self) -> None:
        """Close the connection, which waits for its client."""


class Connections:
    """The open connections of a process: at most `room` if that is less than `MAX_CONNECTIONS`.

    A connection is idle while it waits for its client: for a complete request, or until a response is read.
    """

    def __init__(self, proxies: TrustedProxies, room: int | None = None) -> None:
        self._proxies = proxies
        self._room = room
        self._open: dict[str, dict[Connection, None]] = {}
        self._idle: dict[Connection, str] = {}  # the longest idle first; with the address
        self._count = 0

    def add(self, connection: Connection, address: str) -> bool:
        """Add a new connection, and close an idle one if there are too many; return False if there is no room."""
        of_address = self._open.get(address, {})
        if len(of_address) >= MAX_CONNECTIONS_OF_ADDRESS and not self._proxies.trust(address):
            has_room = self._close_idle(address)
        else:
            most = MAX_CONNECTIONS if self._room is None else min(MAX_CONNECTIONS, self._room)
            has_room = self._count < most or self._close_idle(self._busiest_address()) or self._close_idle()
        if has_room:
            self._open.setdefault(address, {})[connection] = None
            self._idle[connection] = address
            self._count += 1
        return has_room

    def remove(self, connection: Connection, address: str) -> None:
        """Remove a closed connection. Safe to repeat."""
        self._idle.pop(connection, None)
        of_address = self._open.get(address, {})
        if connection in of_address:
            del of_address[connection]
            self._count -= 1
            if not of_address:
                del self._open[address]

    def set_busy(self, connection: Connection) -> None:
        """Note that the connection has a complete request."""
        self._idle.pop(connection, None)

    def set_idle(self, connection: Connection, address: str) -> None:
        """Note that the connection waits for its client."""
        if connection in self._open.get(address, {}):
            self._idle.pop(connection, None)
            self._idle[connection] = address

    def _busiest_address(self) -> str:
        return max(self._open, key=lambda address: len(self._open[address]))

    def _close_idle(self, address: str | None = None) -> bool:
        """Close the connection that has been idle for the longest; return False if none (of the address) is."""
        for connection, owner in self._idle.items():
            if address in (None, owner):
                self.remove(connection, owner)
                connection.close_idle()
                return True
        return False
