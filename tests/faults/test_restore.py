"""A database that was restored from a backup knows nothing of what was bound since; the provider still does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from bindings import failpoints
from bindings.domain.binding import State
from bindings.errors import Busy, InvalidRequest, OutcomeUnknown, PhoneInUse, PhoneInUseAtProvider
from tests.faults.test_kill import DATABASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from tests.faults.harness import Arena, Lab

pytestmark = pytest.mark.processes

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
E, F, G, H = "9188067704", "9188067705", "9188067706", "9188067707"
DAY_S = 86_400


def bind(service: BindingService, phone_a: str, phone_b: str, tag: str, *, key: str | None = None) -> Binding:
    return service.bind(
        phone_a=phone_a, phone_b=phone_b, pool_number=tag, expire_s=DAY_S, mode="AXB", idempotency_key=key
    )


def back_up(lab: Lab, arena: Arena) -> Callable[[], None]:
    """Copy the database as it is; calling what is returned puts the copy in its place.

    Whoever is connected to PostgreSQL is cut off, both times.
    """
    if not arena.postgres:
        file = arena.folder / "bindings.db"
        copy = arena.folder / "backup.db"
        with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as backup:
            live.backup(backup)

        def restore_file() -> None:
            with closing(sqlite3.connect(copy)) as backup, closing(sqlite3.connect(file)) as live:
                backup.backup(live)

        return restore_file
    name = str(make_url(arena.url).database)
    cut_off(arena.url)
    copied = str(make_url(lab.create(template=name)).database)

    def restore_server() -> None:
        lab.on_server("DROP DATABASE {} WITH (FORCE)", name)
        lab.on_server("CREATE DATABASE {} TEMPLATE {}", name, copied)
        with psycopg.connect(arena.url, autocommit=True) as connection:  # a template's settings are not copied
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET search_path = faults, pg_catalog, public").format(
                    sql.Identifier(name)
                )
            )

    return restore_server


def cut_off(url: str) -> None:
    """End every other connection to a PostgreSQL database, and wait until they are gone."""
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(f"SELECT count(pg_terminate_backend(pid)) {others}").fetchone() != (0,):
            pass


def after_a_restore(lab: Lab, arena: Arena) -> tuple[Binding, Binding, Binding]:
    """A witness, one that is unbound after the backup, and one that is made after it; then restored."""
    with arena.service() as service:
        witness, ended = bind(service, A, B, "91"), bind(service, C, D, "92")
    restore = back_up(lab, arena)
    with arena.service() as service:
        made = bind(service, E, F, "93", key="after")
        service.unbind(ended.id)
    restore()
    return witness, ended, made


@pytest.mark.parametrize("kind", DATABASES)
def test_after_a_restore_binds_wait_until_the_providers_list_has_been_read(lab: Lab, kind: str) -> None:
    with lab.arena(kind) as arena:
        after_a_restore(lab, arena)
        with arena.service() as operator:
            operator.mark_restored()
        with arena.service() as service:
            with pytest.raises(Busy):
                bind(service, E, F, "94")
            arena.simulator.script("bad_gateway", rate=1.0, on="page")
            service.reconcile()
            with pytest.raises(Busy):
                bind(service, E, F, "95")
            arena.simulator.clear_faults()
            service.reconcile()
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, F, "96")
            with pytest.raises(PhoneInUse):
                bind(service, E, F, "93", key="after")
            assert bind(service, G, H, "97").state is State.ACTIVE
        decided = arena.simulator.counts.decided["bind"]
        assert decided == {"0": 4}, "no bind met a -35"


@pytest.mark.parametrize("kind", DATABASES)
def test_after_a_restore_one_reconcile_finds_what_was_bound_and_what_was_unbound_since(
    lab: Lab, kind: str
) -> None:
    with lab.arena(kind) as arena:
        witness, ended, made = after_a_restore(lab, arena)
        with arena.service() as service:
            assert service.get(ended.id).state is State.ACTIVE, "restored to life here"
            service.mark_restored()
            counts = service.reconcile()
            assert (counts.orphans, counts.ghosts) == (1, 1)
            assert (service.get(ended.id).state, service.get(ended.id).reason) == (
                State.UNBOUND,
                "gone_at_provider",
            )
            assert service.get(witness.id).state is State.ACTIVE
            held = service.check(phone_a=E, phone_b=F, mode="AXB")
            assert {holder.why for holder in held} == {"orphan"}
            assert all(holder.held_until >= (made.expires_at or holder.held_until) for holder in held)


@pytest.mark.parametrize("kind", DATABASES)
def test_a_restore_that_nobody_told_of_can_meet_a_refusal_which_holds_the_phones(lab: Lab, kind: str) -> None:
    """The known limit: without `restored()` the first bind of such a phone is sent, refused, and nothing worse."""
    with lab.arena(kind) as arena:
        after_a_restore(lab, arena)
        with arena.service() as service:
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, G, "94")
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, H, "95")
        assert arena.simulator.counts.decided["bind"] == {"0": 3, "-35": 1}
        assert arena.simulator.ledger.overlaps() == ()


@pytest.mark.parametrize("kind", DATABASES)
def test_a_process_that_ran_on_notices_an_older_database_and_binds_wait_for_a_scan(
    lab: Lab, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody said anything: the process knows a binding that the database has lost."""
    with lab.arena(kind) as arena, arena.service() as service, arena.service() as other:
        bind(service, A, B, "91")
        restore = back_up(lab, arena)
        bind(other, E, F, "92")
        bind(service, G, H, "93")
        restore()
        with pytest.raises(Busy):
            bind(service, E, H, "94")
        assert "older one is in its place" in caplog.text
        assert service.reconcile().made_good
        with pytest.raises(PhoneInUseAtProvider):
            bind(service, E, H, "96")
        assert bind(other, C, D, "97").state is State.ACTIVE, "what it remembers was made good by that scan"
        assert arena.simulator.counts.decided["bind"] == {"0": 4}


