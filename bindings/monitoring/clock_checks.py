"""Checks of the clocks: this host's against the database's and the provider's; what was seen and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.clock import MAX_SKEW_S
from bindings.lifecycle.clock_monitor import WARN_SKEW_S
from bindings.monitoring.check import Check, Level
from bindings.provider import statuses
from bindings.provider.outcome import ProviderPage

if TYPE_CHECKING:
    from bindings.lifecycle.clock_monitor import ClockMonitor
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import Refused

_SET_CLOCK = "set the clock that is wrong (NTP)"


def of_replica(clocks: ClockMonitor) -> Check:
    """Return the check of the clocks that this process compares, as last read."""
    error = clocks.bind_error
    if error is None:
        return Check(name="clocks", level=Level.OK, seen="close enough, as last read")
    if clocks.database_error is not None:
        observed = f"{error}; binds wait and nothing ends by time until the clocks agree; unbinds are sent"
        return Check(name="clocks", level=Level.RED, seen=observed, todo=clocks.remedy)
    if clocks.probe_due:  # not red: a replica without traffic would never measure again
        observed = f"{error}; the next bind measures again"
        return Check(name="clocks", level=Level.WARN, seen=observed, todo=clocks.remedy)
    return Check(name="clocks", level=Level.RED, seen=f"{error}; binds wait", todo=clocks.remedy)


def of_database(skew_s: float) -> Check:
    """Return the check of the database's clock, which is `skew_s` seconds ahead of this host's."""
    name, observed = "database_clock", f"the database's clock is {skew_s:+z.1f} s from this host's"
    if abs(skew_s) > MAX_SKEW_S:
        todo = f"{_SET_CLOCK}: past {MAX_SKEW_S:.0f} s binds are refused"
        return Check(name=name, level=Level.RED, seen=observed, todo=todo)
    if abs(skew_s) > WARN_SKEW_S:
        return Check(name=name, level=Level.WARN, seen=observed, todo=_SET_CLOCK)
    return Check(name=name, level=Level.OK, seen=observed)


def of_provider(client: ProviderClient, page: ProviderPage | Refused) -> Check:
    """Return the check of the provider's clock by its response to a request for a page. Calls nothing."""
    name, skew_s = "provider_clock", client.clock.measured_skew_s
    accepted = "it accepts this host's timestamps" if isinstance(page, ProviderPage) else "see `account`"
    if client.clock.ignore_date:
        observed = f"its Date header is ignored (BINDINGS_IGNORE_PROVIDER_DATE); {accepted}"
        return Check(name=name, level=Level.OK, seen=observed)
    if skew_s is None:
        return Check(name=name, level=Level.OK, seen=f"no usable Date header; {accepted}")
    observed = f"its Date header is {skew_s:+z.1f} s from this host's clock"
    if abs(skew_s) <= WARN_SKEW_S:
        return Check(name=name, level=Level.OK, seen=observed)
    todo = "compare this host's clock with NTP; if it is right, set BINDINGS_IGNORE_PROVIDER_DATE=true"
    return Check(name=name, level=Level.WARN, seen=f"{observed}; {accepted}", todo=todo)


def of_refused_timestamp(client: ProviderClient, refused: Refused) -> Check:
    """Return the check of the provider's clock after it has refused this host's timestamp (-16)."""
    skew_s = client.clock.measured_skew_s
    apart = "" if skew_s is None else f"; its Date header is {skew_s:+z.0f} s from this host's clock"
    return Check(
        name="provider_clock",
        level=Level.RED,
        seen=f"status {refused.status}: {statuses.meaning(refused.status)}{apart}",
        todo="compare this host's clock with NTP; if it is right, the provider's is wrong: ask the provider",
    )
