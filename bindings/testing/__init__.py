"""Tests of applications that use bindings: a service, a simulated provider and a clock that only the test moves.

    from bindings.testing import open_environment

    with open_environment() as environment:
        environment.service.bind(...)
        environment.pass_time(3_600)

pytest finds the fixtures of `plugin` without further work. `environment` opens the parts, `manual_clock` is the
clock, `timer` runs the jobs as time passes, `databases` makes temporary databases, `ledger_checks` compares with
the provider's ledger, `webhook_receiver` and `http_service` are on real sockets. Importing this package loads none
of them: the names below are imported when they are first used. Nothing of the product imports it.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # type checkers take it as true; pytest imports this package at every start
if TYPE_CHECKING:
    from typing import Any

    from bindings.provider.simulator import Simulator
    from bindings.testing.databases import temporary_database
    from bindings.testing.environment import Environment, open_environment
    from bindings.testing.http_service import HttpService
    from bindings.testing.manual_clock import ManualClock
    from bindings.testing.timer import JobRun
    from bindings.testing.webhook_receiver import WebhookMessage, WebhookReceiver

__all__ = [
    "Environment",
    "HttpService",
    "JobRun",
    "ManualClock",
    "Simulator",
    "WebhookMessage",
    "WebhookReceiver",
    "open_environment",
    "temporary_database",
]

_MODULES = {
    "Environment": "testing.environment",
    "HttpService": "testing.http_service",
    "JobRun": "testing.timer",
    "ManualClock": "testing.manual_clock",
    "Simulator": "provider.simulator",
    "WebhookMessage": "testing.webhook_receiver",
    "WebhookReceiver": "testing.webhook_receiver",
    "open_environment": "testing.environment",
    "temporary_database": "testing.databases",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'bindings.testing' has no attribute {name!r}")
    return getattr(import_module(f"bindings.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
