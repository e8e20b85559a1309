"""What every part of an open service shares: settings, database, provider client, limits and caller.

A `Runtime` is replaced, never changed: `runtime.for_caller(...)` acts for another caller over the same connections
and limits. No rule of the lifecycle belongs here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

from bindings.clock import SYSTEM_CLOCK, HostClock
from bindings.domain.acts import RestoreCause
from bindings.domain.conflict import Policy
from bindings.errors import Busy, FieldError, InvalidRequest
from bindings.lifecycle.admission import BindAdmission
from bindings.lifecycle.clock_monitor import ClockMonitor
from bindings.lifecycle.older_versions import OlderVersions
from bindings.provider.client import ProviderClient
from bindings.sealing.keys import SigningKey, load_signing_key
from bindings.store import account, cluster_move, phone_key_source, replicas, reserve, schema_version
from bindings.store.database import Database
from bindings.store.queries import Lookups
from bindings.store.reserve_call import ReserveCall
from bindings.store.rollback_detection import RollbackDetector

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from bindings.domain.binding import Binding, Caller
    from bindings.settings import Settings
    from bindings.store.replicas import Heartbeat

SEAL_KEY_FILE = "BINDINGS_SEAL_KEY_FILE"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Runtime:
    """The parts of one open service and the caller that it acts for. Thread-safe, also in a forked child.

    `client` is None if no provider account is set, `seal_key` if this process does not seal the history.
    """

    settings: Settings
    database: Database
    client: ProviderClient | None
    limits: reserve.BindLimits
    clocks: ClockMonitor
    admission: BindAdmission
    rollback_detector: RollbackDetector
    reserve_call: ReserveCall
    lookups: Lookups
    older_versions: OlderVersions
    heartbeat: Heartbeat
    seal_key: SigningKey | None
    clock: HostClock
    caller: Caller

    def for_caller(self, caller: Caller) -> Runtime:
        """Return the same parts for another caller; `dataclasses.replace` takes many times as long."""
        runtime = object.__new__(Runtime)
        for set_field, value in zip(_SETTERS, (*_read_parts(self), caller), strict=True):
            set_field(runtime, value)
        return runtime

    @property
    def replica(self) -> str:
        """Return the name of this process in `job_runs` and on pages."""
        return replicas.process_name()

    def require_client(self) -> ProviderClient:
        """Return the provider client. Raise `InvalidRequest`, naming the missing variables, if there is none."""
        if self.client is None:
            missing = [
                name
                for name in ("provider_api_key", "provider_api_secret")
                if getattr(self.settings, name) is None
            ]
            raise InvalidRequest(
                [FieldError(f"BINDINGS_{name.upper()}", "is needed to call the provider") for name in missing]
            )
        return self.client

    def require_seal_key(self) -> SigningKey:
        """Return the key that seals the history. Raise `InvalidRequest`, naming the variable, if there is none."""
        if self.seal_key is None:
            raise InvalidRequest.of_field(SEAL_KEY_FILE, "is needed to seal the history")
        return self.seal_key

    def guard_s(self, binding: Binding) -> float:
        """Return how many seconds the phones of a binding stay held past its end."""
        return self.settings.guard_for(binding.provider_expire_s)

    def app_id_or_default(self, app_id: str | None) -> str | None:
        """Return `app_id`, or the one of the settings if it is None."""
        return app_id if app_id is not None else self.settings.provider_app_id

    def observe_database_clock(self) -> None:
        """Read the database's clock and compare it with this host's. Safe to repeat; `Busy` if it is away."""
        self.clocks.observe(self.database.clock())

    def close(self) -> None:
        """Close every connection; later calls are `Busy` and do nothing. Safe to repeat.

        A call under way in another thread may fail: what it had begun is recorded, and `recover` settles it.
        """
        if self.client is not None:
            self.client.close()
        self.heartbeat.close()
        self.database.close()


_PARTS = tuple(field.name for field in fields(Runtime) if field.name != "caller")
# The slots of a frozen dataclass, read and set past its constructor, as in `store.bindings`.
_read_parts = attrgetter(*_PARTS)
_SETTERS = tuple(getattr(Runtime, name).__set__ for name in (*_PARTS, "caller"))


def open_runtime(
    settings: Settings,
    caller: Caller,
    *,
    clock: HostClock = SYSTEM_CLOCK,
    read_clock: Callable[[], datetime] | None = None,
    connect: bool = True,
) -> Runtime:
    """Connect to the database, check its schema and scope, and return the runtime.

    Without `connect` that happens at the first read or write, so that arguments are checked before any I/O. In
    tests `clock` replaces the clocks of this host, and `read_clock` that of the database. Raises
    `SchemaOutOfDate`, `InvalidRequest` (another account's database) or `Busy`; nothing stays open then.
    """
    url = settings.database_url.get_secret_value()
    phone_keys = phone_key_source.load(settings)
    database = Database(
        url,
        pool_size=settings.pool_size,
        pool_idle=settings.pool_idle,
        timeout_s=settings.database_timeout_s,
        read_clock=read_clock,
        clock=clock,
        phone_keys=phone_keys,
    )
    runtime = new_runtime(settings, database, caller=caller, clock=clock)
    if not connect:
        database.defer(lambda: _check_database(runtime))
        return runtime
    try:
        _check_database(runtime)
    except BaseException:
        runtime.close()
        raise
    return runtime


def _check_database(runtime: Runtime) -> None:
    schema_version.read(runtime.database).require()
    account.register_scope(runtime.database, runtime.settings.scope)
    runtime.database.write(replicas.record)
    # Again, now that this process is recorded: from here on a command that encrypts phones knows it.
    account.require_phone_keys(runtime.database)
    if cluster_move.continue_numbers(runtime.database, runtime.caller):
        _log.warning(
            "the database was loaded into a PostgreSQL cluster that has run fewer transactions than the one"
            " before: the change feed and webhooks continue after the older events"
        )
    runtime.database.call_on_use(runtime.heartbeat.on_use)
    runtime.observe_database_clock()


def _check_again(database: Database) -> None:
    """Check what may have changed while this process was silent. Raises `Busy` or `SchemaOutOfDate`."""
    schema_version.read(database).require()
    try:
        account.require_phone_keys(database)
    except InvalidRequest as refused:
        raise Busy(f"{refused}; nothing was done", todo="restart this process with these keys") from None


def _treat_as_restored(runtime: Runtime) -> None:
    """Check the SQLite file that has taken the place of another, and let binds wait for a full reconciliation."""
    _check_database(runtime)
    runtime.database.write(lambda tx: account.require_full_scan(tx, runtime.caller, RestoreCause.FILE_REPLACED))
    runtime.rollback_detector.forget()
    _log.error("the SQLite file was replaced: binds wait until `bindings reconcile` has completed")


def new_runtime(
    settings: Settings, database: Database, *, caller: Caller, clock: HostClock = SYSTEM_CLOCK
) -> Runtime:
    """Build the parts over an open database. Connects to nothing."""
    client = provider_client(settings, clock)
    clocks = ClockMonitor(database, client, app_id=settings.provider_app_id, clock=clock)
    runtime = Runtime(
        settings=settings,
        database=database,
        client=client,
        limits=reserve.BindLimits(
            scope=settings.scope,
            policy=Policy(settings.conflict_policy),
            call_timeout_s=settings.provider_timeout_s,
            tolerance_s=settings.timestamp_tolerance_s,
            guard_for=settings.guard_for,
            warn_s=settings.warn_s,
        ),
        clocks=clocks,
        admission=BindAdmission(client, clocks, limit=settings.bind_limit),
        rollback_detector=RollbackDetector(),
        reserve_call=ReserveCall(),
        lookups=Lookups(database.now, postgres=database.postgres, form_count=database.form_count),
        older_versions=OlderVersions(database, clock),
        heartbeat=replicas.Heartbeat(database, clock, partial(_check_again, database)),
        seal_key=_seal_key(settings),
        clock=clock,
        caller=caller,
    )
    database.when_replaced = partial(_treat_as_restored, runtime)
    return runtime


def _seal_key(settings: Settings) -> SigningKey | None:
    return None if settings.seal_key_file is None else load_signing_key(settings.seal_key_file, SEAL_KEY_FILE)


def provider_client(settings: Settings, clock: HostClock = SYSTEM_CLOCK) -> ProviderClient | None:
    """Return the client of the account of the settings; None if they have no key or no secret. Calls nothing."""
    key, secret = settings.provider_api_key, settings.provider_api_secret
    if key is None or secret is None:
        return None
    return ProviderClient(
        base_url=settings.provider_url,
        path_prefix=settings.provider_path_prefix,
        api_key=key.get_secret_value(),
        api_secret=secret.get_secret_value(),
        timeout_s=settings.provider_timeout_s,
        zone=settings.provider_zone,
        wall=clock.wall,
        monotonic=clock.monotonic,
        ignore_date=settings.ignore_provider_date,
    )
