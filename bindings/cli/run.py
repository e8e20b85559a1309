"""What stays in the foreground: the scheduler, the provider simulator, and the demo's story."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from bindings.jobs.job import Job
    from bindings.provider.simulator import Simulator
    from bindings.service import BindingService
    from bindings.settings import Settings

SAMPLE_APP_ID = "4luaKsL2"  # the provider's documented sample; the simulator takes any


@click.command()
@options.as_json
def scheduler(*, as_json: bool) -> None:
    """Run the passes on their timers until SIGTERM or Ctrl-C; finishes what it has begun."""
    import logging

    with context.open_service(as_json=as_json) as service:
        from bindings import scheduler as timers

        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logging.getLogger("apscheduler").setLevel(logging.WARNING)  # it tells of every single run
        output.message("scheduler: running; SIGTERM or Ctrl-C ends it")
        timers.run(service, _deliveries(service))
    if as_json:
        output.emit({"stopped": True})
    output.message("scheduler: stopped")


def _deliveries(service: BindingService) -> list[Job]:
    """The job that sends to webhooks, if what signs is installed."""
    from importlib.util import find_spec

    if find_spec("standardwebhooks") is not None:
        from bindings.webhooks import sender

        return [sender.job(service)]
    if service.webhooks.list():
        output.message("scheduler: webhooks are not sent, for that install bindings[server]")
    return []


@click.command()
@options.as_json
def demo(*, as_json: bool) -> None:
    """Tell the whole story on SQLite and a simulated provider; needs no account."""
    from bindings.cli import demo as story

    story.run(sys.stderr if as_json else None)
    if as_json:
        output.emit({"finished": True})


@click.command()
@click.option("--port", type=options.WholeNumber(), default=0, help="Default: any free port.")
@click.option(
    "--fault",
    "faults",
    metavar="KIND=RATE",
    multiple=True,
    help="What goes wrong how often, such as lost_reply=0.1; may be repeated. A wrong KIND lists all.",
)
@click.option("--policy", default="literal", metavar="literal|strict", help="How conflicts are judged.")
@options.as_json
def simulator(*, as_json: bool, **asked: Any) -> None:
    """Run a local provider that behaves as documented, with faults on demand.

    Takes key, secret, zone and time-stamp tolerance from BINDINGS_... where they are set, else the documented
    sample account. Stop it with SIGTERM or Ctrl-C.
    """
    from bindings.validation import requests as validation

    config = validation.settings()
    simulated = _simulator(config, **asked)
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell's background job inherits that SIGINT is ignored
        signal.signal(number, _interrupt)
    with contextlib.suppress(KeyboardInterrupt), _listening(simulated):
        _announce(simulated, config, as_json=as_json)
        simulated.serve_forever()


def _simulator(config: Settings, *, port: Any, faults: tuple[str, ...], policy: str) -> Simulator:
    from bindings.errors import InvalidRequest
    from bindings.provider.simulator import API_KEY, API_SECRET, Simulator, parse_fault
    from bindings.validation.requests import FieldErrors

    checks = FieldErrors()
    checks.check("port", options.port, port)
    checks.check("policy", _policy, policy)
    scripted = [checks.check("fault", parse_fault, text) for text in faults]
    if checks.faults:
        raise InvalidRequest(checks.faults)
    key, secret = config.provider_api_key, config.provider_api_secret
    simulated = Simulator(
        port=port,
        policy=policy,
        api_key=API_KEY if key is None else key.get_secret_value(),
        api_secret=API_SECRET if secret is None else secret.get_secret_value(),
        zone=config.provider_zone,
        timestamp_tolerance_s=config.timestamp_tolerance_s,
        first_bind_id=int(time.time() * 1_000),  # a database may have seen an earlier run's ids
    )
    for fault in scripted:
        if fault is not None:
            simulated.script(fault)
    return simulated


def _policy(value: str) -> str:
    if value not in ("literal", "strict"):
        raise ValueError("must be literal or strict")
    return value


def _listening(simulated: Simulator) -> Simulator:
    from bindings.errors import FieldError, InvalidRequest

    try:
        return simulated.start()
    except OSError as error:
        raise InvalidRequest([FieldError("port", f"cannot be listened on: {error.strerror}")]) from None


def _announce(simulated: Simulator, config: Settings, *, as_json: bool) -> None:
    """Say how to reach it; a key that was set is known already and is not shown."""
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


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt
