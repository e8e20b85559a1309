"""bindings: the lifecycle manager for privacy-number bindings.

    from bindings import BindingService

    with BindingService.from_env() as service:
        binding = service.bind(phone_a=..., phone_b=..., pool_number=..., expire_s=3600, mode="AXB")

Where to start reading: `service` (the facade), `lifecycle` (one binding: reserve, call, settle; lookup, trace and
search), `jobs` (expiry, recovery, reconciliation, retention), `domain` (states, values, the conflict policy),
`validation`, `access` (API keys, sessions, the access log), `webhooks`, `monitoring`, `store` (all SQL),
`provider` (all HTTP to the provider, and its simulator), `scheduler` (when jobs run), `cli`, and `web` (the HTTP
service and the console). Importing this package loads none of them: the names below are imported when they are
first used.
"""

from __future__ import annotations

from importlib import import_module

from bindings import distribution

__version__ = "0.1.0"

distribution.refuse_clash(__path__[0])

TYPE_CHECKING = False  # type checkers take it as true; importing typing takes as long as starting Python
if TYPE_CHECKING:
    from typing import Any

    from bindings import errors
    from bindings.domain.binding import (
        Binding,
        Certainty,
        Event,
        EventKind,
        Holder,
        Mode,
        NearMiss,
        Page,
        State,
        Trace,
        TraceHolder,
    )
    from bindings.domain.phone import Phone
    from bindings.errors import BindingsError
    from bindings.scheduler import Scheduler
    from bindings.service import BindingService
    from bindings.store.deliveries import Delivery
    from bindings.store.pools import Pool
    from bindings.store.reports import Report
    from bindings.store.webhooks import Webhook

__all__ = [
    "Binding",
    "BindingService",
    "BindingsError",
    "Certainty",
    "Delivery",
    "Event",
    "EventKind",
    "Holder",
    "Mode",
    "NearMiss",
    "Page",
    "Phone",
    "Pool",
    "Report",
    "Scheduler",
    "State",
    "Trace",
    "TraceHolder",
    "Webhook",
    "errors",
]

_VALUES = (
    *("Binding", "Certainty", "Event", "EventKind", "Holder", "Mode"),
    *("NearMiss", "Page", "State", "Trace", "TraceHolder"),
)
_MODULES = {
    "BindingService": "service",
    "BindingsError": "errors",
    "Delivery": "store.deliveries",
    "Phone": "domain.phone",
    "Pool": "store.pools",
    "Report": "store.reports",
    "Scheduler": "scheduler",
    "Webhook": "store.webhooks",
} | dict.fromkeys(_VALUES, "domain.binding")


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("bindings.errors")
    if name not in _MODULES:
        raise AttributeError(f"module 'bindings' has no attribute {name!r}")
    return getattr(import_module(f"bindings.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
