"""A database restored from a backup lacks what was bound since; the provider still has it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import make_url

from bindings import failpoints
from bindings.domain.binding import State
from bindings.errors import Busy, InvalidRequest, OutcomeUnknown, PhoneInUse, PhoneInUseAtProvider
from bindings.jobs import phone_sealing, scan_evidence
from bindings.store.schema import replicas
from tests.faults import oracle
from tests.faults.test_kill import DATABASES
from tests.service.phone_keys import write_ring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bindings.domain.binding import Binding
    from bindings.service import BindingService
    from tests.faults.harness import Experiment, FaultHarness

pytestmark = pytest.mark.processes

A, B, C, D = "9188067701", "9188067799", "9188067702", "9188067703"
E, F, G, H = "9188067704", "9188067705", "9188067706", "9188067707"
DAY_S = 86_400


def bind(service: BindingService, phone_a: str, phone_b: str, tag: str, *, key: str | None = None) -> Binding:
    return service.bind(
        phone_a=phone_a, phone_b=phone_b, pool_number=tag, expire_s=DAY_S, mode="AXB", idempotency_key=key
    )


def back_up(fault_harness: FaultHarness, experiment: Experiment) -> Callable[[], None]:
    """Copy the database; return a function that replaces the database by the copy.

    On PostgreSQL both close every connection.
    """
    if not experiment.postgres:
        file = experiment.folder / "bindings.db"
        copy = experiment.folder / "backup.db"
        with closing(sqlite3.connect(file)) as live, closing(sqlite3.connect(copy)) as backup:
            live.backup(backup)

        def restore_file() -> None:
            with closing(sqlite3.connect(copy)) as backup, closing(sqlite3.connect(file)) as live:
                backup.backup(live)

        return restore_file
    name = str(make_url(experiment.url).database)
    cut_off(experiment.url)
    copied = str(make_url(fault_harness.create(template=name)).database)

    def restore_server() -> None:
        fault_harness.on_server("DROP DATABASE {} WITH (FORCE)", name)
        fault_harness.on_server("CREATE DATABASE {} TEMPLATE {}", name, copied)
        with psycopg.connect(
            experiment.url, autocommit=True
        ) as connection:  # a template's settings are not copied
            connection.execute(
                sql.SQL("ALTER DATABASE {} SET search_path = faults, pg_catalog, public").format(
                    sql.Identifier(name)
                )
            )

    return restore_server


def cut_off(url: str) -> None:
    """End every other connection to a PostgreSQL database, and wait for the end."""
    other_connections = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(f"SELECT count(pg_terminate_backend(pid)) {other_connections}").fetchone() != (
            0,
        ):
            pass


def after_a_restore(fault_harness: FaultHarness, experiment: Experiment) -> tuple[Binding, Binding, Binding]:
    """Bind a witness, one that is unbound after the backup, and one after the backup; then restore."""
    with experiment.service() as service:
        witness, unbound = bind(service, A, B, "91"), bind(service, C, D, "92")
    restore = back_up(fault_harness, experiment)
    with experiment.service() as service:
        bound_since = bind(service, E, F, "93", key="after")
        service.unbind(unbound.id)
    restore()
    return witness, unbound, bound_since


@pytest.mark.parametrize("kind", DATABASES)
def test_binds_after_a_restore_wait_until_the_provider_list_has_been_read(
    fault_harness: FaultHarness, kind: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        after_a_restore(fault_harness, experiment)
        with experiment.service() as operator:
            operator.mark_restored()
        with experiment.service() as service:
            with pytest.raises(Busy):
                bind(service, E, F, "94")
            experiment.simulator.script("bad_gateway", rate=1.0, on="page")
            service.reconcile()
            with pytest.raises(Busy):
                bind(service, E, F, "95")
            experiment.simulator.clear_faults()
            service.reconcile()
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, F, "96")
            with pytest.raises(PhoneInUse):
                bind(service, E, F, "93", key="after")
            assert bind(service, G, H, "97").state is State.ACTIVE
        decided = experiment.simulator.counts.decided["bind"]
        assert decided == {"0": 4}, "no bind got a -35"


@pytest.mark.parametrize("kind", DATABASES)
def test_reconcile_after_a_restore_finds_later_binds_and_unbinds(
    fault_harness: FaultHarness, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_evidence, "LIST_LAG", timedelta(0))  # the test's bindings are seconds old
    with fault_harness.experiment(kind) as experiment:
        witness, unbound, bound_since = after_a_restore(fault_harness, experiment)
        with experiment.service() as service:
            assert service.get(unbound.id).state is State.ACTIVE, "active again in the restored database"
            service.mark_restored()
            counts = service.reconcile()
            assert (counts.orphans, counts.ghosts) == (1, 1)
            assert (service.get(unbound.id).state, service.get(unbound.id).reason) == (
                State.UNBOUND,
                "gone_at_provider",
            )
            assert service.get(witness.id).state is State.ACTIVE
            holders = service.check(phone_a=E, phone_b=F, mode="AXB")
            assert {holder.why for holder in holders} == {"orphan"}
            assert all(holder.held_until >= (bound_since.expires_at or holder.held_until) for holder in holders)


@pytest.mark.parametrize("kind", DATABASES)
def test_bind_after_an_unannounced_restore_can_be_refused_and_holds_the_phones(
    fault_harness: FaultHarness, kind: str
) -> None:
    """The known limit: without `mark_restored` the first bind of such a phone is sent and refused, no worse."""
    with fault_harness.experiment(kind) as experiment:
        after_a_restore(fault_harness, experiment)
        with experiment.service() as service:
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, G, "94")
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, H, "95")
        assert experiment.simulator.counts.decided["bind"] == {"0": 3, "-35": 1}
        assert experiment.simulator.ledger.overlaps() == ()


@pytest.mark.parametrize("kind", DATABASES)
def test_running_process_detects_a_database_rollback_and_binds_wait_for_a_scan(
    fault_harness: FaultHarness, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The restore was not announced: the process knows a binding that the database has lost."""
    with (
        fault_harness.experiment(kind) as experiment,
        experiment.service() as service,
        experiment.service() as other,
    ):
        bind(service, A, B, "91")
        restore = back_up(fault_harness, experiment)
        bind(other, E, F, "92")
        bind(service, G, H, "93")
        restore()
        with pytest.raises(Busy):
            bind(service, E, H, "94")
        assert "it was restored to an earlier state" in caplog.text
        assert service.reconcile().made_good
        with pytest.raises(PhoneInUseAtProvider):
            bind(service, E, H, "96")
        assert bind(other, C, D, "97").state is State.ACTIVE, "that scan has covered what this process knows"
        assert experiment.simulator.counts.decided["bind"] == {"0": 4}


