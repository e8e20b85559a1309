"""Checks of what leaves this host without TLS: calls of the provider, and events to webhooks."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

from bindings.domain.addresses import sends_in_clear
from bindings.domain.serialization import duration
from bindings.errors import BindingsError
from bindings.monitoring.check import Check, Level
from bindings.store import webhooks

if TYPE_CHECKING:
    from bindings.lifecycle.runtime import Runtime
    from bindings.settings import Settings
    from bindings.store.read_once import Reads

_log = logging.getLogger(__name__)


def of_provider(config: Settings) -> Check:
    """Return whether calls of the provider are encrypted."""
    name = "provider_encryption"
    if not sends_in_clear(config.provider_url):
        return Check(name=name, level=Level.OK, seen="calls are encrypted, or stay on this host")
    observed = (
        "BINDINGS_PROVIDER_URL is http: to another host, so phones and the API key are sent in clear, with a"
        " signature that the provider accepts for other calls too, for"
        f" {duration(config.timestamp_tolerance_s)} (BINDINGS_TIMESTAMP_TOLERANCE_S)"
    )
    return Check(name=name, level=Level.WARN, seen=observed, todo="use an https: address")


def of_webhooks(database: Reads) -> Check:
    """Return whether the enabled webhooks get their events encrypted."""
    name = "webhook_encryption"
    enabled = [webhook for webhook in database.read(webhooks.list_all) if webhook.disabled_at is None]
    in_clear = [webhook.id for webhook in enabled if sends_in_clear(webhook.url)]
    if not in_clear:
        return Check(name=name, level=Level.OK, seen="events are sent encrypted, or stay on this host")
    observed = f"webhooks with an http: address of another host get their events in clear: {', '.join(in_clear)}"
    todo = "add them with an https: address, and remove these: `bindings webhooks`"
    return Check(name=name, level=Level.WARN, seen=observed, todo=todo)


def log_warnings(runtime: Runtime) -> None:
    """Log a warning for each of these checks that is not green; for the start of a process. Safe to repeat."""
    checks = [of_provider(runtime.settings)]
    with suppress(BindingsError):  # the jobs and readiness report a database that does not answer
        checks.append(of_webhooks(runtime.database))
    for check in checks:
        if check.level is not Level.OK:
            _log.warning("%s; %s", check.seen, check.todo)