@pytest.mark.parametrize("kind", DATABASES)
def test_a_yes_whose_intent_was_lost_with_the_database_is_held_and_unbound(lab: Lab, kind: str) -> None:
    with lab.arena(kind) as arena, arena.service() as service:
        bind(service, A, B, "91")
        restore = back_up(lab, arena)

        def replace_the_database(point: str) -> None:
            if point == "bind.after_answer":
                restore()

        failpoints.install(replace_the_database)
        try:
            with pytest.raises(OutcomeUnknown):
                bind(service, C, D, "92")
        finally:
            failpoints.install(None)
        assert {holder.why for holder in service.check(phone_a=C, phone_b=D, mode="AXB")} == {"late_success"}
        with pytest.raises(Busy):
            bind(service, E, F, "93")
        service.reconcile()
        assert [entry.phone_a for entry in arena.simulator.ledger if entry.live(arena.simulator.now())] == [A]
        assert bind(service, C, D, "94").state is State.ACTIVE
        assert arena.simulator.counts.decided["bind"] == {"0": 3}


@pytest.mark.parametrize("kind", DATABASES)
def test_the_scan_after_a_restore_reads_the_list_of_every_application_that_was_ever_in_use(
    lab: Lab, kind: str
) -> None:
    with lab.arena(kind) as arena:
        with arena.service(provider_app_id="other") as service:
            service.unbind(bind(service, A, B, "91").id)  # nothing of it is open when the backup is taken
        restore = back_up(lab, arena)
        with arena.service(provider_app_id="other") as service:
            bind(service, C, D, "92")
        restore()
        with arena.service() as service:
            service.mark_restored()
            service.reconcile()
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, C, E, "93")
        assert "-35" not in arena.simulator.counts.decided["bind"]


@pytest.mark.parametrize("kind", DATABASES)
def test_after_a_restore_orphans_are_held_also_where_they_are_only_to_be_observed(lab: Lab, kind: str) -> None:
    with lab.arena(kind, on_orphan="observe") as arena:
        after_a_restore(lab, arena)
        with arena.service() as service:
            service.mark_restored()
            service.reconcile()
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, F, "94")
        assert "-35" not in arena.simulator.counts.decided["bind"]


@pytest.mark.parametrize("kind", DATABASES)
def test_where_no_list_can_be_read_the_scan_can_be_waived(lab: Lab, kind: str) -> None:
    with lab.arena(kind) as arena, arena.service() as service:
        arena.simulator.script("bad_gateway", rate=1.0, on="page")
        service.mark_restored()
        service.reconcile()
        with pytest.raises(Busy):
            bind(service, A, B, "91")
        service.mark_restored(waive=True)
        assert bind(service, A, B, "92").state is State.ACTIVE


def test_a_reader_of_the_feed_who_is_ahead_of_a_restored_database_is_told(lab: Lab) -> None:
    """It would be given nothing until the database had counted that far. On PostgreSQL: test_point_in_time.py."""
    with lab.arena("sqlite") as arena, arena.service() as service:
        bind(service, A, B, "91")
        restore = back_up(lab, arena)
        kept = service.events().next_cursor
        bind(service, C, D, "92")
        ahead = service.events().next_cursor
        restore()
        with pytest.raises(InvalidRequest, match="restored"):
            service.events(after=ahead)
        assert service.events(after=kept).data == ()
