"""Whether everything that a bind needs is in order: one `Check` each, with what was seen and what to do.

Shared by `bindings doctor` and readiness. Every check is made even where others fail; what cannot be looked
at because of another one says so. Nothing here raises, changes a binding, or repeats a secret. The provider is
asked for one row of its list, which makes nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, assert_never

from bindings import settings
from bindings.errors import BindingsError, Busy
from bindings.http_transport import NotSent, Unknown
from bindings.lifecycle.admission import MAX_SKEW_S, WARN_SKEW_S
from bindings.provider import statuses
from bindings.provider.client import ProviderClient
from bindings.provider.outcome import ProviderPage, Refusal, Refused
from bindings.store import account, deliveries, job_runs, queries
from bindings.store.database import Database
from bindings.store.deliveries import DeliveryState
from bindings.store.schema import HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from bindings.provider.outcome import PageOutcome
    from bindings.service import BindingService
    from bindings.settings import Settings

SWEEP_IS_OLD_S = 60.0  # ... or ten intervals, where those are longer
DOUBTS_LOOKED_AT = 200
NOT_LOOKED_AT = "not looked at"
DELIVERIES_COUNTED = 10_000
NEEDED = ("provider_api_key", "provider_api_secret", "provider_app_id")


class Level(StrEnum):
    """How bad it is. `warn`: it works, but not for long or not in full; `red`: binds fail or go wrong."""

    OK = "ok"
    WARN = "warn"
    RED = "red"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at: `seen` is what was found, `todo` what to do about it, if anything."""

    name: str
    level: Level
    seen: str
    todo: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthMetrics:
    """Levels worth watching; seconds. Doubts count up to `DOUBTS_LOOKED_AT`, deliveries to `DELIVERIES_COUNTED`.

    `pool_use` is live use against what fits, of the fullest pool of which that is known; None where none is.
    """

    doubts: int
    oldest_doubt_s: float
    sweep_age_s: float | None
    sweep_lag_s: float
    circuit_open: bool
    provider_skew_s: float | None
    connections_in_use: int
    pool_use: float | None
    pools_low: int
    deliveries_pending: int
    deliveries_dead: int


def health_metrics(service: BindingService) -> HealthMetrics:
    """What to watch of a running service. A few index probes; safe to repeat."""
    database = service.database
    now = database.clock()
    doubts = database.read(queries.doubts, database.now, limit=DOUBTS_LOOKED_AT)
    swept = database.read(job_runs.last_finished, "expire")
    overdue = database.read(queries.longest_overdue, database.now)
    backlog = database.read(deliveries.backlog, limit=DELIVERIES_COUNTED)
    known = service.pools()
    client = service.provider

    def since(then: datetime | None) -> float:
        return 0.0 if then is None else max(0.0, (now - then).total_seconds())

    return HealthMetrics(
        doubts=len(doubts),
        oldest_doubt_s=since(doubts[0].requested_at) if doubts else 0.0,
        sweep_age_s=None if swept is None else since(swept),
        sweep_lag_s=since(overdue),
        circuit_open=client is not None and client.circuit.refusal is not None,
        provider_skew_s=None if client is None else client.skew_s,
        connections_in_use=database.connections_in_use(),
        pool_use=max((pool.live / pool.capacity for pool in known if pool.live and pool.capacity), default=None),
        pools_low=sum(pool.low_at is not None for pool in known),
        deliveries_pending=backlog[DeliveryState.PENDING],
        deliveries_dead=backlog[DeliveryState.DEAD],
    )


def readiness_checks(service: BindingService) -> tuple[Check, ...]:
    """Whether a running service should get traffic: ready where nothing is red. Calls no provider."""
    found = (_red_if_old(check) for check in database_checks(service.database, service.settings))
    return (*found, _circuit(service.provider), _clocks(service))


def _red_if_old(check: Check) -> Check:
    """For a person an old sweep is a warning; a replica behind it would offer a backlog of late events."""
    old = check.name == "sweep" and check.level is Level.WARN and check.seen != NOT_LOOKED_AT
    return replace(check, level=Level.RED) if old else check


