"""Every sentence of the health checks, with the conditions under which it is shown.

A condition changes a real database or the simulated provider; the check of its name must then have exactly the
sentences that the condition lists. Beside each condition stand its neighbours: just below a threshold, before and
after. A sentence that the code gains is added here: the table must have every sentence of the code.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.monitoring import activity_checks, clock_checks, health, reconciliation_checks
from bindings.monitoring.check import Check, Level
from bindings.monitoring.health_metrics import health_metrics
from bindings.store import durability
from bindings.store.database import Database
from tests.service.check_conditions import (
    AWAY,
    PAIRS,
    ROOT,
    World,
    ignore_durability,
    sentences_in,
    sentences_of_the_code,
)
from tests.service.harness import APP, POOL, A, B, C, D, feed_has_caught_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.service.harness import ServiceHarness

    Make = Callable[[World], Sequence[Check] | None]

# By name, what makes the condition, and the level and sentences of each check that it is about. The checks are
# those of `GET /v1/health`, unless the function returns others.
CONDITIONS: dict[str, tuple[Make, dict[str, tuple[Level, set[str]]]]] = {}


def condition(check: str, level: str, *sentences: str) -> Callable[[Make], Make]:
    """Add a row to the table: the decorated function makes the condition."""

    def add(make: Make) -> Make:
        _, rows = CONDITIONS.setdefault(make.__name__, (make, {}))
        rows[check] = Level(level), set(sentences)
        return make

    return add


FEED_WAITS = "the feed and webhooks wait: this PostgreSQL cluster has run fewer transactions than the one before"
OPEN_TRANSACTION = "the events of the last {} are in no feed and no webhook: a transaction is open"
WAITED = "{}; the oldest event that is due has waited for {}"
NEXT_SCAN = "check that a scheduler runs: until the next one no scan resolves a doubt or finds foreign bindings"
SET_CLOCK = "set the clock that is wrong (NTP)"
START_SCHEDULER = (
    "run `bindings scheduler` (or `bindings expire` once): only this job records bindings as expired, and no "
    "replica of `bindings serve` is ready without it"
)
RESOLVE_DOUBTS = (
    "`bindings doubts` lists them; `bindings reconcile` searches the provider's list for them, and "
    "`bindings recover` repeats unbinds"
)
LIST_IS_LONG = (
    "if its process runs, the list is long: raise BINDINGS_RECONCILE_INTERVAL_S, or "
    "BINDINGS_SCAN_CALLS_PER_S if the provider allows it; if not, start `bindings scheduler`"
)
NO_ORPHAN = "no hold for an orphan or a revenant is in force"
UNBINDS_WAIT = "until then phones stay held until their bindings end; `bindings recover` repeats the unbinds"
RELEASE_ORPHANS = (
    "`bindings reports --json` names them; `bindings unbind ID` ends one that ended here at the "
    "provider too; with BINDINGS_ON_ORPHAN=release a reconciliation ends all, also those of other "
    "systems"
)
ORPHANS = (
    "scans of the provider's list saw {} binding(s) that are not ours and {} that ended here; their "
    "phones are held"
)
CLOSED = "the circuit is closed in this process"
WITHOUT_LIST = (
    "binds do not need the list; until it can be read no scan resolves a doubt or finds bindings of others"
)
WITHOUT_POOLS = "binds do not need the list of pools: only `bindings doctor` reads it"
NOTHING_ENDS = "{}; binds wait and nothing ends by time until the clocks agree; unbinds are sent"
RESTART = "{}; if it is right now, restart this process: it has no other clock to compare with"
PROVIDER_CLOCK = "the provider's clock is {} s from this host's, by its refusals and Date header"
LIST_FAILED = "`bindings list --state failed` and `bindings doubts` list those that failed or are in doubt"
IN_CLEAR = (
    "BINDINGS_PROVIDER_URL is http: to another host, so phones and the API key are sent in clear, "
    "with a signature that the provider accepts for other calls too, for {} "
    "(BINDINGS_TIMESTAMP_TOLERANCE_S)"
)
ASK_FOR_STATUS = "ask the provider what this status means, and whether it has created a binding"
EVENT_IS_LATE = "its event is late: check that a scheduler runs, and how fast the database writes"
OVERDUE = "the oldest ended binding that is not recorded as expired ended {} ago"
NOT_READ = "the last {} did not read and handle the whole list, the newest {} ago"
READ_REPORTS = (
    "`bindings reports` has the reasons; until one does, doubts may stay open and foreign bindings be unseen"
)
ADD_NUMBERS = "have numbers added to the pool, or bind from another one; `bindings pools` shows all"
MISFIT = "the one of {} ago concluded nothing: the times of the list do not fit ours"
RELEASES = "{}{} expired binding(s) wait to be ended at the provider"
RECOVER = "the job `recover` ends them: check that a scheduler runs and that the provider answers unbinds"
ENCRYPTED = "events are sent encrypted, or stay on this host"
WEBHOOKS_IN_CLEAR = "webhooks with an http: address of another host get their events in clear: {}"
USE_HTTPS = "add them with an https: address, and remove these: `bindings webhooks`"
NOT_REACHED = "check BINDINGS_PROVIDER_URL and the network (no proxy is used); meanwhile binds fail unsent"
UNCLEAR = "check BINDINGS_PROVIDER_URL; if it is right, ask the provider: binds may be in doubt"
REFUSED_CLOCK = "compare this host's clock with NTP; if it is right, the provider's is wrong: ask the provider"
WRONG_DATE = "compare this host's clock with NTP; if it is right, set BINDINGS_IGNORE_PROVIDER_DATE=true"
DATE_IGNORED = "its Date header is ignored (BINDINGS_IGNORE_PROVIDER_DATE); {}"
RECEIVERS = "`bindings webhooks list` names the receivers: check that they answer, and that a scheduler runs"
REDELIVER = "`bindings webhooks redeliver` sends the dead ones again: run it when the receiver works"
SET_ON = "set {} to on"
WHERE_SET = "look for synchronous_commit in the URL, then at the role, the database and the server"
FIRST = "correct `{}` first, then check again"
OPEN = "{}{} open, the oldest from {} ago"
BEGAN = "the last one began {} ago, has not finished"
IN_USE = "{} of about {} in use ({}), {}"


@condition("database", "ok", "{} answers in {} ms")
@condition("schema", "ok", "at {}, as this version needs")
@condition("scope", "ok", "recorded in the database: {}")
@condition("restore", "ok", "no full scan is required")
@condition("sweep", "red", "no finished run of the expire job is recorded", START_SCHEDULER)
@condition("reconcile_duration", "ok", "no run on a timer is recorded")
@condition("clocks", "ok", "close enough, as last read")
@condition("provider_encryption", "ok", "calls are encrypted, or stay on this host")
@condition("account", "ok", CLOSED)
@condition("unbinds", "ok", CLOSED)
@condition("list", "ok", CLOSED)
@condition("binds", "ok", "in the last {}", "none has a result {}")
@condition("middle_numbers", "ok", "no pool is known to be low")
@condition("reconciliation", "ok", "none is among the newest {} reports")
@condition("releases", "ok", "none is owed")
@condition("webhooks", "ok", "deliveries: {} pending, {} dead")
@condition("feed", "ok", "new events follow the older ones")
@condition("seals", "ok", "the history is not sealed")
@condition("replicas", "ok", "processes recorded in the last {}: {}")
@condition("file_modes", "ok", "no SQLite file has a mode that allows other users")
def new_database(world: World) -> None:
    """Change nothing."""


@condition("settings", "ok", "every variable has the required form")
def settings_of_the_right_form(world: World) -> Sequence[Check]:
    return [health.load(world.environment())[1]]


@condition("settings", "red", "correct {}")
@condition("doubts", "warn", FIRST, "not checked")
def wrong_setting(world: World) -> Sequence[Check]:
    return health.run_diagnostics(world.environment(bind_limit="lots"))


@condition(
    "database",
    "warn",
    "move to a database that was created with ENCODING 'UTF8'",
    "{} answers in {} ms",
    "its encoding is {}: texts with other characters are refused",
)
def database_in_another_encoding(world: World) -> None:
    world.monkeypatch.setattr(Database, "encoding", "LATIN1")


@condition(
    "database",
    "warn",
    "{} answers in {} ms",
    "synchronous_commit is off: a crash of the server may lose the last commits",
    "{} is off: unless its storage replaces it, a crash of the server's host may damage the database",
    SET_ON,
    WHERE_SET,
)
def server_that_may_lose_commits(world: World) -> None:
    weak = {"synchronous_commit": "off", "fsync": "off"}
    world.monkeypatch.setattr(durability, "weak_settings", lambda _: weak)


@condition(
    "database",
    "warn",
    "{} answers in {} ms",
    "synchronous_commit is {}: a standby that is promoted may lack the last commits",
    SET_ON,
    WHERE_SET,
)
def standby_that_may_lack_commits(world: World) -> None:
    world.monkeypatch.setattr(durability, "weak_settings", lambda _: {"synchronous_commit": "local"})


@condition("database", "red", "not checked: {}")
@condition("schema", "warn", FIRST, "not checked")
def database_away(world: World) -> Sequence[Check]:
    return health.run_diagnostics(world.environment(database_url=AWAY))


@condition("schema", "red", "missing, this version needs {}", "run `bindings db upgrade`")
def no_schema(world: World) -> Sequence[Check]:
    with TemporaryDirectory() as folder:
        Path(folder, "new.db").touch()
        return health.run_diagnostics(world.environment(database_url=f"sqlite:///{folder}/new.db"))


@condition(
    "database",
    "red",
    "missing: there is no SQLite file at {}",
    "correct {}, or run `bindings db upgrade` to create the file",
)
def no_file(world: World) -> Sequence[Check]:
    with TemporaryDirectory() as folder:
        return health.run_diagnostics(world.environment(database_url=f"sqlite:///{folder}/new.db"))


@condition("schema", "red", "at {}, this version needs {}", "run `bindings db upgrade`")
@condition("doubts", "warn", FIRST, "not checked")
def older_schema(world: World) -> Sequence[Check]:
    return world.with_schema("0001")


@condition("schema", "ok", "at {}: newer than this version needs ({}), which can work on it")
def newer_schema_that_this_version_can_use(world: World) -> Sequence[Check]:
    return world.with_schema("9999", readable_from="0001")


@condition(
    "schema", "red", "at {}: too new for this version, which needs {}", "install a newer version of bindings"
)
def newer_schema(world: World) -> Sequence[Check]:
    return world.with_schema("9999")


@condition(
    "schema",
    "red",
    "give bindings a database, or a schema by search_path, of its own in {}",
    "that of another program: its alembic_version is {}",
)
def schema_of_another_program(world: World) -> Sequence[Check]:
    return world.with_schema("a1b2c3")


@condition("database_clock", "ok", "the database's clock is {} s from this host's")
def database_clock_at_the_limit_of_a_warning(world: World) -> Sequence[Check]:
    return [clock_checks.of_database(30.0)]


@condition("database_clock", "warn", SET_CLOCK, "the database's clock is {} s from this host's")
def database_clock_past_the_limit_of_a_warning(world: World) -> Sequence[Check]:
    return [clock_checks.of_database(-30.1)]


@condition(
    "database_clock",
    "red",
    SET_CLOCK,
    "the database's clock is {} s from this host's",
    "{}: past {} s binds are refused",
)
def database_clock_past_the_limit_of_binds(world: World) -> Sequence[Check]:
    return [clock_checks.of_database(60.1)]


@condition("scope", "red", "set BINDINGS_SCOPE to the name that the database was created with")
def scope_of_another_account(world: World) -> Sequence[Check]:
    world.checks()
    return health.run_diagnostics(world.environment(scope="other"))


@condition("restore", "red", "binds wait since {} for a full scan after a restore", "run `bindings reconcile`")
def restored(world: World) -> None:
    world.checks()  # records the account
    world.harness.service.mark_restored()


@condition("restore", "ok", "no full scan is required")
def restored_and_read_in_full(world: World) -> None:
    world.checks()  # records the account
    world.harness.service.mark_restored()
    world.harness.clock.advance(1)
    assert world.harness.service.reconcile().made_good


@condition("sweep", "ok", "the expire job last finished {} ago")
def expire_job_finished_a_minute_ago(world: World) -> None:
    world.finish_expire_job()
    world.harness.clock.advance(health.OLD_RUN_S)


@condition("sweep", "red", START_SCHEDULER, "the expire job last finished {} ago")
def expire_job_finished_more_than_a_minute_ago(world: World) -> None:
    world.finish_expire_job()
    world.harness.clock.advance(health.OLD_RUN_S + 1)


@condition("doubts", "ok", "none open")
@condition("orphans", "ok", NO_ORPHAN)
def no_doubt(world: World) -> None:
    world.harness.bind(A, B)


@condition("doubts", "warn", RESOLVE_DOUBTS, OPEN)
def doubt_of_a_bind(world: World) -> None:
    world.failing_binds(1, "lost_reply")


@condition("doubts", "warn", RESOLVE_DOUBTS, OPEN)
def unclear_unbind_of_an_old_binding(world: World) -> None:
    binding = world.harness.bind(A, B)
    world.harness.clock.advance(1_800)
    world.harness.simulator.script("lost_reply", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown):
        world.harness.service.unbind(binding.id)
    assert "the oldest from 0 s ago" in world.check("doubts").seen, "since its request, not since the bind"
    assert health_metrics(world.harness.service.runtime, world.harness.database).oldest_doubt_s == 0


@condition("doubts", "warn", " or more", RESOLVE_DOUBTS, "{} or more", OPEN)
def more_doubts_than_are_read(world: World) -> None:
    world.failing_binds(1, "lost_reply")
    world.monkeypatch.setattr(health, "MAX_DOUBTS_READ", 1)


@condition("reconcile_duration", "ok", BEGAN)
def reconciliation_has_begun(world: World) -> None:
    world.claim_reconciliation()
    world.harness.clock.advance(900)


@condition("reconcile_duration", "warn", LIST_IS_LONG, BEGAN, "{}: longer than three intervals")
def reconciliation_whose_process_was_killed(world: World) -> None:
    world.claim_reconciliation()
    world.harness.clock.advance(901)


@condition("reconcile_duration", "ok", "the last one took {}")
def reconciliation_took_three_intervals(world: World) -> None:
    world.claim_reconciliation(ends_after_s=900)


@condition("reconcile_duration", "warn", LIST_IS_LONG, "the last one took {}", "{}: longer than three intervals")
def reconciliation_took_longer_than_three_intervals(world: World) -> None:
    world.claim_reconciliation(ends_after_s=901)


@condition("orphans", "ok", NO_ORPHAN)
def orphan_before_a_scan(world: World) -> None:
    world.harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP)


@condition("orphans", "warn", RELEASE_ORPHANS, ORPHANS)
def orphan_after_a_scan(world: World) -> None:
    world.harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP, expire_s=600)
    world.harness.service.reconcile()


@condition("orphans", "ok", NO_ORPHAN)
def orphan_after_its_end(world: World) -> None:
    orphan_after_a_scan(world)
    world.harness.clock.advance(700)


@condition("clocks", "red", SET_CLOCK, "the database's clock has jumped by {} s", NOTHING_ENDS, RESTART)
def database_clock_that_jumped(world: World) -> Sequence[Check]:
    return world.after_a_jump(by_s=61)


@condition("clocks", "ok", "close enough, as last read")
def database_clock_that_jumped_less(world: World) -> Sequence[Check]:
    return world.after_a_jump(by_s=59)


@condition("clocks", "red", SET_CLOCK, "the database's clock is {} s from this host's", NOTHING_ENDS, RESTART)
def database_clock_that_is_wrong_at_the_start(world: World) -> Sequence[Check]:
    return world.after_a_jump(by_s=61, read_before=False)


@condition("clocks", "red", SET_CLOCK, PROVIDER_CLOCK, "{}; binds wait")
def provider_clock_that_refused_a_bind(world: World) -> None:
    world.refused_timestamp()
    with pytest.raises(errors.Busy):
        world.harness.bind(C, D)


@condition("clocks", "warn", SET_CLOCK, PROVIDER_CLOCK, "{}; the next bind measures again")
def provider_clock_that_the_next_bind_measures(world: World) -> None:
    world.refused_timestamp()


@condition("provider_encryption", "warn", IN_CLEAR, "use an https: address")
def provider_in_clear(world: World) -> Sequence[Check]:
    return world.checks(world.harness.open(provider_url="http://provider.invalid:9"))


@condition("account", "red", "binds wait: they met {}", "status {}: {}", "status {}: {}{}")
def circuit_of_binds_open(world: World) -> None:
    world.failing_binds(1, "refuse:-30")


@condition("account", "warn", "binds met {}; the next bind tries again", "status {}: {}", "status {}: {}{}")
def circuit_of_binds_half_open(world: World) -> None:
    world.failing_binds(1, "refuse:-30")
    world.circuit_of_binds()._next_trial = 0.0


@condition(
    "account", "red", ASK_FOR_STATUS, "binds wait: they met {}", "the undocumented status {}", "{}, twice in a row"
)
def circuit_of_binds_open_after_an_undocumented_status(world: World) -> None:
    world.failing_binds(2, "refuse:-99")


@condition("account", "ok", CLOSED)
def circuit_of_binds_closed_after_one_undocumented_status(world: World) -> None:
    world.failing_binds(1, "refuse:-99")


@condition(
    "account",
    "red",
    "HTTP {} without the documented envelope",
    "binds wait: they met {}",
    "check BINDINGS_PROVIDER_URL and BINDINGS_PROVIDER_PATH_PREFIX, and whether a firewall or gateway before the"
    " provider lets this host through",
    "{}, twice in a row",
)
def circuit_of_binds_open_after_a_wrong_address(world: World) -> None:
    world.failing_binds(2, "redirect")


@condition(
    "account",
    "red",
    "binds wait: they met {}",
    "HTTP 429, a rate limit",
    "make fewer calls at a time, or ask the provider for a higher rate limit",
    "{}, twice in a row",
)
def circuit_of_binds_open_after_a_rate_limit(world: World) -> None:
    world.failing_binds(2, "rate_limit:60")


@condition(
    "account",
    "red",
    "binds wait: they met {}",
    "a success that is not as documented",
    "ask the provider whether its API has changed: what it answers about a new binding cannot be read",
    "{}, twice in a row",
)
def circuit_of_binds_open_after_successes_without_data(world: World) -> None:
    world.failing_binds(2, "truncated")


@condition("account", "warn", "no account is set: queries only", "set BINDINGS_PROVIDER_API_KEY and _SECRET")
def process_without_an_account(world: World) -> Sequence[Check]:
    return world.checks(world.harness.open(provider_api_key=None, provider_api_secret=None))


@condition("unbinds", "warn", "refused, {}", "status {}: {}", "status {}: {}{}", UNBINDS_WAIT)
def circuit_of_unbinds_open(world: World) -> None:
    binding = world.harness.bind(A, B)
    world.harness.simulator.script("refuse:-30", times=1, on="unbind")
    with pytest.raises(errors.BindingsError):
        world.harness.service.unbind(binding.id)


@condition("list", "warn", WITHOUT_LIST, "refused, {}", "status {}: {}", "status {}: {}{}")
def circuit_of_the_list_open(world: World) -> None:
    world.harness.simulator.script("refuse:-1", rate=1.0, on="page")
    world.harness.service.reconcile()


@condition("binds", "ok", "in the last {}", "none has a result {}")
def bind_without_a_result_yet(world: World) -> Sequence[Check]:
    return world.during_a_bind()


@condition("binds", "ok", "in the last {}", "{} of {}{} succeeded {}")
def binds_that_succeeded(world: World) -> None:
    world.binds(3)


@condition("binds", "ok", "in the last {}", "{} of {}{} succeeded {}")
def one_failed_bind_of_ten(world: World) -> None:
    world.failing_binds(1, "refuse:-41")
    world.binds(9, first=1)


@condition(
    "binds",
    "warn",
    LIST_FAILED,
    "in the last {}",
    "status {}, {}",
    "{} of {}{} succeeded {}",
    "{}; most frequent: {} ({})",
)
def two_failed_binds_of_ten(world: World) -> None:
    world.failing_binds(2, "refuse:-41")
    world.binds(8, first=2)


@condition("binds", "ok", "in the last {}", "{} of {}{} succeeded {}")
def two_failed_binds_of_nine(world: World) -> None:
    world.failing_binds(2, "refuse:-41")
    world.binds(7, first=2)


@condition("binds", "ok", "in the last {}", "{} of {}{} succeeded {}")
def two_failed_binds(world: World) -> None:
    world.failing_binds(2, "refuse:-41")


@condition(
    "binds",
    "red",
    LIST_FAILED,
    "in the last {}",
    "status {}, {}",
    "{} of {}{} succeeded {}",
    "{}; most frequent: {} ({})",
)
def three_failed_binds(world: World) -> None:
    world.failing_binds(3, "refuse:-41")


@condition(
    "binds",
    "red",
    LIST_FAILED,
    "in the last {}",
    "never sent",
    "{} of {}{} succeeded {}",
    "{}; most frequent: {} ({})",
)
def three_binds_that_were_never_sent(world: World) -> None:
    away = world.harness.open(provider_url="http://127.0.0.1:9")
    for phone_a, phone_b in PAIRS[:3]:
        with pytest.raises(errors.BindingsError):
            away.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=60, mode="AXB")


@condition(
    "binds",
    "red",
    LIST_FAILED,
    "in the last {}",
    "no clear answer of the provider",
    "{} of {}{} succeeded {}",
    "{}; most frequent: {} ({})",
)
def three_binds_in_doubt(world: World) -> None:
    world.failing_binds(3, "lost_reply")


@condition(
    "binds",
    "red",
    LIST_FAILED,
    "in the last {}",
    "refused before the call: the provider had refused the account",
    "{} of {}{} succeeded {}",
    "{}; most frequent: {} ({})",
)
def binds_refused_because_the_account_is(world: World) -> None:
    world.failing_binds(4, "refuse:-30")


@condition("binds", "ok", "in the last {}", "the newest ", "{} of {}{} succeeded {}")
def more_binds_than_are_read(world: World) -> None:
    world.monkeypatch.setattr(activity_checks, "MAX_BINDS", 2)
    world.binds(3)


@condition("sweep_lag", "ok", "every ended binding is recorded as expired")
def active_binding_before_its_end(world: World) -> None:
    world.harness.bind(A, B, expire_s=60)


@condition("sweep_lag", "ok", OVERDUE)
def ended_binding_thirty_seconds_after_its_end(world: World) -> None:
    binding = world.harness.bind(A, B, expire_s=60)
    assert binding.expires_at is not None
    world.harness.clock.at = binding.expires_at + timedelta(seconds=30)


@condition("sweep_lag", "warn", EVENT_IS_LATE, OVERDUE)
def ended_binding_that_no_job_recorded(world: World) -> None:
    ended_binding_thirty_seconds_after_its_end(world)
    world.harness.clock.advance(1)


@condition("sweep_lag", "ok", "every ended binding is recorded as expired")
def ended_binding_that_the_job_recorded(world: World) -> None:
    ended_binding_that_no_job_recorded(world)
    world.harness.service.expire_due()


@condition("middle_numbers", "ok", "no pool is known to be low")
def pool_of_unknown_capacity(world: World) -> None:
    world.pool(live=9_000, capacity=None)


@condition("middle_numbers", "ok", "no pool is known to be low")
def pool_used_less_than_nine_tenths(world: World) -> None:
    world.pool(live=89, capacity=100)


@condition("middle_numbers", "warn", ADD_NUMBERS, "pool {}: {}", "trend not known yet", IN_USE)
def pool_used_to_nine_tenths(world: World) -> None:
    world.pool(live=90, capacity=100)


@condition("middle_numbers", "warn", ADD_NUMBERS, "pool {}: {}", "trend not known yet", IN_USE, "{}; full")
def full_pool(world: World) -> None:
    world.pool(live=100, capacity=100)


@condition("middle_numbers", "warn", "full in about {}", ADD_NUMBERS, "pool {}: {}", "{} by {} per hour", IN_USE)
def pool_that_is_full_soon(world: World) -> None:
    world.pool(live=50, capacity=100, earlier=20)


@condition("middle_numbers", "warn", "full in about {}", ADD_NUMBERS, "pool {}: {}", "{} by {} per hour", IN_USE)
def pool_that_grows_slowly(world: World) -> None:
    world.pool(live=905, capacity=1_000, earlier=890)


@condition(
    "middle_numbers",
    "warn",
    ADD_NUMBERS,
    "not full within {} at this rate",
    "pool {}: {}",
    "{} by {} per hour",
    IN_USE,
)
def pool_that_is_not_full_within_a_week(world: World) -> None:
    world.pool(live=910, capacity=100_000, earlier=810, low=True)


@condition("middle_numbers", "warn", ADD_NUMBERS, "not counted yet", "pool {}: {}")
def pool_that_is_recorded_as_low_and_not_counted(world: World) -> None:
    world.pool(live=None, capacity=None, low=True)


@condition(
    "middle_numbers",
    "warn",
    ADD_NUMBERS,
    "pool {}: {}",
    "trend not known yet",
    "{} live, {}; no forecast: the capacity is not known",
)
def low_pool_of_unknown_capacity(world: World) -> None:
    world.pool(live=5, capacity=None, low=True)


@condition(
    "middle_numbers", "warn", "; {} more pool(s)", ADD_NUMBERS, "pool {}: {}", "trend not known yet", IN_USE
)
def more_low_pools_than_are_named(world: World) -> None:
    for number in range(6):
        world.pool(live=90, capacity=100, number=f"91880{number}")


@condition("reconciliation", "ok", "none is among the newest {} reports")
def only_a_dry_run(world: World) -> None:
    world.harness.service.reconcile(dry_run=True)


@condition("reconciliation", "ok", "the one of {} ago read all that it needed")
def reconciliation_of_the_whole_list(world: World) -> None:
    world.harness.service.reconcile()


@condition("reconciliation", "ok", "the one of {} ago read all that it needed")
def reconciliation_three_intervals_ago(world: World) -> None:
    world.report()
    world.harness.clock.advance(900)


@condition("reconciliation", "warn", NEXT_SCAN, "the last one ended {} ago: that is more than three intervals")
def reconciliation_more_than_three_intervals_ago(world: World) -> None:
    world.report()
    world.harness.clock.advance(901)


@condition("reconciliation", "ok", "the one of {} ago read all that it needed")
def reconciliation_long_ago_while_the_next_runs(world: World) -> None:
    world.report()
    world.harness.clock.advance(901)
    world.claim_reconciliation()


@condition("reconciliation", "warn", READ_REPORTS, NOT_READ)
def reconciliation_of_a_part(world: World) -> None:
    world.harness.simulator.script("bad_gateway", rate=1.0, on="page")
    world.harness.service.reconcile()


@condition("reconciliation", "warn", READ_REPORTS, NOT_READ)
def reconciliation_that_was_stopped(world: World) -> None:
    world.report(stopped=True)


@condition("reconciliation", "warn", READ_REPORTS, NOT_READ)
def reconciliation_with_a_failure(world: World) -> None:
    world.report(failures=1)


@condition("reconciliation", "warn", " or more", READ_REPORTS, NOT_READ, "{} or more")
def reconciliations_of_a_part_more_than_are_read(world: World) -> None:
    for _ in range(reconciliation_checks.MAX_REPORTS + 1):
        world.report(incomplete=1)
    assert "the last 20 or more " in world.check("reconciliation").seen


@condition("reconciliation", "red", "check BINDINGS_PROVIDER_ZONE", MISFIT)
def times_of_the_list_that_do_not_fit(world: World) -> None:
    world.report(zone_misfit_s=3_600.0, incomplete=1)


@condition("releases", "ok", "{}, the oldest for {}", RELEASES)
def release_that_is_due(world: World) -> None:
    world.owed_release()


@condition("releases", "warn", RECOVER, "{}, the oldest for {}", RELEASES)
def release_that_waits(world: World) -> None:
    world.owed_release()
    world.harness.clock.advance(activity_checks.RELEASE_WARN_S)


@condition("releases", "ok", " or more", "{} or more", "{}, the oldest for {}", RELEASES)
def more_releases_than_are_counted(world: World) -> None:
    world.owed_release()
    world.monkeypatch.setattr(activity_checks, "MAX_RELEASES_READ", 1)


@condition("webhooks", "warn", RECEIVERS, "deliveries: {} pending, {} dead")
def many_pending_deliveries(world: World) -> None:
    world.monkeypatch.setattr(activity_checks, "MANY_PENDING", 2)
    world.deliveries("pending", count=3)


@condition("webhooks", "ok", "deliveries: {} pending, {} dead")
def fewer_pending_deliveries(world: World) -> None:
    world.monkeypatch.setattr(activity_checks, "MANY_PENDING", 2)
    world.deliveries("pending", count=2)


@condition("webhooks", "warn", REDELIVER, "deliveries: {} pending, {} dead")
def dead_delivery(world: World) -> None:
    world.deliveries("dead", count=1)


@condition("webhooks", "warn", " or more", REDELIVER, "deliveries: {} pending, {} dead", "{} or more")
def more_deliveries_than_are_counted(world: World) -> None:
    world.monkeypatch.setattr(activity_checks, "MAX_DELIVERIES_READ", 1)
    world.deliveries("dead", count=2)


@condition("webhook_encryption", "ok", ENCRYPTED)
def webhook_with_https(world: World) -> None:
    world.harness.service.webhooks.add(url="https://receiver.invalid/hook")


@condition("webhook_encryption", "warn", USE_HTTPS, WEBHOOKS_IN_CLEAR)
def webhook_in_clear(world: World) -> None:
    world.harness.service.webhooks.add(url="http://receiver.invalid/hook")


@condition("webhooks", "ok", "deliveries: {} pending, {} dead")
def delivery_that_is_due_for_a_minute(world: World) -> None:
    world.deliveries("pending", count=1)
    world.harness.clock.advance(activity_checks.SEND_WARN_S)


@condition("webhooks", "warn", RECEIVERS, "deliveries: {} pending, {} dead", WAITED)
def delivery_that_no_scheduler_sends(world: World) -> None:
    world.deliveries("pending", count=1)
    world.harness.clock.advance(activity_checks.SEND_WARN_S + 1)


@condition("webhooks", "warn", RECEIVERS, "deliveries: {} pending, {} dead", WAITED)
def event_that_no_scheduler_turns_into_deliveries(world: World) -> None:
    world.harness.service.webhooks.add(url="http://127.0.0.1:9/hook")
    world.binds(1)
    feed_has_caught_up(world.harness.service)
    world.harness.clock.advance(activity_checks.SEND_WARN_S + 1)


@condition("webhook_encryption", "ok", ENCRYPTED)
def disabled_webhook_in_clear(world: World) -> None:
    webhook = world.harness.service.webhooks.add(url="http://receiver.invalid/hook")
    world.harness.service.webhooks.disable(webhook.webhook.id)


@condition(
    "replicas",
    "warn",
    "after an upgrade, replace the processes with the lower version or schema",
    "processes recorded in the last {}: {}",
    "{} of version {} for schema {}: {}",
    "before 0011",
)
def processes_of_two_versions(world: World) -> None:
    world.replica(version="0.0.1", seen_s_ago=179)
    world.replica(version="0.0.2", seen_s_ago=0)


@condition(
    "replicas",
    "ok",
    "processes recorded in the last {}: {}",
    "{} of version {} for schema {}: {}",
    "before 0011",
)
def older_process_that_has_ended(world: World) -> None:
    world.replica(version="0.0.1", seen_s_ago=181)
    world.replica(version="0.0.2", seen_s_ago=0)


# What `bindings doctor` requests of the provider.


@condition("provider", "ok", "answers")
@condition("account", "ok", ": {} binding(s)", "the provider answers with its list{}")
@condition("list", "ok", "not refused")
@condition("pools", "ok", "not refused")
@condition("provider_clock", "ok", "its Date header is {} s from this host's clock")
def provider_that_answers(world: World) -> Sequence[Check]:
    return world.diagnostics()


@condition("account", "red", "status {}: {}", "status {}: {}{}")
def account_refused(world: World) -> Sequence[Check]:
    world.harness.simulator.change(account_status="-30")
    return world.diagnostics()


@condition("account", "ok", "a bind of {} was accepted, although the list was refused")
def list_refused_and_a_bind_accepted(world: World) -> Sequence[Check]:
    world.bind_without_list()
    return world.diagnostics()


@condition("account", "red", "status {}: {}", "status {}: {}{}")
def list_refused_and_later_a_bind_too(world: World) -> Sequence[Check]:
    world.bind_without_list()
    world.failing_binds(1, "refuse:-30", first=1)
    return world.diagnostics()


@condition("account", "red", "check BINDINGS_PROVIDER_APP_ID", "status {}: {}", "status {}: {}{}")
def application_refused(world: World) -> Sequence[Check]:
    world.harness.simulator.script("refuse:-22", rate=1.0, on="page")
    return world.diagnostics()


@condition("list", "warn", WITHOUT_LIST, "refused, {}", "status {}: {}", "status {}: {}{}")
def list_that_doctor_cannot_read(world: World) -> Sequence[Check]:
    world.harness.simulator.script("refuse:-1", rate=1.0, on="page")
    return world.diagnostics()


@condition("pools", "warn", WITHOUT_POOLS, "refused, {}", "status {}: {}", "status {}: {}{}")
def pools_that_are_refused(world: World) -> Sequence[Check]:
    world.harness.simulator.script("refuse:-1", rate=1.0, on="pools")
    return world.diagnostics()


@condition("pools", "warn", WITHOUT_POOLS, "no clear answer: {}")
def pools_without_a_clear_answer(world: World) -> Sequence[Check]:
    world.harness.simulator.script("bad_gateway", rate=1.0, on="pools")
    return world.diagnostics()


@condition("provider", "red", NOT_REACHED, "not reached: {}")
@condition("provider_clock", "warn", FIRST, "not checked")
def provider_that_is_not_reached(world: World) -> Sequence[Check]:
    return world.diagnostics(provider_url="http://127.0.0.1:9")


@condition("provider", "red", UNCLEAR, "no clear answer: {}")
def provider_without_a_clear_answer(world: World) -> Sequence[Check]:
    world.harness.simulator.script("bad_gateway", rate=1.0, on="page")
    return world.diagnostics()


@condition("provider", "warn", "not called: {} not set", "set {}, or try the simulator: bindings simulator")
def doctor_without_an_account(world: World) -> Sequence[Check]:
    return health.run_diagnostics(world.environment(provider_api_key=None))


@condition(
    "provider_clock",
    "warn",
    WRONG_DATE,
    "it accepts this host's timestamps",
    "its Date header is {} s from this host's clock",
)
def provider_clock_that_is_off_and_accepts(world: World) -> Sequence[Check]:
    world.harness.simulator.change(clock_offset_s=45)
    return world.diagnostics()


@condition(
    "provider_clock",
    "red",
    "; its Date header is {} s from this host's clock",
    REFUSED_CLOCK,
    "status {}: {}",
    "status {}: {}{}",
)
def provider_clock_that_refuses(world: World) -> Sequence[Check]:
    world.harness.simulator.change(clock_offset_s=900)
    return world.diagnostics()


@condition("provider_clock", "ok", "it accepts this host's timestamps", DATE_IGNORED)
def date_of_the_provider_that_is_ignored(world: World) -> Sequence[Check]:
    return world.diagnostics(ignore_provider_date="true")


@condition("provider_clock", "ok", DATE_IGNORED, "see `account`")
def clock_of_a_provider_that_refuses_the_list(world: World) -> Sequence[Check]:
    world.harness.simulator.change(account_status="-30")
    return world.diagnostics(ignore_provider_date="true")


@condition("feed", "red", FEED_WAITS, "run `bindings db moved`")
def feed_of_another_cluster(world: World) -> None:
    world.monkeypatch.setattr("bindings.store.cluster_move.numbers_are_behind", lambda _database: True)


def _event_not_final(world: World, *, age_s: float) -> None:
    at = world.harness.clock() - timedelta(seconds=age_s)
    world.monkeypatch.setattr("bindings.store.events.oldest_not_final", lambda _connection: at)


@condition("feed", "ok", "new events follow the older ones")
def event_that_waits_for_a_minute(world: World) -> None:
    _event_not_final(world, age_s=60)


@condition(
    "feed", "warn", OPEN_TRANSACTION, "end it: in pg_stat_activity it is the one with the oldest xact_start"
)
def event_that_waits_for_an_open_transaction(world: World) -> None:
    _event_not_final(world, age_s=61)


@condition("feed", "red", "failed with {}")
def check_that_fails_unexpectedly(world: World) -> None:
    def fail(_database: object) -> bool:
        raise RuntimeError("with a password")

    world.monkeypatch.setattr("bindings.store.cluster_move.numbers_are_behind", fail)


@condition("provider_clock", "ok", "no usable Date header; {}", "it accepts this host's timestamps")
def provider_without_a_date(world: World) -> Sequence[Check]:
    world.monkeypatch.setattr("bindings.provider.clock.ProviderClock.measured_skew_s", None)
    return world.diagnostics()


# The triggers and rights of a database, whose tests change them by hand.
PROTECTION = (
    "all that guard the history are there, enabled and unchanged",
    "triggers that guard what was recorded are not as they must be: {}",
    "find out who changed them, and what was written since; a new database has them as they must be",
    "those of bindings and exports let changes pass until {}",
    "set account.maintenance_until to NULL when the work is done",
    "not compared: the schema is at {}, and this version knows the {} of {}",
    "SQLite has no roles: the mode of the file decides",
    "this process uses {}, which may change the tables and disable the triggers",
    "use a role with the rights of `bindings db grants` for the service, and this one to administer it",
    "{} has the rights that the service needs, and no others",
    "the rights of {} are not those of this version; {}",
    "more than it needs",
    " and {} more",
    "run the SQL of `bindings db grants` as the owner of the tables",
    "new events would get positions that are recorded already, as after a move that copied only rows",
    "run `bindings db moved` as the owner of the tables",
    "unique indexes or constraints are missing or not valid: {}",
    "create them as in a new database, once no rows violate them; a restore may have ended with errors",
    "indexes are missing or not valid, so some queries read whole tables: {}",
    "create them as in a new database, on PostgreSQL with CONCURRENTLY",
    "the partition of the table events for new events is missing or detached, so nothing can be recorded",
    "attach it again: ALTER TABLE events ATTACH PARTITION ... FOR VALUES FROM ({}) TO ({})",
    "every index and constraint is there and valid",
    "row-level security may hide rows from {}, so that a conflict is not seen, and refuse new ones: {}",
    "turn it off for each table (DISABLE ROW LEVEL SECURITY), or give the role BYPASSRLS",
)
PERSONAL_DATA = (
    "nothing is ever deleted: BINDINGS_RETENTION_DAYS is not set",
    "what has ended is deleted after {} days",
    "the limit of {} days was not applied in the last two days",
    "run `bindings retention` daily, on PostgreSQL as the owner of the tables, or let a scheduler do it",
    "there is no journal of erasures",
    "every erasure of the journal is carried out",
    "the journal has {} erasure(s) that this database has not carried out",
    "run `bindings erase --replay` as the owner of the tables: a restore may have brought people back",
)
# The steps of an encryption, in the order of its test.
PHONES = (
    "phones are stored in digits",
    "phones are encrypted with {}",
    ", and rows from before are not all converted yet",
    " ({} left, as last counted)",
    "; processes that lack the keys: {}",
    "restart them with the keys of this process; one that has stopped counts for three minutes",
    "set {} for every process: `bindings phones new-keys FILE` makes the keys",
    "restart the processes that lack the keys: {}",
    "give each process these keys: without them none starts",
    "run `bindings phones seal`",
    "run `bindings phones seal`: it goes on with what is left to convert",
    "run `bindings phones rotate`: the keys have a newer one than the phones",
    "remove from the keys what no row needs: {}",
)
# The seals, which need a key and a run of their job.
SEALS = (
    "the oldest event after seal {} has not been sealed for {}",
    "check that a process with BINDINGS_SEAL_KEY_FILE runs, and that no transaction stays open",
    "seal {} ends after the newest event: it is forged, and nothing is sealed after it",
    "run `bindings audit verify`, and see who can write to the database",
    "the last head is not anchored: {}",
    "check BINDINGS_ANCHOR_COMMAND; each run of the job `seal` tries again",
    "seal {} is {} old, and no older event waits",
)
# The other tests that hold a sentence, by file.
ELSEWHERE = {
    **dict.fromkeys(PHONES, "tests/service/test_phone_sealing.py"),
    **dict.fromkeys(SEALS, "tests/sealing/test_seal_check.py"),
    **dict.fromkeys(PROTECTION, "tests/store/test_protection.py"),
    "the modes of the database's files, which have phones and secrets, allow other users: {}": (
        "tests/store/test_file_modes.py"
    ),
    "run `chmod 600 {}`": "tests/store/test_file_modes.py",
    **dict.fromkeys(PERSONAL_DATA, "tests/service/test_erasure.py"),
    "{}; permission is denied for schema {}": "tests/cli/test_doctor.py",
    "is stopping": "tests/web/test_ops.py",
    "no job is stalled": "tests/web/test_ops.py",
    "stalled: {}": "tests/web/test_ops.py",
    "the log names the cause if a run has failed; the watchdog starts the job again": "tests/web/test_ops.py",
}


@pytest.fixture
def world(harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch) -> World:
    ignore_durability(monkeypatch)
    return World(harness, monkeypatch)


@pytest.mark.parametrize("name", CONDITIONS)
def test_check_has_exactly_the_sentences_of_its_condition(world: World, name: str, database_kind: str) -> None:
    make, rows = CONDITIONS[name]
    made = make(world)
    checks = {check.name: check for check in (world.checks() if made is None else made)}
    not_shown = {RESTART} if database_kind == "postgresql" else set()  # its clock is another one than the host's
    for check_name, (level, sentences) in rows.items():
        check = checks[check_name]
        assert (check.level, sentences_in(check)) == (level, sentences - not_shown), check


def test_table_has_every_sentence_of_the_code() -> None:
    in_table = {
        sentence for _, rows in CONDITIONS.values() for _, sentences in rows.values() for sentence in sentences
    }
    assert in_table | set(ELSEWHERE) == sentences_of_the_code()
    for sentence, file in ELSEWHERE.items():
        text = " ".join((ROOT.parent / file).read_text().split())
        assert max(sentence.split("{}"), key=len).strip(" ;") in text, sentence
