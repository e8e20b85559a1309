"""Checks of what the provider allows the account: binds, unbinds, its list, its pools; one check for each call.

An account may be allowed one call and not another. Only a refusal of binds is red: without its list and its pools
the product works, later and with less to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never
from uuid import UUID

from bindings.domain.binding import Reason
from bindings.http_transport import NotSent, Unknown
from bindings.monitoring.check import Check, Level
from bindings.provider import statuses
from bindings.provider.circuit import describe
from bindings.provider.outcome import ProviderPage, ProviderPools, Refusal, Refused
from bindings.store import queries, reports

if TYPE_CHECKING:
    from datetime import datetime

    from bindings.provider.circuit import CircuitBreaker
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import PoolsOutcome
    from bindings.store.database import Database

ACCESS_CHECKS = ("account", "list", "pools")
CALLS_READ = 200
_CLOSED = "the circuit is closed in this process"
_UNBINDS = "until then phones stay held until their bindings end; `bindings recover` repeats the unbinds"
_LIST = "binds do not need the list; until it can be read no scan resolves a doubt or finds bindings of others"
_POOLS = "binds do not need the list of pools: only `bindings doctor` reads it"


def of_circuits(client: ProviderClient | None) -> tuple[Check, ...]:
    """Return the state of each call's circuit in this process. Calls nothing."""
    if client is None:
        observed, todo = "no account is set: queries only", "set BINDINGS_PROVIDER_API_KEY and _SECRET"
        return (Check(name="account", level=Level.WARN, seen=observed, todo=todo),)
    circuits = client.circuits
    return (
        _binds(circuits.bind),
        _of_circuit("unbinds", circuits.unbind.cause, _UNBINDS),
        _of_circuit("list", circuits.page.cause, _LIST),
    )


def bind_accepted_without_list(database: Database) -> datetime | None:
    """Return when the newest accepted bind was requested, if the list could not be read before it; else None.

    None as well if the account was refused to a later bind.
    """
    outcomes = database.read(queries.newest_outcomes, limit=CALLS_READ)
    accepted_at = next((outcome.requested_at for outcome in outcomes if outcome.response_s is not None), None)
    if accepted_at is None:
        return None
    later = (outcome for outcome in outcomes if outcome.requested_at >= accepted_at)
    if any(outcome.reason == Reason.ACCOUNT for outcome in later):
        return None
    before = database.read(reports.newest, before=(accepted_at, str(UUID(int=0))), limit=1, cases=False)
    return accepted_at if before and before[0].counts["incomplete"] else None


def of_account(page: ProviderPage | Refused, *, bind_accepted_at: datetime | None) -> Check:
    """Return whether the account is accepted, by an answer of the list.

    `bind_accepted_at`: a bind that the provider accepted although its list could not be read before; None if there
    was none.
    """
    if isinstance(page, ProviderPage):
        listed = "" if page.total is None else f": {page.total} binding(s)"
        return Check(name="account", level=Level.OK, seen=f"the provider answers with its list{listed}")
    if page.refusal is Refusal.ACCOUNT and bind_accepted_at is not None:
        observed = f"a bind of {bind_accepted_at:%Y-%m-%d %H:%M:%SZ} was accepted, although the list was refused"
        return Check(name="account", level=Level.OK, seen=observed)
    wrong_app = page.refusal is Refusal.REQUEST  # nothing else in this request is configured
    todo = "check BINDINGS_PROVIDER_APP_ID" if wrong_app else _todo(page)
    return Check(name="account", level=Level.RED, seen=describe(page), todo=todo)


def of_list(page: ProviderPage | Refused) -> Check:
    """Return whether the account may read the provider's list."""
    return _of_answer("list", page if isinstance(page, Refused) else None, _LIST)


def of_pools(outcome: PoolsOutcome) -> Check:
    """Return whether the account may read its pools."""
    match outcome:
        case ProviderPools():
            return _of_answer("pools", None, _POOLS)
        case Refused():
            return _of_answer("pools", outcome, _POOLS)
        case NotSent() | Unknown():
            return Check(name="pools", level=Level.WARN, seen=f"no clear answer: {outcome.reason}", todo=_POOLS)
        case _:
            assert_never(outcome)


def _binds(circuit: CircuitBreaker) -> Check:
    cause = circuit.cause
    if cause is None:
        return Check(name="account", level=Level.OK, seen=_CLOSED)
    if circuit.half_open:
        # Not red: a replica without traffic has no bind for the trial call, and would stay red.
        observed = f"binds met {describe(cause)}; the next bind tries again"
        return Check(name="account", level=Level.WARN, seen=observed, todo=_todo(cause))
    return Check(
        name="account", level=Level.RED, seen=f"binds wait: they met {describe(cause)}", todo=_todo(cause)
    )


def _of_circuit(name: str, cause: Refused | Unknown | None, consequence: str) -> Check:
    if cause is None:
        return Check(name=name, level=Level.OK, seen=_CLOSED)
    return _refused(name, cause, consequence)


def _of_answer(name: str, outcome: Refused | None, consequence: str) -> Check:
    if outcome is None:
        return Check(name=name, level=Level.OK, seen="not refused")
    return _refused(name, outcome, consequence)


def _refused(name: str, cause: Refused | Unknown, consequence: str) -> Check:
    observed = f"refused, {describe(cause)}"
    return Check(name=name, level=Level.WARN, seen=observed, todo=f"{_todo(cause)}; {consequence}")


def _todo(cause: Refused | Unknown) -> str | None:
    if isinstance(cause, Refused):
        return statuses.remedy(cause.status)
    if cause.is_rate_limited:
        return "make fewer calls at a time, or ask the provider for a higher rate limit"
    if cause.status == statuses.SUCCESS:
        return "ask the provider whether its API has changed: what it answers about a new binding cannot be read"
    if cause.status is not None:
        return "ask the provider what this status means, and whether it has created a binding"
    return (
        "check BINDINGS_PROVIDER_URL and BINDINGS_PROVIDER_PATH_PREFIX, and whether a firewall or gateway before"
        " the provider lets this host through"
    )
