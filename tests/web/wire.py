"""Bytes to and from a running service, for what no HTTP client would send."""

from __future__ import annotations

import json
import re
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.web.conftest import Running

JSON = "Content-Type: application/json"


def connect(running: Running) -> socket.socket:
    host, port = running.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def speak(running: Running, sent: bytes) -> bytes:
    """Send bytes as they are and return what comes back until the server closes."""
    with connect(running) as connection:
        with suppress(ConnectionError):  # it may answer and close before it has read all
            connection.sendall(sent)
        return heard(connection)


def heard(connection: socket.socket) -> bytes:
    """What comes back until the server closes; a server that does not close is a time-out."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += part
    return received


def request(body: bytes, *headers: str, path: str = "/v1/bindings", method: str = "POST") -> bytes:
    """A request as it is given, with no header but these, Host, and Connection: close."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def posted(body: bytes, *headers: str, path: str = "/v1/bindings") -> bytes:
    """A request with a body of JSON, or of what is said to be JSON."""
    return request(body, JSON, f"Content-Length: {len(body)}", *headers, path=path)


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1.1 (\d{3})", answer)
    assert found, answer
    return int(found[1])


def problem(answer: bytes) -> dict[str, Any]:
    """The one problem that an answer is."""
    assert answer.count(b"HTTP/1.1 ") == 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/problem+json" in head.lower()
    found: dict[str, Any] = json.loads(body)
    assert found["status"] == status(answer)
    assert f"x-request-id: {found['request_id']}".encode() in head.lower()
    return found