def _clocks(service: BindingService) -> Check:
    with suppress(Busy):  # the database is away: another check says so
        service.compare_clocks()
    fault, todo = service.clock_fault, "set the clock that is wrong (NTP)"
    if fault is None:
        return Check(name="clocks", level=Level.OK, seen="as they were last read, close enough")
    if service.clock_trial_due:  # as with a refused account: who gets no traffic measures nothing
        return Check(name="clocks", level=Level.WARN, seen=f"{fault}; the next bind measures again", todo=todo)
    return Check(name="clocks", level=Level.RED, seen=fault, todo=todo)


def _circuit(client: ProviderClient | None) -> Check:
    if client is None:
        seen, todo = "no account is set: it only answers questions", "set BINDINGS_PROVIDER_API_KEY and _SECRET"
        return Check(name="account", level=Level.WARN, seen=seen, todo=todo)
    turned_away = client.circuit.refusal
    if turned_away is None:
        return Check(name="account", level=Level.OK, seen="not refused")
    seen = f"status {turned_away.status}: {statuses.meaning(turned_away.status)}"
    if client.circuit.half_open:
        # Who gets no traffic has no bind to try with: red for ever, however well the account is by now.
        seen = f"was {seen}; the next bind tries again"
        return Check(name="account", level=Level.WARN, seen=seen, todo=statuses.todo(turned_away.status))
    return Check(name="account", level=Level.RED, seen=seen, todo=statuses.todo(turned_away.status))


def run_diagnostics(environment: Mapping[str, str] | None = None) -> tuple[Check, ...]:
    """Check everything, from the settings of the environment on; connects, and closes what it opened."""
    config, of_settings = load(environment)
    if config is None:
        rest = (*DATABASE_CHECKS, *PROVIDER_CHECKS)
        return (of_settings, *(_skipped(name, because="settings") for name in rest))
    return (of_settings, *_opened_database(config), *_opened_provider(config))


def worst_level(checks: Sequence[Check]) -> Level:
    """The level of the worst check."""
    found = {check.level for check in checks}
    return next((level for level in (Level.RED, Level.WARN) if level in found), Level.OK)


def load(environment: Mapping[str, str] | None = None) -> tuple[Settings | None, Check]:
    """The settings, or None where a variable is wrong; the check names every one that is."""
    try:
        config = settings.load(environment)
    except settings.SettingsError as error:
        names = ", ".join(dict.fromkeys(variable for variable, _ in error.faults))
        return None, Check(name="settings", level=Level.RED, seen=str(error), todo=f"correct {names}")
    return config, Check(name="settings", level=Level.OK, seen="all of them can be used")


# The database.


def database_checks(database: Database, config: Settings) -> list[Check]:
    """Whether the database answers, fits this version and this account, and is being looked after."""
    reach = _run_check("database", lambda: _check_connection(database))
    if reach.level is Level.RED:
        return [reach, *(_skipped(name, because="database") for name in DATABASE_CHECKS[1:])]
    schema = _run_check("schema", lambda: _schema(database))
    clock = _run_check("database_clock", lambda: _database_clock(database))
    if schema.level is Level.RED:
        return [reach, schema, clock, *(_skipped(n, because="schema") for n in DATABASE_CHECKS[3:])]
    return [
        reach,
        schema,
        clock,
        _run_check("scope", lambda: _scope(database, config)),
        _run_check("restore", lambda: _restore(database)),
        _run_check("sweep", lambda: _sweep(database, config)),
        _run_check("doubts", lambda: _doubts(database)),
    ]


DATABASE_CHECKS = ("database", "schema", "database_clock", "scope", "restore", "sweep", "doubts")
PROVIDER_CHECKS = ("provider", "account", "provider_clock")


def _opened_database(config: Settings) -> list[Check]:
    try:
        database = Database(config.database_url.get_secret_value())
    except Exception as error:  # noqa: BLE001 -- a check reports, whatever happens
        lost = [_skipped(name, because="database") for name in DATABASE_CHECKS[1:]]
        return [_failed_check("database", error), *lost]
    try:
        return database_checks(database, config)
    finally:
        database.close()


