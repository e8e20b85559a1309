"""A database that was restored from a backup knows nothing of what was bound since; the provider still does."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from bindings.binding import State
from bindings.errors import Busy, PhoneInUse, PhoneInUseAtProvider
from tests.faults.test_kill import DATABASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.binding import Binding
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
    """Copy the database as it is; calling what is returned puts the copy in its place. Nobody may be connected."""
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
            operator.restored()
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
            service.restored()
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