@pytest.mark.parametrize("kind", DATABASES)
def test_late_success_whose_intent_was_lost_in_a_rollback_is_held_and_unbound(
    fault_harness: FaultHarness, kind: str
) -> None:
    with fault_harness.experiment(kind) as experiment, experiment.service() as service:
        bind(service, A, B, "91")
        restore = back_up(fault_harness, experiment)

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
        assert [
            entry.phone_a for entry in experiment.simulator.ledger if entry.live(experiment.simulator.now())
        ] == [A]
        assert bind(service, C, D, "94").state is State.ACTIVE
        assert experiment.simulator.counts.decided["bind"] == {"0": 3}


@pytest.mark.parametrize("kind", DATABASES)
def test_full_scan_after_a_restore_reads_the_list_of_every_application_ever_used(
    fault_harness: FaultHarness, kind: str
) -> None:
    with fault_harness.experiment(kind) as experiment:
        with experiment.service(provider_app_id="other") as service:
            service.unbind(bind(service, A, B, "91").id)  # it has no open binding at the time of the backup
        restore = back_up(fault_harness, experiment)
        with experiment.service(provider_app_id="other") as service:
            bind(service, C, D, "92")
        restore()
        with experiment.service() as service:
            service.mark_restored()
            service.reconcile()
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, C, E, "93")
        assert "-35" not in experiment.simulator.counts.decided["bind"]


