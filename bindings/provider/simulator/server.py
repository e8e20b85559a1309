"""The simulator's HTTP: its connections, the provider's calls, and the effect of injected faults on them.

Bindings are decided in `rules`, which call gets a fault in `faults`. Nagle's algorithm is off and a response is
sent in one write: otherwise each call takes 44 ms. Only the place of a programming error is logged, since every
body contains phones.
"""

from __future__ import annotations

import contextlib
import http.server
import logging
import os
import socket
import socketserver
import struct
import sys
import threading
import time
import traceback
from dataclasses import replace
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from bindings.provider import wire
from bindings.provider.simulator import control, replies
from bindings.provider.simulator.faults import Call, Fault, FaultKind
from bindings.provider.simulator.journal import RecordedRequest
from bindings.provider.simulator.replies import Reply

if TYPE_CHECKING:
    from bindings.provider.simulator.control import SimulatorState

CALLS = {
    wire.BIND_PATH: Call.BIND,
    wire.UNBIND_PATH: Call.UNBIND,
    wire.PAGE_PATH: Call.PAGE,
    wire.POOLS_PATH: Call.POOLS,
}
MAX_BODY_BYTES = 1 << 20
STOP_S = 1.0  # how long stop() waits for the threads of open connections

_log = logging.getLogger(__name__)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER without time to linger: RST instead of FIN


class _Stopped(Exception):
    """The simulator was stopped during a pause."""


class Listener(socketserver.TCPServer):
    """The listening socket, and a thread for each connection; `stop` ends all of them."""

    allow_reuse_address = True
    request_queue_size = 1_024

    def __init__(self, *, host: str, port: int, path_prefix: str, state: SimulatorState) -> None:
        self.state = state
        self.calls = {path_prefix + path: call for path, call in CALLS.items()}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        super().__init__((host, port), _Handler)
        self._accepting = threading.Thread(target=self._accept, name="simulator", daemon=True)

    @property
    def port(self) -> int:
        """Return the port that it listens on."""
        return int(self.server_address[1])

    def start(self) -> None:
        """Start accepting connections, in a thread."""
        self._accepting.start()

    def stop(self) -> None:
        """Close the port and every connection, and wait about a second at most for their threads."""
        self._stopping.set()
        self.shutdown()
        self._accepting.join()
        self.server_close()
        with self._lock:
            connections = dict(self._open)
            for connection in connections.values():
                _close(connection)
        deadline = time.monotonic() + STOP_S
        for thread in connections:
            thread.join(max(0.0, deadline - time.monotonic()))

    def pause(self, seconds: float) -> None:
        """Wait. Raises `_Stopped` if the simulator is stopped meanwhile."""
        if self._stopping.wait(seconds):
            raise _Stopped

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a new connection in its own thread."""
        thread = threading.Thread(
            target=self._serve, args=(request, client_address), name="simulator-connection", daemon=True
        )
        with self._lock:
            self._open[thread] = request
        thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log the place of a programming error, without any values."""
        kind, _, trace = sys.exc_info()
        name = "" if kind is None else kind.__name__
        _log.error("the simulator failed: %s\n%s", name, "".join(traceback.format_tb(trace)))

    def _accept(self) -> None:
        self.serve_forever(poll_interval=0.02)

    def _serve(self, request: Any, client_address: Any) -> None:
        try:
            self.finish_request(request, client_address)
        except (OSError, _Stopped):
            pass  # the connection was closed, by either side
        except Exception:  # noqa: BLE001 -- an error of one connection must not end the others
            self.handle_error(request, client_address)
        finally:
            # Under the lock, so that `stop` never closes a descriptor that was reused for another connection.
            with self._lock:
                self.shutdown_request(request)
                del self._open[threading.current_thread()]


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection: serves its requests until either side closes it."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def do_POST(self) -> None:
        """Serve a call of the provider or of the control plane, of any method."""
        body = self._body()
        if body is None:
            return
        if self.path.startswith(control.PREFIX):
            code, answer = control.answer(self.server.state, self.command, self.path, body)
            self._send(Reply(code=code, body=answer))
        else:
            self._provider(body)

    do_GET = do_POST  # noqa: N815 -- the name is the base class's
    do_DELETE = do_POST  # noqa: N815
    do_PUT = do_POST  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the name is the base class's
        """Log nothing: paths may contain phones."""

    def date_time_string(self, timestamp: float | None = None) -> str:
        """Return the simulator's own time, also for the responses that the base class writes."""
        return formatdate(self.server.state.rules.now() if timestamp is None else timestamp, usegmt=True)

    def _body(self) -> bytes | None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not (length.isascii() and length.isdigit()):
            self.send_error(HTTPStatus.LENGTH_REQUIRED)
        elif int(length) > MAX_BODY_BYTES:
            self.send_error(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        else:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                return body
        self.close_connection = True
        return None

    # A call of the provider.

    def _provider(self, body: bytes) -> None:
        state = self.server.state
        call = self.server.calls.get(self.path) if self.command == "POST" else None
        fault = None if call is None else state.faults.next_fault(call)
        request = self._received(call, fault, body)
        number = state.journal.add(request)
        if fault is not None and fault.kind is FaultKind.DELAY_BEFORE:
            self.server.pause(fault.pause_s)
        decided = None
        reply: Reply | None
        if call is None:
            reply = replies.NOT_FOUND
        elif fault is not None and not fault.kind.acts:
            reply = replies.reply_without_action(fault)
        else:
            answer = state.rules.answer(call, request.headers, body)
            decided = answer.status
            reply = replies.reply_after_action(fault, answer)
        answered = None if reply is None else reply.answered
        state.journal.update(number, replace(request, decided=decided, answered=answered))
        self._deliver(fault, reply)

    def _received(self, call: Call | None, fault: Fault | None, body: bytes) -> RecordedRequest:
        return RecordedRequest(
            at=self.server.state.rules.now(),
            method=self.command,
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body.decode(errors="replace"),
            call=call,
            fault=None if fault is None else fault.kind,
        )

    def _deliver(self, fault: Fault | None, reply: Reply | None) -> None:
        kind = None if fault is None else fault.kind
        pause_s = 0.0 if fault is None else fault.pause_s
        if reply is None:
            self._drop(reset=kind is not FaultKind.LOST_REPLY)
        elif kind is FaultKind.CUT_BODY:
            self._cut(reply)
        elif kind is FaultKind.DRIP_HEADERS:
            self._drip(self._head(reply) + reply.body, pause_s)
        elif kind is FaultKind.DRIP_BODY:
            self.connection.sendall(self._head(reply))
            self._drip(reply.body, pause_s)
        else:
            if kind is FaultKind.DELAY:
                self.server.pause(pause_s)
            self._send(reply)

    def _send(self, reply: Reply) -> None:
        self.connection.sendall(self._head(reply) + reply.body)

    def _cut(self, reply: Reply) -> None:
        self.close_connection = True
        self.connection.sendall(self._head(reply) + reply.body[: len(reply.body) // 2])

    def _drip(self, data: bytes, pause_s: float) -> None:
        for position in range(len(data)):
            self.server.pause(pause_s)
            self.connection.sendall(data[position : position + 1])

    def _head(self, reply: Reply) -> bytes:
        return reply.head(date=self.date_time_string(), close=self.close_connection)

    def _drop(self, *, reset: bool) -> None:
        """Close without sending; a reset bypasses Python's own closing, which would send a FIN first."""
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            os.close(self.connection.detach())


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the other side has closed it already
        connection.shutdown(socket.SHUT_RDWR)
