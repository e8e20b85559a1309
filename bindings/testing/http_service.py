"""The HTTP service of `bindings serve` in this process, on a real local socket, without its scheduler."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bindings.extras import require_extra

with require_extra("server"):
    import structlog

    from bindings.web import server
    from bindings.web.state import AppState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.service import BindingService

START_S = 60.0


class HttpService:
    """A service that listens at `url`. Callers need a key: `headers` creates one."""

    def __init__(self, service: BindingService, url: str) -> None:
        self.url = url
        self._service = service

    def headers(self, role: str = "app", *, name: str | None = None) -> dict[str, str]:
        """Create a key with this role (`name` None: named after it) and return the headers of its requests."""
        created = self._service.api_keys.create(name=name or role, role=role)
        return {"Authorization": f"Bearer {created.key}"}


@contextmanager
def serve(service: BindingService) -> Iterator[HttpService]:
    """Serve on a free port of this machine until the end of the block."""
    with run_server(AppState(service, local_admin=False)) as (_, url):
        yield HttpService(service, url)


@contextmanager
def run_server(app_state: AppState) -> Iterator[tuple[server.Server, str]]:
    """Run a server in a thread until the end of the block; provide it and its URL."""
    if not structlog.is_configured():  # by default it prints to stdout
        structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())
    listener = server.listen("127.0.0.1", 0)
    has_started_or_ended = threading.Event()
    uvicorn = server.Server(app_state, has_started_or_ended.set)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            uvicorn.run(sockets=[listener])
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread of the caller
            failures.append(error)
        finally:
            has_started_or_ended.set()

    thread = threading.Thread(target=run, name="bindings-http", daemon=True)
    thread.start()
    try:
        if not has_started_or_ended.wait(START_S):
            raise TimeoutError("the HTTP service has not started within a minute")
        if uvicorn.started:
            yield uvicorn, server.address(listener)
        if thread.is_alive():
            uvicorn.drain()
    finally:
        uvicorn.should_exit = True
        thread.join()
        listener.close()
        app_state.executors.close()
    if failures or not uvicorn.started:
        raise RuntimeError("the HTTP service ended before the end of its block") from next(iter(failures), None)
