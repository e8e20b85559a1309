"""A server, or a pooler, that speaks PostgreSQL's protocol up to the end of the login and then answers nothing."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from tests.faults.proxy import GSS_REQUEST, KEY_DATA, SSL_REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGGED_IN = b"R" + struct.pack("!II", 8, 0)
READY = b"Z" + struct.pack("!I", 5) + b"I"


@contextmanager
def silent_server() -> Iterator[str]:
    """Provide the URL of such a server."""
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()
    try:
        yield f"postgresql://silent@127.0.0.1:{listener.getsockname()[1]}/silent"
    finally:
        listener.close()


def _accept(listener: socket.socket) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_log_in, args=(client,), daemon=True).start()


def _log_in(client: socket.socket) -> None:
    with suppress(OSError, struct.error), client, client.makefile("rb") as reader:
        request = None
        while request in (None, SSL_REQUEST, GSS_REQUEST):
            if request is not None:
                client.sendall(b"N")
            (length,) = struct.unpack("!I", reader.read(4))
            (request,) = struct.unpack("!I", reader.read(length - 4)[:4])
        client.sendall(LOGGED_IN + KEY_DATA + struct.pack("!II", 1, 1) + READY)
        while reader.read(1):
            pass
