"""The server process: a listening socket, uvicorn, the scheduler, and a graceful shutdown on SIGTERM.

On SIGTERM the connections that have arrived are accepted, within a second, and no more. Readiness turns red,
requests that wait for events are answered, jobs end after their current page or batch, and requests in flight run
to their end: a bind that was sent is settled. A second signal ends the process immediately; `recover` finishes the
calls that were interrupted, as after a crash. What the routes do does not belong here.
"""

from __future__ import annotations

import asyncio
import gc
import select
import signal
import socket
import threading
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import uvicorn

from bindings import end_signals, logs
from bindings.domain.addresses import is_loopback
from bindings.errors import BindingsError, InvalidRequest
from bindings.monitoring import encryption_checks, otlp
from bindings.scheduler import Scheduler
from bindings.web import log_config, open_files
from bindings.web.api.ops_routes import refresh_metrics
from bindings.web.app import application
from bindings.web.first_sign_in import FirstSignIn
from bindings.web.http_protocol import LimitedHttpProtocol
from bindings.web.state import AppState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from bindings.service import BindingService

DRAIN_S = 60  # a bind may take its send window, the call's limit and a failover of the database
KEEP_ALIVE_S = 75  # longer than a proxy's usual 60 s, so that the proxy closes first
BACKLOG = 1_024
GARBAGE_OBJECTS = 10_000  # new objects after which they are collected; by default 700, in every request
ARRIVED_S = 1.0  # under load something may always have arrived
ROUNDS_OF_ACCEPTING = 3  # of the event loop, until an accepted connection is one that waits for a request
REFRESH_TIMEOUT_S = 20.0  # of metrics that are exported


class Server(uvicorn.Server):
    """uvicorn with a graceful shutdown: it also wakes long-poll requests and turns readiness red.

    It relies on `capture_signals`, which is private to uvicorn (see `http_protocol`).
    """

    def __init__(self, app_state: AppState, on_started: Callable[[], None] | None = None) -> None:
        super().__init__(_config(app_state))
        self._app_state = app_state
        self._on_started = on_started

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal to stop."""
        self._loop = asyncio.get_running_loop()
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept requests, then call `on_started` in a thread: from there on a signal ends everything in order."""
        await super().startup(sockets)
        if self._on_started is not None and not self.should_exit:
            await asyncio.to_thread(self._on_started)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, after what has arrived: a client whose connection is closed unread sees a reset."""
        await self._read_arrived(sockets or [])
        await super().shutdown(sockets)

    async def _read_arrived(self, listeners: list[socket.socket]) -> None:
        """Let the event loop accept the connections of the backlog, and read the requests that were sent."""
        give_up_at = self._loop.time() + ARRIVED_S
        quiet_rounds = 0
        while quiet_rounds < ROUNDS_OF_ACCEPTING and self._loop.time() < give_up_at:
            poll = select.poll()
            for listener in listeners:
                poll.register(listener, select.POLLIN)
            for connection in cast("set[LimitedHttpProtocol]", self.server_state.connections):
                if connection.waits_for_request:
                    poll.register(connection.transport.get_extra_info("socket"), select.POLLIN)
            quiet_rounds = 0 if poll.poll(0) else quiet_rounds + 1
            await asyncio.sleep(0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain on the first signal; on the second one end the process immediately."""
        if self.should_exit:
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self.drain()
        super().handle_exit(sig, frame)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while it serves, and do not raise them again afterwards.

        uvicorn would raise them again at the end: the process would end before the scheduler's jobs and the last
        binds have finished. It does not handle SIGHUP.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with end_signals.handle(end_signals.of_running_commands(), self.handle_exit):
            yield

    def refresh_metrics(self) -> None:
        """Refresh the metrics from another thread, unless the server has stopped."""
        if self._app_state.metrics.needs_refresh() and self._loop.is_running():
            refresh = asyncio.run_coroutine_threadsafe(refresh_metrics(self._app_state), self._loop)
            with suppress(TimeoutError, BindingsError):  # what is exported then is as old as the last refresh
                refresh.result(REFRESH_TIMEOUT_S)

    def drain(self) -> None:
        """Turn readiness red, answer requests that wait for events, and let jobs end. Callable from any thread."""
        self._app_state.request_stop()
        asyncio.run_coroutine_threadsafe(self._app_state.notifier.stop(), self._loop)


def serve(
    service: BindingService,
    *,
    host: str,
    port: int,
    scheduler: bool,
    local_admin: bool,
    listening: Callable[[str, str | None], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    `listening` is called once requests are answered, with the URL of the service, and the link for the first
    sign-in: None if there is a key, or if other hosts could use the link.

    `local_admin`: direct requests of this host need no key as long as none exists. Raises `InvalidRequest` if the
    service cannot listen on the address, or if other hosts could become such an admin.
    """
    if local_admin and not is_loopback(host):
        message = "cannot be used on an address that other hosts can reach: create a key, or use 127.0.0.1"
        raise InvalidRequest.of_field("local_admin", message)
    if local_admin and service.settings.trusted_proxies:
        message = "cannot be used with BINDINGS_TRUSTED_PROXIES: every client of the proxy would be an admin"
        raise InvalidRequest.of_field("local_admin", message)
    listener = listen(host, port)
    open_files.raise_limit()
    log_config.configure(logs.SERVICE.from_environment())
    encryption_checks.log_warnings(service.runtime)
    is_first = not local_admin and is_loopback(host) and not service.settings.trusted_proxies
    first_sign_in = FirstSignIn() if is_first and not service.api_keys.any_exist() else None
    app_state = AppState(service, local_admin=local_admin, first_sign_in=first_sign_in)
    if scheduler:
        app_state.scheduler = Scheduler(service, on_deliveries=app_state.metrics.record_deliveries)
    with listener, otlp.exporting() as exports_metrics, ExitStack() as jobs:

        def start() -> None:
            if app_state.scheduler:
                jobs.enter_context(app_state.scheduler)
            if exports_metrics:
                app_state.metrics.export(server.refresh_metrics)
            url = address(listener)
            listening(url, None if first_sign_in is None else url + first_sign_in.path)

        gc.collect()
        gc.freeze()  # imported modules are permanent: without this every full collection would scan them again
        gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
        server = Server(app_state, start)
        server.run(sockets=[listener])
    app_state.executors.close()


def _config(app_state: AppState) -> uvicorn.Config:
    return uvicorn.Config(
        application(app_state),
        loop="uvloop",
        http=_protocol(app_state),
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


def _protocol(app_state: AppState) -> type[LimitedHttpProtocol]:
    """Return what uvicorn calls for each connection; its type says class, but it only calls it."""
    return cast("type[LimitedHttpProtocol]", partial(LimitedHttpProtocol, open_connections=app_state.connections))


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket; raises `InvalidRequest` if the address cannot be used."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        message = getattr(error, "strerror", None) or "not an address of this host"
        raise InvalidRequest.of_field("host", f"and port cannot be listened on: {message}") from None


def address(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    name: Any = listener.getsockname()
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"http://{host}:{name[1]}"