@pytest.mark.parametrize("kind", DATABASES)
def test_orphans_after_a_restore_are_held_even_if_the_setting_is_observe(
    fault_harness: FaultHarness, kind: str
) -> None:
    with fault_harness.experiment(kind, on_orphan="observe") as experiment:
        after_a_restore(fault_harness, experiment)
        with experiment.service() as service:
            service.mark_restored()
            service.reconcile()
            with pytest.raises(PhoneInUseAtProvider):
                bind(service, E, F, "94")
        assert "-35" not in experiment.simulator.counts.decided["bind"]


@pytest.mark.parametrize("kind", DATABASES)
def test_full_scan_can_be_waived_if_no_list_can_be_read(fault_harness: FaultHarness, kind: str) -> None:
    with fault_harness.experiment(kind) as experiment, experiment.service() as service:
        experiment.simulator.script("bad_gateway", rate=1.0, on="page")
        service.mark_restored()
        service.reconcile()
        with pytest.raises(Busy):
            bind(service, A, B, "91")
        service.mark_restored(waive=True)
        assert bind(service, A, B, "92").state is State.ACTIVE


def test_backup_of_an_encrypted_database_is_refused_without_the_keys_of_its_time(
    fault_harness: FaultHarness, tmp_path: Path
) -> None:
    """The backup is from before a rotation; the keys that were removed after it are needed again."""
    first, both = write_ring(tmp_path / "1"), write_ring(tmp_path / "2", data=(1, 2))
    newest, others = write_ring(tmp_path / "3", data=(2,)), write_ring(tmp_path / "4", variant="other")
    with fault_harness.experiment("sqlite") as experiment:
        with experiment.service(phone_keys_file=str(first)) as service:
            kept = bind(service, A, B, "91")
            phone_sealing.seal(service.runtime)
        restore = back_up(fault_harness, experiment)
        with experiment.service(phone_keys_file=str(both)) as service:
            service.runtime.database.write(lambda tx: tx.connection.execute(replicas.delete()))
            phone_sealing.rotate(service.runtime)
        with experiment.service(phone_keys_file=str(newest)) as service:
            assert bind(service, C, D, "92").state is State.ACTIVE
        restore()
        before = oracle.read_tables(experiment.url)
        for ring, message in (
            (None, r"must have the keys data:1, index:1: .*; take them from the backup of the keys"),
            (newest, r"must have the keys data:1: .*; take them from the backup of the keys"),
            (others, r"has other keys as data:1, index:1 than .*; take these from the backup of the keys"),
        ):
            settings = {} if ring is None else {"phone_keys_file": str(ring)}
            with pytest.raises(InvalidRequest, match=message), experiment.service(**settings):
                pass
        after = oracle.read_tables(experiment.url)
        assert (after["bindings"], after["events"]) == (before["bindings"], before["events"])
        with experiment.service(phone_keys_file=str(both)) as service:
            assert service.lookup(phone=A) == [kept]


def test_feed_cursor_ahead_of_a_restored_database_is_refused(fault_harness: FaultHarness) -> None:
    """It would get no events until the database had reached that position; on PostgreSQL: test_point_in_time."""
    with fault_harness.experiment("sqlite") as experiment, experiment.service() as service:
        bind(service, A, B, "91")
        restore = back_up(fault_harness, experiment)
        cursor = service.events().next_cursor
        bind(service, C, D, "92")
        cursor_ahead = service.events().next_cursor
        restore()
        with pytest.raises(InvalidRequest, match="restored"):
            service.events(after=cursor_ahead)
        assert service.events(after=cursor).data == ()
