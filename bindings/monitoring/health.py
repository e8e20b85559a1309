"""Health checks: one `Check` for each thing that a bind needs, with what was observed and what to do.

One set for `bindings doctor`, the overview and `GET /v1/health`; readiness is the part of it without which this
replica cannot serve. Every check runs even if others fail; a check that depends on a failed one says so. Nothing
here raises, changes a binding, or repeats a secret. The provider is asked for one row of its list and one of its
pools, which changes nothing.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, assert_never

from bindings import settings
from bindings.domain.serialization import duration
from bindings.errors import BindingsError, Busy, InvalidRequest
from bindings.http_transport import NotSent, Unknown
from bindings.lifecycle.runtime import provider_client
from bindings.monitoring import (
    activity_checks,
    circuit_checks,
    clock_checks,
    encryption_checks,
    personal_data_checks,
    reconciliation_checks,
)
from bindings.monitoring.check import Check, Level, ServiceLevel
from bindings.monitoring.health_metrics import MAX_DOUBTS_READ
from bindings.monitoring.health_reads import reads_of_all, reads_of_readiness
from bindings.provider.outcome import ProviderPage, Refusal, Refused
from bindings.store import account, durability, holds, job_runs, phone_key_source, queries, schema_version
from bindings.store.database import Database
from bindings.store.engine import UTF8
from bindings.store.failures import schema_todo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

    from bindings.lifecycle.runtime import Runtime
    from bindings.provider.client import ProviderClient
    from bindings.provider.outcome import PageOutcome
    from bindings.settings import Settings
    from bindings.store.read_once import ReadOnce

CHECKS_WITHOUT_EFFECT_ON_BINDS = {
    "erasures",
    "feed",
    "reconciliation",
    "scheduler",
    "seals",
    "sweep",
    "triggers",
}  # binds work while one is red
OLD_RUN_S = 60.0  # or ten intervals, if that is longer
NOT_CHECKED = "not checked"
PROVIDER_SETTINGS = ("provider_api_key", "provider_api_secret", "provider_app_id")


def readiness_checks(runtime: Runtime, reads: ReadOnce | None = None) -> tuple[Check, ...]:
    """Return what this replica needs to serve; it is ready if none is red.

    What the provider allows the account is not part of it: lookups work without it, and no replica is better off.
    Calls the provider only while the database's clock is in doubt. `reads` are those of a page that reads more.
    """
    reads = reads or reads_of_readiness(runtime.database, runtime.settings)
    checks = (_red_if_old(check) for check in _database_checks(reads, runtime.settings))
    return (*checks, _clocks(runtime))


def service_checks(runtime: Runtime, reads: ReadOnce | None = None) -> tuple[Check, ...]:
    """Return the checks of the service beside those of readiness. Does not call the provider."""
    reads = reads or reads_of_all(runtime.database, runtime.settings)
    return (
        encryption_checks.of_provider(runtime.settings),
        *circuit_checks.of_circuits(runtime.client),
        *_activity_checks(reads, runtime.settings),
    )


def _activity_checks(reads: ReadOnce, config: Settings) -> list[Check]:
    """Return the checks of what happened lately and of what is kept, as far as the database can be read."""
    of_database = activity_checks.ACTIVITY_CHECKS.items()
    return [
        *(_run_check(name, partial(probe, reads)) for name, probe in of_database),
        *(_run_check(name, partial(probe, reads, config)) for name, probe in _SETTINGS_CHECKS.items()),
    ]


def _red_if_old(check: Check) -> Check:
    """Return the check, red if the expire job is overdue: `doctor` only warns, a replica must not take traffic."""
    overdue = check.name == "sweep" and check.level is Level.WARN and check.seen != NOT_CHECKED
    return replace(check, level=Level.RED) if overdue else check


def _clocks(runtime: Runtime) -> Check:
    with suppress(Busy):  # this check says why, or another one if the database is away
        runtime.clocks.require_trusted_database()
    return clock_checks.of_replica(runtime.clocks)


def run_diagnostics(environment: Mapping[str, str] | None = None) -> tuple[Check, ...]:
    """Run every check, from the settings of the environment on; connect, and close what was opened."""
    config, settings_check = load(environment)
    if config is None:
        skipped_names = ("provider_encryption", *DATABASE_CHECKS, *PROVIDER_CHECKS)
        return (settings_check, *(_skipped(name, because="settings") for name in skipped_names))
    database_results, bind_accepted_at = _opened_database(config)
    encryption = encryption_checks.of_provider(config)
    return (settings_check, encryption, *database_results, *_opened_provider(config, bind_accepted_at))


def worst_level(checks: Sequence[Check]) -> Level:
    """Return the level of the worst check."""
    levels = {check.level for check in checks}
    return next((level for level in (Level.RED, Level.WARN) if level in levels), Level.OK)


def service_level(checks: Sequence[Check]) -> ServiceLevel:
    """Return the level of the service: only checks that are red, and warnings about failed binds, lower it."""
    red = {check.name for check in checks if check.level is Level.RED}
    if red - CHECKS_WITHOUT_EFFECT_ON_BINDS:
        return ServiceLevel.FAILING
    some_fail = any(check.name == "binds" and check.level is Level.WARN for check in checks)
    return ServiceLevel.DEGRADED if red or some_fail else ServiceLevel.OK


def load(environment: Mapping[str, str] | None = None) -> tuple[Settings | None, Check]:
    """Return the settings, or None if a variable is wrong, and a check that names every wrong one."""
    try:
        config = settings.load(environment)
    except settings.SettingsError as error:
        names = ", ".join(dict.fromkeys(variable for variable, _ in error.errors))
        return None, Check(name="settings", level=Level.RED, seen=str(error), todo=f"correct {names}")
    return config, Check(name="settings", level=Level.OK, seen="every variable has the required form")


# The database.


def database_checks(database: Database, config: Settings) -> list[Check]:
    """Check that the database answers, fits this version and account, and that the jobs run on it."""
    return _database_checks(reads_of_readiness(database, config), config)


def _database_checks(reads: ReadOnce, config: Settings) -> list[Check]:
    connection = _run_check("database", lambda: _check_connection(reads))
    if connection.level is Level.RED:
        names = (*_CONNECTION_CHECKS[1:], *_SCHEMA_CHECKS)
        return [connection, *(_skipped(name, because="database") for name in names)]
    schema = _run_check("schema", lambda: _schema(reads))
    clock = _run_check("database_clock", lambda: _database_clock(reads.database))
    if schema.level is Level.RED:
        return [connection, schema, clock, *(_skipped(name, because="schema") for name in _SCHEMA_CHECKS)]
    of_schema = (_run_check(name, partial(probe, reads, config)) for name, probe in _SCHEMA_CHECKS.items())
    return [connection, schema, clock, *of_schema]


def _opened_database(config: Settings) -> tuple[list[Check], datetime | None]:
    """Return the checks of the database, and its evidence that the account may bind without its list."""
    skipped = [_skipped(name, because="database") for name in DATABASE_CHECKS[1:]]
    try:
        phone_keys = phone_key_source.load(config)
        database = Database(config.database_url.get_secret_value(), phone_keys=phone_keys)
    except Exception as error:  # noqa: BLE001 -- a check must never raise
        return [_failed_check("database", error), *skipped], None
    if database.missing_file is not None:
        version = schema_version.read(database)
        absent = Check(name="database", level=Level.RED, seen=version.describe(), todo=version.remedy())
        return [absent, *skipped], None
    try:
        reads = reads_of_all(database, config)
        checks = _database_checks(reads, config)
        unreadable = next((check.name for check in checks[:2] if check.level is Level.RED), None)
        checks += (
            _activity_checks(reads, config)
            if unreadable is None
            else [_skipped(name, because=unreadable) for name in _ACTIVITY_NAMES]
        )
        with suppress(Exception):  # without that evidence a refused list is red
            return checks, circuit_checks.bind_accepted_without_list(database)
        return checks, None
    finally:
        database.close()


def _check_connection(reads: ReadOnce) -> Check:
    database, start = reads.database, time.monotonic()
    database.clock()
    database.check_file()
    took_ms = (time.monotonic() - start) * 1_000
    name = "PostgreSQL" if database.postgres else "SQLite"
    observed, todo = [f"{name} answers in {took_ms:.0f} ms"], []
    if database.encoding != UTF8:
        observed.append(f"its encoding is {database.encoding}: texts with other characters are refused")
        todo.append("move to a database that was created with ENCODING 'UTF8'")
    weak_settings = reads.read(durability.weak_settings)
    if weak_settings:
        observed += [_describe_weak(setting, value) for setting, value in weak_settings.items()]
        todo.append(f"set {', '.join(weak_settings)} to on")
    if "synchronous_commit" in weak_settings:
        todo.append("look for synchronous_commit in the URL, then at the role, the database and the server")
    level = Level.WARN if todo else Level.OK
    return Check(name="database", level=level, seen="; ".join(observed), todo="; ".join(todo) or None)


def _describe_weak(setting: str, value: str) -> str:
    """Return what a crash may do with a setting of `durability.weak_settings`."""
    if setting == "synchronous_commit" and value == durability.OFF:
        return "synchronous_commit is off: a crash of the server may lose the last commits"
    if setting == "synchronous_commit":
        return f"synchronous_commit is {value}: a standby that is promoted may lack the last commits"
    return (
        f"{setting} is off: unless its storage replaces it, a crash of the server's host may damage the database"
    )


def _schema(reads: ReadOnce) -> Check:
    version = schema_version.read(reads)
    level, observed, todo = Level.OK if version.accepted else Level.RED, version.describe(), version.remedy()
    if version.upgradable and reads.postgres:
        schema = reads.read(schema_version.schema_without_create)
        if schema is not None:
            observed, todo = f"{observed}; permission is denied for schema {schema}", schema_todo(schema)
    return Check(name="schema", level=level, seen=observed, todo=todo)


def _database_clock(database: Database) -> Check:
    before = database.host_clock.wall()
    database_time = database.clock().timestamp()
    skew_s = database_time - (before + database.host_clock.wall()) / 2
    return clock_checks.of_database(skew_s)


def _scope(reads: ReadOnce, config: Settings) -> Check:
    try:
        if reads.postgres and reads.read(account.recorded_scope) == config.scope:
            account.require_phone_keys(reads)
        else:
            account.register_scope(reads.database, config.scope)
    except InvalidRequest as refusal:
        todo = "set BINDINGS_SCOPE to the name that the database was created with"
        of_scope = any(error.field == "BINDINGS_SCOPE" for error in refusal.field_errors)
        return Check(name="scope", level=Level.RED, seen=str(refusal), todo=todo if of_scope else None)
    return Check(name="scope", level=Level.OK, seen=f"recorded in the database: {config.scope}")


def _restore(reads: ReadOnce) -> Check:
    required_since = account.full_scan_required_since(reads)
    if required_since is None:
        return Check(name="restore", level=Level.OK, seen="no full scan is required")
    observed = f"binds wait since {required_since:%Y-%m-%d %H:%M:%SZ} for a full scan after a restore"
    return Check(name="restore", level=Level.RED, seen=observed, todo="run `bindings reconcile`")


def _sweep(reads: ReadOnce, config: Settings) -> Check:
    last = reads.read(job_runs.last_finished, "expire")
    todo = (
        "run `bindings scheduler` (or `bindings expire` once): only this job records bindings as expired, and no"
        " replica of `bindings serve` is ready without it"
    )
    if last is None:
        observed = "no finished run of the expire job is recorded"
        return Check(name="sweep", level=Level.WARN, seen=observed, todo=todo)
    age_s = (reads.clock() - last).total_seconds()
    observed = f"the expire job last finished {duration(age_s)} ago"
    if age_s > max(OLD_RUN_S, 10 * config.sweep_interval_s):
        return Check(name="sweep", level=Level.WARN, seen=observed, todo=todo)
    return Check(name="sweep", level=Level.OK, seen=observed)


def _doubts(reads: ReadOnce) -> Check:
    doubts, opened_at = reads.read(queries.count_doubts, reads.now, limit=MAX_DOUBTS_READ)
    if opened_at is None:
        return Check(name="doubts", level=Level.OK, seen="none open")
    age_s = (reads.clock() - opened_at).total_seconds()
    more = " or more" if doubts == MAX_DOUBTS_READ else ""
    observed = f"{doubts}{more} open, the oldest from {duration(age_s)} ago"
    todo = (
        "`bindings doubts` lists them; `bindings reconcile` searches the provider's list for them, and"
        " `bindings recover` repeats unbinds"
    )
    return Check(name="doubts", level=Level.WARN, seen=observed, todo=todo)


def _orphans(reads: ReadOnce, config: Settings) -> Check:
    orphans, revenants = reads.read(holds.count_orphans, config.scope, reads.now)
    if not orphans and not revenants:
        return Check(name="orphans", level=Level.OK, seen="no hold for an orphan or a revenant is in force")
    observed = (
        f"scans of the provider's list saw {orphans} binding(s) that are not ours and {revenants} that ended here;"
        " their phones are held"
    )
    todo = (
        "`bindings reports --json` names them; `bindings unbind ID` ends one that ended here at the provider too;"
        " with BINDINGS_ON_ORPHAN=release a reconciliation ends all, also those of other systems"
    )
    return Check(name="orphans", level=Level.WARN, seen=observed, todo=todo)


_CONNECTION_CHECKS = ("database", "schema", "database_clock")
_SCHEMA_CHECKS: dict[str, Callable[[ReadOnce, Settings], Check]] = {
    "scope": _scope,
    "restore": lambda reads, _: _restore(reads),
    "sweep": _sweep,
    "doubts": lambda reads, _: _doubts(reads),
    "reconcile_duration": reconciliation_checks.of_duration,
    "orphans": _orphans,
}
_SETTINGS_CHECKS: dict[str, Callable[[ReadOnce, Settings], Check]] = {
    "reconciliation": reconciliation_checks.of_reconciliation,
    **personal_data_checks.PERSONAL_DATA_CHECKS,
}
_ACTIVITY_NAMES = (*activity_checks.ACTIVITY_CHECKS, *_SETTINGS_CHECKS)
DATABASE_CHECKS = (*_CONNECTION_CHECKS, *_SCHEMA_CHECKS, *_ACTIVITY_NAMES)
PROVIDER_CHECKS = ("provider", *circuit_checks.ACCESS_CHECKS, "provider_clock")


# The provider.


def provider_checks(client: ProviderClient, app_id: str, *, bind_accepted_at: datetime | None) -> list[Check]:
    """Check that the provider can be reached, what it allows this account, and that its clock is close to ours.

    `bind_accepted_at` is that of `circuit_checks.of_account`.
    """
    try:
        page = client.page(app_id=app_id, current=1, size=1)
        if isinstance(page, Refused) and page.refusal is Refusal.CLOCK:
            rejected = page
            page = client.page(app_id=app_id, current=1, size=1)  # its timestamp follows the clock just measured
            clock = clock_checks.of_refused_timestamp(client, rejected)
            return [_provider(page), *_access(client, page, None), clock]
        access = _access(client, page, bind_accepted_at)
    except Exception as error:  # noqa: BLE001 -- a check must never raise
        skipped = [_skipped(name, because="provider") for name in PROVIDER_CHECKS[1:]]
        return [_failed_check("provider", error), *skipped]
    return [_provider(page), *access, _provider_clock(client, page)]


def _access(client: ProviderClient, page: PageOutcome, bind_accepted_at: datetime | None) -> list[Check]:
    """Return a check for each call that the account may or may not make, as far as the list and the pools tell."""
    if not isinstance(page, ProviderPage | Refused):
        return [_skipped(name, because="provider") for name in circuit_checks.ACCESS_CHECKS]
    return [
        circuit_checks.of_account(page, bind_accepted_at=bind_accepted_at),
        circuit_checks.of_list(page),
        circuit_checks.of_pools(client.pools(current=1, size=1)),
    ]


def _opened_provider(config: Settings, bind_accepted_at: datetime | None) -> list[Check]:
    missing = [f"BINDINGS_{name.upper()}" for name in PROVIDER_SETTINGS if getattr(config, name) is None]
    client, app_id = provider_client(config), config.provider_app_id
    if client is None or app_id is None:
        observed = f"not called: {', '.join(missing)} not set"
        todo = f"set {', '.join(missing)}, or try the simulator: bindings simulator"
        skipped = [_skipped(name, because="provider") for name in PROVIDER_CHECKS[1:]]
        return [Check(name="provider", level=Level.WARN, seen=observed, todo=todo), *skipped]
    try:
        return provider_checks(client, app_id, bind_accepted_at=bind_accepted_at)
    finally:
        client.close()


def _provider_clock(client: ProviderClient, page: PageOutcome) -> Check:
    if isinstance(page, ProviderPage | Refused):
        return clock_checks.of_provider(client, page)
    return _skipped("provider_clock", because="provider")


def _provider(page: PageOutcome) -> Check:
    match page:
        case ProviderPage() | Refused():
            return Check(name="provider", level=Level.OK, seen="answers")
        case NotSent():
            todo = "check BINDINGS_PROVIDER_URL and the network (no proxy is used); meanwhile binds fail unsent"
            return Check(name="provider", level=Level.RED, seen=f"not reached: {page.reason}", todo=todo)
        case Unknown():
            todo = "check BINDINGS_PROVIDER_URL; if it is right, ask the provider: binds may be in doubt"
            return Check(name="provider", level=Level.RED, seen=f"no clear answer: {page.reason}", todo=todo)
        case _:
            assert_never(page)


# Helpers.


def _run_check(name: str, probe: Callable[[], Check]) -> Check:
    try:
        return probe()
    except Exception as error:  # noqa: BLE001 -- a check must never raise
        return _failed_check(name, error)


def _failed_check(name: str, error: Exception) -> Check:
    """Return a check that failed to run, with advice only if the error itself has some.

    Only our own messages are shown; others may contain a password.
    """
    todo = None
    match error:
        case Busy():
            observed, todo = f"not checked: {error}", error.todo
        case BindingsError():
            observed = str(error)
        case _:
            observed = f"failed with {type(error).__name__}"
    return Check(name=name, level=Level.RED, seen=observed, todo=todo)


def _skipped(name: str, *, because: str) -> Check:
    return Check(
        name=name, level=Level.WARN, seen=NOT_CHECKED, todo=f"correct `{because}` first, then check again"
    )
