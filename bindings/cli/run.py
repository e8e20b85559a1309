"""scheduler, simulator and demo: commands that run in the foreground until they end or a signal ends them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from bindings.cli.options import RawValue
    from bindings.provider.simulator import Simulator
    from bindings.settings import Settings

SAMPLE_APP_ID = "4luaKsL2"  # the provider's documented sample; the simulator takes any


@click.command()
@options.as_json
def scheduler(*, as_json: bool) -> None:
    """Run the jobs on their schedules until SIGTERM or Ctrl-C, which end running jobs after a page or batch."""
    with context.open_service(as_json=as_json, connect=True, until_signal=True) as service:
        from bindings import scheduler as timers
        from bindings.monitoring import encryption_checks, otlp

        encryption_checks.log_warnings(service.runtime)
        with otlp.exporting(), context.stop_on_signal() as stop:
            output.message("scheduler: running; SIGTERM or Ctrl-C ends it")
            timers.run(service, stop)
    if as_json:
        output.emit({"stopped": True})
    output.message("scheduler: stopped")


@click.command()
@options.as_json
def demo(*, as_json: bool) -> None:
    """Demonstrate the main features on SQLite and a simulated provider. Needs no account."""
    from bindings.cli.demo import run

    run(sys.stderr if as_json else None)
    if as_json:
        output.emit({"finished": True})


@click.command()
@click.option("--port", type=options.WholeNumber(), default=0, help="Default: any free port.")
@click.option(
    "--fault",
    "faults",
    metavar="KIND=RATE",
    multiple=True,
    help="Fault and its rate, such as lost_reply=0.1. May be repeated. An unknown KIND prints the list of kinds.",
)
@click.option(
    "--policy", default="literal", metavar="literal|strict", help="Conflict policy of the simulated provider."
)
@options.as_json
def simulator(*, port: RawValue, faults: tuple[str, ...], policy: str, as_json: bool) -> None:
    """Run a local provider that behaves as documented, with faults on demand.

    Takes key, secret, path prefix, zone and timestamp tolerance from the BINDINGS_... variables if they are set;
    otherwise it uses the sample account of the provider's documentation. Stop it with SIGTERM or Ctrl-C.
    """
    from bindings.validation import requests as validation

    config = validation.settings()
    simulated = _simulator(config, port=port, faults=faults, policy=policy)
    with context.stop_on_signal() as stop, _start(simulated):
        _announce(simulated, config, as_json=as_json)
        stop.wait()


def _simulator(config: Settings, *, port: RawValue, faults: tuple[str, ...], policy: str) -> Simulator:
    from bindings.provider.simulator import API_KEY, API_SECRET, Simulator, parse_fault
    from bindings.validation import requests as validation

    errors = validation.FieldErrors()
    errors.check("port", options.port, port)
    errors.check("policy", _policy, policy)
    scripted = [errors.check("fault", parse_fault, text) for text in faults]
    errors.raise_if_any()
    key, secret = config.provider_api_key, config.provider_api_secret
    simulated = Simulator(
        port=port,
        path_prefix=config.provider_path_prefix,
        policy=policy,
        api_key=API_KEY if key is None else key.get_secret_value(),
        api_secret=API_SECRET if secret is None else secret.get_secret_value(),
        zone=config.provider_zone,
        timestamp_tolerance_s=config.timestamp_tolerance_s,
        first_bind_id=int(time.time() * 1_000),  # ids of an earlier run may be in the database
    )
    for fault in scripted:
        if fault is not None:
            simulated.script(fault)
    return simulated


def _policy(value: str) -> str:
    if value not in ("literal", "strict"):
        raise ValueError("must be literal or strict")
    return value


def _start(simulated: Simulator) -> Simulator:
    from bindings.errors import InvalidRequest

    try:
        return simulated.start()
    except OSError as error:
        raise InvalidRequest.of_field("port", f"must be free to listen on: {error.strerror}") from None


def _announce(simulated: Simulator, config: Settings, *, as_json: bool) -> None:
    """Print the address and the settings to export; a key or secret from the settings is not shown."""
    from bindings.provider.simulator import API_KEY, API_SECRET

    sample = {
        "BINDINGS_PROVIDER_API_KEY": API_KEY if config.provider_api_key is None else None,
        "BINDINGS_PROVIDER_API_SECRET": API_SECRET if config.provider_api_secret is None else None,
        "BINDINGS_PROVIDER_APP_ID": config.provider_app_id or SAMPLE_APP_ID,
    }
    environment = {"BINDINGS_PROVIDER_URL": simulated.url} | {
        name: value for name, value in sample.items() if value is not None
    }
    if as_json:
        output.emit(
            {
                "url": simulated.url,
                "api_key": sample["BINDINGS_PROVIDER_API_KEY"],
                "api_secret": sample["BINDINGS_PROVIDER_API_SECRET"],
                "app_id": sample["BINDINGS_PROVIDER_APP_ID"],
                "environment": environment,
            }
        )
        sys.stdout.flush()
    output.message(f"simulator: listening on {simulated.url}; SIGTERM or Ctrl-C ends it. To use it:")
    for name, value in environment.items():
        output.message(f"  export {name}={value}")
