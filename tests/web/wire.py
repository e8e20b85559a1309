"""Raw bytes to and from a running service, for requests that no HTTP client would send."""

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
    return socket.create_connection((host, int(port)), timeout=300)


def speak(running: Running, sent: bytes) -> bytes:
    """Send bytes unchanged and return the response until the server closes."""
    with connect(running) as connection:
        with suppress(ConnectionError):  # the server may answer and close before it has read everything
            connection.sendall(sent)
        return read_until_closed(connection)


def read_until_closed(connection: socket.socket) -> bytes:
    """Return what the server sends until it closes; a server that does not close causes a time-out."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += part
    return received


def request(body: bytes, *headers: str, path: str = "/v1/bindings", method: str = "POST") -> bytes:
    """Return a request with these headers, Host, and Connection: close."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def posted(body: bytes, *headers: str, path: str = "/v1/bindings") -> bytes:
    """Return a request whose media type is JSON, whether or not the body is."""
    return request(body, JSON, f"Content-Length: {len(body)}", *headers, path=path)


def status(answer: bytes) -> int:
    match = re.match(rb"HTTP/1.1 (\d{3})", answer)
    assert match, answer
    return int(match[1])


def problem(answer: bytes) -> dict[str, Any]:
    """Return the problem object of a response."""
    assert answer.count(b"HTTP/1.1 ") == 1
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\ncontent-type: application/problem+json" in head.lower()
    body_object: dict[str, Any] = json.loads(body)
    assert body_object["status"] == status(answer)
    assert f"x-request-id: {body_object['request_id']}".encode() in head.lower()
    return body_object