def _check_connection(database: Database) -> Check:
    began = time.monotonic()
    database.clock()
    took_ms = (time.monotonic() - began) * 1_000
    name = "PostgreSQL" if database.postgres else "SQLite"
    return Check(name="database", level=Level.OK, seen=f"{name} answers in {took_ms:.0f} ms")


def _schema(database: Database) -> Check:
    found = database.revision()
    if found == HEAD:
        return Check(name="schema", level=Level.OK, seen=f"at {HEAD}, as this version needs")
    seen = f"at {found or 'nothing'}, this version needs {HEAD}"
    return Check(name="schema", level=Level.RED, seen=seen, todo="run `bindings db upgrade`")


def _database_clock(database: Database) -> Check:
    before = time.time()
    told = database.clock().timestamp()
    skew_s = told - (before + time.time()) / 2
    return _clock("database_clock", "the database's", skew_s)


def _scope(database: Database, config: Settings) -> Check:
    account.register_scope(database, config.scope)
    return Check(name="scope", level=Level.OK, seen=f"{config.scope}, as recorded in the database")


def _restore(database: Database) -> Check:
    owed_since = account.full_scan_required_since(database)
    if owed_since is None:
        return Check(name="restore", level=Level.OK, seen="no full scan is owed")
    seen = f"binds wait since {owed_since:%Y-%m-%d %H:%M:%SZ} for a full scan after a restore"
    return Check(name="restore", level=Level.RED, seen=seen, todo="run `bindings reconcile`")


def _sweep(database: Database, config: Settings) -> Check:
    last = database.read(job_runs.last_finished, "expire")
    todo = "run `bindings scheduler` (or `bindings expire` once): nothing marks what is over as expired"
    if last is None:
        return Check(name="sweep", level=Level.WARN, seen="no pass has ever finished", todo=todo)
    age_s = (database.clock() - last).total_seconds()
    seen = f"the last pass finished {duration(age_s)} ago"
    if age_s > max(SWEEP_IS_OLD_S, 10 * config.sweep_interval_s):
        return Check(name="sweep", level=Level.WARN, seen=seen, todo=todo)
    return Check(name="sweep", level=Level.OK, seen=seen)


def _doubts(database: Database) -> Check:
    found = database.read(queries.doubts, database.now, limit=DOUBTS_LOOKED_AT)
    if not found:
        return Check(name="doubts", level=Level.OK, seen="none open")
    age_s = (database.clock() - found[0].requested_at).total_seconds()
    more = " or more" if len(found) == DOUBTS_LOOKED_AT else ""
    seen = f"{len(found)}{more} open, the oldest from {duration(age_s)} ago"
    todo = "`bindings doubts` lists them, `bindings reconcile` resolves them"
    return Check(name="doubts", level=Level.WARN, seen=seen, todo=todo)


# The provider.


def provider_checks(client: ProviderClient, app_id: str) -> list[Check]:
    """Whether the provider is reached, accepts this account, and has a clock close to this host's."""
    try:
        page = client.page(app_id=app_id, current=1, size=1)
        if isinstance(page, Refused) and page.why is Refusal.CLOCK:
            refused_stamp = page
            page = client.page(app_id=app_id, current=1, size=1)  # stamped by the clock just learnt
            return [_provider(page), _account(page), _timestamp_rejected(client, refused_stamp)]
    except Exception as error:  # noqa: BLE001 -- a check reports, whatever happens
        lost = [_skipped(name, because="provider") for name in PROVIDER_CHECKS[1:]]
        return [_failed_check("provider", error), *lost]
    return [_provider(page), _account(page), _provider_clock(client)]


def _opened_provider(config: Settings) -> list[Check]:
    missing = [f"BINDINGS_{name.upper()}" for name in NEEDED if getattr(config, name) is None]
    key, secret, app_id = config.provider_api_key, config.provider_api_secret, config.provider_app_id
    if key is None or secret is None or app_id is None:
        seen = f"not asked: {', '.join(missing)} not set"
        todo = f"set {', '.join(missing)}, or try the simulator: bindings simulator"
        lost = [_skipped(name, because="provider") for name in PROVIDER_CHECKS[1:]]
        return [Check(name="provider", level=Level.WARN, seen=seen, todo=todo), *lost]
    client = ProviderClient(
        base_url=config.provider_url,
        api_key=key.get_secret_value(),
        api_secret=secret.get_secret_value(),
        timeout_s=config.provider_timeout_s,
        zone=config.provider_zone,
    )
    try:
        return provider_checks(client, app_id)
    finally:
        client.close()


