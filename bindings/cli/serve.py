"""serve: the HTTP service and the console in the foreground."""

from __future__ import annotations

from typing import Any

import click

from bindings.cli import context, options, output

DEFAULT_PORT = 8_000


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=options.WholeNumber(), default=DEFAULT_PORT, show_default=True, help="0: any free.")
@click.option("--no-scheduler", is_flag=True, help="Run no passes here: `bindings scheduler` runs elsewhere.")
@options.as_json
def serve(*, host: str, port: Any, no_scheduler: bool, as_json: bool) -> None:
    """Serve HTTP for backend apps, and the console, until SIGTERM or Ctrl-C; finishes what it has begun.

    Without any key it listens on this host only, and lets its callers in as admin. The console is the first page,
    /docs shows what there is to call, /readyz whether it should get traffic. Needs the extra `server`.
    """
    checks = options.validation().Checks()
    checks.take("port", options.port, port)
    checks.raise_all()
    with context.open_service(as_json=as_json) as service:
        with context.require_extra("server"):
            from bindings.web import server

        def listening(url: str) -> None:
            if as_json:
                output.emit({"url": url, "scheduler": not no_scheduler})
            output.message(f"serve: console on {url}, docs on {url}/docs; SIGTERM or Ctrl-C ends it")

        server.serve(service, host=host, port=port, scheduler=not no_scheduler, listening=listening)
    output.message("serve: stopped")
