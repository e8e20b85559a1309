"""How the service runs: a socket, uvicorn, the scheduler beside it, and a clean end on SIGTERM.

On SIGTERM nothing new is let in, readiness turns red, who waits for events is answered, and what is in flight
comes to its end: a bind that was sent is settled. A second signal ends it at once; what was cut off is left to
`recover`, as after a crash.
"""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import signal
import socket
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import uvicorn

from bindings.errors import FieldError, InvalidRequest
from bindings.scheduler import Scheduler
from bindings.web import log_config
from bindings.web.app import application
from bindings.web.http_protocol import LimitedHttpProtocol
from bindings.web.state import AppState
from bindings.webhooks import sender

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from bindings.service import BindingService

DRAIN_S = 60  # a bind may take its send window, the call's limit and a failover of the database
KEEP_ALIVE_S = 75  # longer than a proxy's usual 60 s, so that the proxy closes first
BACKLOG = 1_024


class Server(uvicorn.Server):
    """uvicorn as this service needs it; it also tells the app_state when it is asked to stop."""

    def __init__(self, app_state: AppState) -> None:
        super().__init__(_configured(app_state))
        self._app_state = app_state

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until asked to stop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: begin to drain; a second one: end at once, as a process that is killed."""
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.drain()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while it serves, and leave them at that.

        uvicorn would raise them again at the end: the process would be gone before the scheduler's passes and
        the last binds are through.
        """
        with super().capture_signals():
            yield
            self._captured_signals.clear()

    def drain(self) -> None:
        """Turn readiness red and answer whoever waits for events. Callable from any thread."""
        asyncio.run_coroutine_threadsafe(self._app_state.notifier.stop(), self._loop)


def serve(
    service: BindingService,
    *,
    host: str,
    port: int,
    scheduler: bool,
    listening: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `listening` is told the address once it is open.

    Raises `InvalidRequest` where the address cannot be listened on, or where it is reachable from other hosts
    and no key was ever made: everybody would be let in as admin.
    """
    loopback = is_loopback(host)
    if not loopback and not service.keys.any_exist():
        message = "is reachable from other hosts: make a key first with `bindings keys create`, or use 127.0.0.1"
        raise InvalidRequest([FieldError("host", message)])
    opened = listen(host, port)
    log_config.configure()
    app_state = AppState(service, loopback=loopback)
    if scheduler:
        app_state.scheduler = Scheduler(service, [sender.job(service, count=app_state.metrics.record_deliveries)])
    with opened, app_state.scheduler or nullcontext():
        listening(address(opened))
        gc.collect()
        gc.freeze()  # what was imported stays: without this every full collection would go through all of it again
        Server(app_state).run(sockets=[opened])
    app_state.executors.close()


def _configured(app_state: AppState) -> uvicorn.Config:
    return uvicorn.Config(
        application(app_state),
        loop="uvloop",
        http=LimitedHttpProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=DRAIN_S,
    )


def is_loopback(host: str) -> bool:
    """Whether an address is reachable from this host only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; `InvalidRequest` where that cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "not an address of this host"
        raise InvalidRequest([FieldError("host", f"and port cannot be listened on: {reason}")]) from None


def address(opened: socket.socket) -> str:
    """Where it listens, as a URL."""
    name: Any = opened.getsockname()
    host = f"[{name[0]}]" if opened.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"
