"""serve: the HTTP service and the console in the foreground."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from bindings.cli.options import RawValue
    from bindings.lifecycle.runtime import Runtime

DEFAULT_PORT = 8_000


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=options.WholeNumber(),
    default=DEFAULT_PORT,
    show_default=True,
    help="Port to listen on; 0: any free port.",
)
@click.option(
    "--no-scheduler", is_flag=True, help="Run no jobs in this process; run `bindings scheduler` elsewhere."
)
@click.option(
    "--local-admin",
    is_flag=True,
    help="For development: direct requests of this host need no key until one exists, and act as admin.",
)
@options.as_json
def serve(*, host: str, port: RawValue, no_scheduler: bool, local_admin: bool, as_json: bool) -> None:
    """Serve HTTP for backend applications, and the console, until SIGTERM or Ctrl-C.

    Requests in flight complete before the process exits. Callers need a key (`bindings keys create`). Until one
    exists, a link that can be used once is printed to sign in to the console on this host. The first page is the
    console, /docs is the documentation of the API, and /readyz tells load balancers whether this replica can
    serve. Needs the extra `server`.
    """
    from bindings.extras import require_extra
    from bindings.validation.requests import FieldErrors

    errors = FieldErrors()
    errors.check("port", options.port, port)
    errors.raise_if_any()
    with context.open_service(as_json=as_json, connect=True, until_signal=True) as service:
        with require_extra("server"):
            from bindings.web import server

        if service.settings.bootstrap_key_file is not None:
            _record_first_key(service.runtime, service.settings.bootstrap_key_file)

        def listening(url: str, sign_in_url: str | None) -> None:
            if as_json:
                output.emit({"url": url, "scheduler": not no_scheduler, "sign_in_url": sign_in_url})
            output.message(f"serve: console on {url}, docs on {url}/docs; SIGTERM or Ctrl-C ends it")
            if service.api_keys.any_exist():
                return
            output.message("serve: no API key exists; create one with `bindings keys create`")
            if sign_in_url is not None and not as_json:
                output.message(f"serve: until then sign in on this host, once, within 10 minutes: {sign_in_url}")
            if local_admin:
                output.message(
                    "serve: until then every program that can connect is admin (--local-admin): put no proxy and"
                    " no port forward in front"
                )

        server.serve(
            service,
            host=host,
            port=port,
            scheduler=not no_scheduler,
            local_admin=local_admin,
            listening=listening,
        )
    output.message("serve: stopped")


def _record_first_key(runtime: Runtime, path: str) -> None:
    from bindings.access import first_key

    record = first_key.record(runtime.database, first_key.read(path), runtime.caller)
    if record is not None:
        output.message(f"serve: {context.first_key_message(record)}")
