"""bindings: the lifecycle manager for privacy-number bindings.

    from bindings import BindingService

    with BindingService.from_env() as service:
        binding = service.bind(phone_a=..., phone_b=..., pool_number=..., expire_s=3600, mode="AXB")

Reading map, from the story to its parts: `service` (reserve, call, settle), `upkeep` (one pass of each kind),
`questions` (lookup, trace, search), `binding` (states and values), `conflict` (who refuses whom), `admission` (may
a bind start), `passes` (what time, a scan and retention do), `store` (all SQL), `provider` (all HTTP to the
provider, and its simulator), `scheduler` (when passes run), `health`, `cli`, `web` (the HTTP service and the
console). Importing this package loads none of them: the names below are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as every checker reads it; importing typing costs as long as starting Python
if TYPE_CHECKING:
    from typing import Any

    from bindings import errors
    from bindings.domain.binding import Binding, Event, Holder, Mode, Page, State, Trace
    from bindings.domain.phone import Phone
    from bindings.errors import BindingsError
    from bindings.scheduler import Scheduler
    from bindings.service import BindingService

__all__ = [
    "Binding",
    "BindingService",
    "BindingsError",
    "Event",
    "Holder",
    "Mode",
    "Page",
    "Phone",
    "Scheduler",
    "State",
    "Trace",
    "errors",
]

_HOMES = {
    "BindingService": "service",
    "BindingsError": "errors",
    "Phone": "phone",
    "Scheduler": "scheduler",
} | dict.fromkeys(("Binding", "Event", "Holder", "Mode", "Page", "State", "Trace"), "binding")


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("bindings.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'bindings' has no attribute {name!r}")
    return getattr(import_module(f"bindings.{_HOMES[name]}"), name)