def _provider(page: PageOutcome) -> Check:
    match page:
        case ProviderPage() | Refused():
            return Check(name="provider", level=Level.OK, seen="answers")
        case NotSent():
            todo = "check BINDINGS_PROVIDER_URL and the network (no proxy is used); no bind can be sent"
            return Check(name="provider", level=Level.RED, seen=f"not reached: {page.reason}", todo=todo)
        case Unknown():
            todo = "check BINDINGS_PROVIDER_URL; if it is right, the provider is in trouble and binds end in doubt"
            return Check(name="provider", level=Level.RED, seen=f"no clear answer: {page.reason}", todo=todo)
        case _:
            assert_never(page)


def _account(page: PageOutcome) -> Check:
    match page:
        case ProviderPage():
            return Check(name="account", level=Level.OK, seen=f"accepted; {page.total} binding(s) listed")
        case Refused():
            seen = f"status {page.status}: {statuses.meaning(page.status)}"
            of_app = page.why is Refusal.REQUEST  # there is little else in the request that could be wrong
            todo = "check BINDINGS_PROVIDER_APP_ID" if of_app else statuses.todo(page.status)
            return Check(name="account", level=Level.RED, seen=seen, todo=todo)
        case NotSent() | Unknown():
            return _skipped("account", because="provider")
        case _:
            assert_never(page)


def _provider_clock(client: ProviderClient) -> Check:
    if client.skew_s is None:
        return _skipped("provider_clock", because="provider")
    return _clock("provider_clock", "the provider's", client.skew_s)


def _timestamp_rejected(client: ProviderClient, refused: Refused) -> Check:
    apart = "" if client.skew_s is None else f", the clocks are {abs(client.skew_s):.0f} s apart"
    return Check(
        name="provider_clock",
        level=Level.RED,
        seen=f"status {refused.status}: {statuses.meaning(refused.status)}{apart}",
        todo="set this host's clock (NTP)",
    )


# What they share.


def _clock(name: str, whose: str, skew_s: float) -> Check:
    seen = f"{whose} clock is {skew_s:+z.1f} s from this host's"
    if abs(skew_s) > MAX_SKEW_S:
        todo = f"set the clock that is wrong (NTP): past {MAX_SKEW_S:.0f} s binds are refused"
        return Check(name=name, level=Level.RED, seen=seen, todo=todo)
    if abs(skew_s) > WARN_SKEW_S:
        return Check(name=name, level=Level.WARN, seen=seen, todo="set the clock that is wrong (NTP)")
    return Check(name=name, level=Level.OK, seen=seen)


def _run_check(name: str, probe: Callable[[], Check]) -> Check:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 -- a check reports, whatever happens
        return _failed_check(name, error)


def _failed_check(name: str, error: Exception) -> Check:
    """A check that could not be made; only texts of ours are repeated, others may carry a password."""
    match error:
        case BindingsError():
            seen = str(error)
        case ModuleNotFoundError(name=str(module)):
            seen = f"the module {module} is not installed"
        case _:
            seen = f"failed with {type(error).__name__}"
    return Check(name=name, level=Level.RED, seen=seen, todo=_TODO_BY_NAME.get(name))


_TODO_BY_NAME = {
    "database": "check BINDINGS_DATABASE_URL and that the database runs; PostgreSQL needs the extra `postgres`",
    "scope": "set BINDINGS_SCOPE to the name that the database was begun with",
}


def _skipped(name: str, *, because: str) -> Check:
    return Check(
        name=name, level=Level.WARN, seen=NOT_LOOKED_AT, todo=f"put `{because}` right first, then look again"
    )


def duration(seconds: float) -> str:
    """Seconds for people: 12 s, 5 min, 3 h, 2 d."""
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
