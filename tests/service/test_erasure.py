"""Erasure of a person: what goes, what stays, who may do it, and what happens after a crash or a restore."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select, text, update

from bindings import errors, failpoints
from bindings.access.erasure_journal import ErasureJournal, JournalEntry
from bindings.domain.binding import EventKind, State
from bindings.domain.phone import Phone
from bindings.domain.serialization import to_plain
from bindings.monitoring import health
from bindings.monitoring.check import Level
from bindings.store import erasure as rows
from bindings.store import holds as hold_rows
from bindings.store.account import register_scope
from bindings.store.schema import bindings, metadata, searches
from bindings.store.schema import events as events_table
from bindings.store.sessions import Search
from bindings.webhooks.messages import body_of
from tests.service.harness import POOL, A, B, C, D, E, ServiceHarness, assert_sound, feed_has_caught_up, in_threads
from tests.service.phone_keys import PLAIN, SEALED
from tests.web.seed_states import DiedError, dies_at

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from bindings.access.erasure import ErasureResult
    from bindings.domain.binding import Binding
    from bindings.monitoring.check import Check
    from bindings.service import BindingService
    from bindings.store.database import Transaction

REFERENCE = "taxi of Ann Smith"
REASON = "Ann Smith called from Elm Street"
KEY = "ann-smith-1"
REQUEST = "request-of-ann"
WORDS = (A, REFERENCE, REASON, KEY, REQUEST)
CHANGED = (
    *("phone_a", "phone_a_sealed", "reference", "idempotency_key", "fingerprint", "request_id", "facts_salt"),
    *("version", "change_tx"),
)
POINTS = tuple(name for name in failpoints.NAMES if name.startswith("erase."))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "erasures.jsonl"


@pytest.fixture
def eraser(harness: ServiceHarness, journal: Path) -> BindingService:
    """Return a service with a journal, on a database that was opened before."""
    register_scope(harness.database, harness.service.settings.scope)
    return harness.open(erasure_journal=str(journal))


def erase(service: BindingService, phone: str = A, **options: Any) -> ErasureResult:
    return service.erasure.erase(phone=phone, reason="request 17", ticket="T-17", **options)


def ended(harness: ServiceHarness, phone_a: str = A, phone_b: str = B, **values: Any) -> Binding:
    """Make a binding with everything that may name a person, end it, and let its phones be free."""
    caller = harness.service.as_caller(actor="key:taxi", request_id=REQUEST)
    values = {"reference": REFERENCE, "idempotency_key": KEY} | values
    bound = caller.bind(phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=60, mode="AXB", **values)
    harness.service.reveal([bound.id], reason=REASON)
    harness.clock.advance(10)
    harness.service.unbind(bound.id, reason=REASON)
    return harness.service.get(bound.id)


def rows_of_all_tables(harness: ServiceHarness) -> str:
    """Return every value of every table as text."""

    def read(connection: Connection) -> list[str]:
        statements = (text(f"SELECT * FROM {table.name}") for table in metadata.sorted_tables)
        return [str(tuple(row)) for statement in statements for row in connection.execute(statement)]

    return "\n".join(harness.database.read(read))


def dump(harness: ServiceHarness) -> str:
    """Return the dump of pg_dump, or the SQLite file after VACUUM."""
    if harness.database.postgres:
        return subprocess.run(
            ["pg_dump", "--data-only", "--dbname", harness.url], check=True, capture_output=True, text=True
        ).stdout
    path = Path(harness.url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("VACUUM")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path.read_bytes().decode("latin-1")


def everything(harness: ServiceHarness) -> str:
    return rows_of_all_tables(harness) + dump(harness)


def test_erased_person_is_in_no_row_no_query_and_no_message(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    first, other_side = ended(harness), ended(harness, C, A, idempotency_key="ann-smith-1/2")
    harness.bind(C, D, reference="order-2")
    with pytest.raises(errors.PhoneInUse):
        harness.service.as_caller(request_id=REQUEST).bind(
            phone_a=A, phone_b=C, pool_number=POOL, expire_s=60, mode="AXB", reference=REFERENCE
        )
    put_search(harness)
    assert all(word in everything(harness) for word in WORDS[1:4])

    result = erase(eraser)

    assert (result.bindings, result.refusals, result.searches, result.old_events) == (2, 1, 1, 0)
    assert result.texts == 4
    stored = everything(harness)
    for word in WORDS[:4]:
        assert word not in stored, word
    service = harness.service
    for binding, phone, other in ((first, "phone_a", "phone_b"), (other_side, "phone_b", "phone_a")):
        row = service.get(binding.id)
        assert getattr(row, phone).is_erased
        assert getattr(row, other) == getattr(binding, other), "the other party stays"
        assert (row.reference, row.idempotency_key, row.request_id) == (None, None, None)
        assert (row.state, row.middle_number_a, row.ended_at) == (
            State.UNBOUND,
            binding.middle_number_a,
            binding.ended_at,
        )
        erased = service.history(binding.id)[-1]
        assert (erased.kind, erased.request_id) == (EventKind.ERASED, result.id)
        assert erased.detail == {"side": phone[-1], "ticket": "T-17"}
    assert service.search(phone=A).data == ()
    assert service.search(reference=REFERENCE).data == ()
    assert service.search(idempotency_key=KEY).data == ()
    assert service.search_refusals(phone=A).data == ()
    assert service.lookup(phone=A) == []
    investigation = service.investigation
    assert investigation.number_history(Phone(A)).data == ()
    assert not investigation.find_by_name(REFERENCE)
    number, at = str(first.middle_number_a), first.requested_at + timedelta(seconds=5)
    assert [holder.id for holder in service.trace(middle_number=number, at=at, party=B).holders] == [first.id]
    assert service.trace(middle_number=number, at=at, party=A).holders == ()
    feed_has_caught_up(service)
    shown = [to_plain(row, revealed=True) for row in (*service.export_bindings(), *service.export_events())]
    messages = [body_of(event).decode() for event in service.events(limit=200).data]
    for word in WORDS[:4]:
        assert word not in json.dumps(shown) + "".join(messages), word
    assert {row["phone_a"] for row in shown if row.get("id") == first.id} == {"erased"}
    assert_sound(service)


@pytest.mark.parametrize("phones", [PLAIN, SEALED])
def test_columns_by_which_an_erased_person_could_be_recognized_are_empty(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    """Also the encrypted phone, the salt, with which a hash proves a guessed phone, and keys of a failed bind."""
    ended(harness)
    other = harness.service.as_caller(actor="key:other", request_id=REQUEST)
    values: dict[str, Any] = {"pool_number": POOL, "expire_s": 60, "mode": "AXB", "reference": REFERENCE}
    of_other = other.bind(phone_a=A, phone_b=C, idempotency_key=KEY, **values)  # in `duplicate_key`
    other.unbind(of_other.id)
    harness.simulator.script("refuse:-22", times=1, on="bind")
    with pytest.raises(errors.ProviderRefused):
        other.bind(phone_a=A, phone_b=D, idempotency_key="freed", **values)
    names = ("idempotency_key", "duplicate_key", "freed_key")
    assert {name for row in stored_rows(harness) for name in names if row[name] is not None} == set(names)

    assert erase(eraser).bindings == 3

    for row in stored_rows(harness):
        assert {name: row[name] for name in PERSONAL if row[name] is not None} == {}
    assert {binding.phone_b for binding in harness.service.export_bindings()} == {B, C, D}


PERSONAL = (
    *("phone_a_sealed", "fingerprint", "reference", "request_id", "facts_salt"),
    *("idempotency_key", "duplicate_key", "freed_key"),
)


def stored_rows(harness: ServiceHarness) -> list[dict[str, Any]]:
    statement = text(f"SELECT {', '.join(PERSONAL)} FROM bindings")
    return harness.database.read(lambda connection: [dict(row._mapping) for row in connection.execute(statement)])


def take_exports(harness: ServiceHarness, binding: Binding) -> list[str]:
    """Take exports and record reveals, one of which is about another person; return the ids of the exports."""
    log, other = harness.service.access_log, f"{POOL} of ann-smith-12"
    exports: list[tuple[dict[str, Any], str | None]] = [
        ({"reference": REFERENCE, "to": None}, None),
        ({"number": str(Phone(A))}, "drill"),
        ({"binding_id": binding.id}, f"asked for by {REFERENCE}."),
        ({"from": None, "to": None}, f"complaint of +{A}"),
        ({"reference": "order-2"}, other),
    ]
    ids = [log.start_export(view="find", filters=item, format="csv", reason=why) for item, why in exports]
    log.finish_export(ids[0], row_count=1, sha256="ab")
    log.record_reveal_of_period(since=None, until=None, reason="audit", filters={"reference": REFERENCE})
    log.record_reveal_of_period(since=None, until=None, reason=other, filters={"reference": "order-2"})
    log.record_reveal([], reason=f"call of {A}", subject="blind index of a phone")
    return ids


def test_filters_and_reasons_of_exports_that_name_the_person_are_erased(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    binding = ended(harness)
    ids = take_exports(harness, binding)
    log, investigation = harness.service.access_log, harness.service.investigation
    assert log.get_export(ids[0]).filter == {"reference": REFERENCE, "to": None}
    events = [event for event in harness.service.export_events() if event.kind == EventKind.EXPORTED]
    assert events[1].detail["filter"] == {"number": str(Phone(A))}
    reveals = [event.detail.get("filters") for event in investigation.reveals_of([binding])]
    assert {"reference": REFERENCE} in reveals
    assert {"reference": "order-2"} not in reveals
    assert eraser.erasure.erase(phone=A, reason=REASON, dry_run=True).texts == erase(eraser).texts > 8
    stored = everything(harness)
    for word in (A, REFERENCE, "complaint"):
        assert word not in stored, word
    exports = [log.get_export(export_id) for export_id in ids]
    assert [export.filter for export in exports] == [*[{"deleted": True}] * 4, {"reference": "order-2"}]
    assert [export.reason for export in exports[:4]] == [None, "deleted", "deleted", "deleted"]
    assert exports[4].reason == f"{POOL} of ann-smith-12"
    shown = [entry for entry in log.entries().data if entry.kind in ("export_in_full", "export_masked")]
    assert len(shown) == 5
    details = [event.detail for event in harness.service.export_events() if event.kind == EventKind.REVEALED][1:]
    assert [detail.get("filters") for detail in details] == [{"deleted": True}, {"reference": "order-2"}, None]
    assert [detail["reason"] for detail in details] == ["deleted", f"{POOL} of ann-smith-12", "deleted"]
    reveals = [
        event.detail.get("filters") for event in investigation.reveals_of([harness.service.get(binding.id)])
    ]
    assert {"deleted": True} in reveals, "the binding may have been in that export"


def put_search(harness: ServiceHarness) -> None:
    values = {"id": "s1", "owner": "o", "words": REFERENCE, "expires_at": harness.clock() + timedelta(hours=1)}
    harness.database.write(lambda tx: tx.connection.execute(searches.insert().values(values)))


def test_rows_of_one_person_no_longer_belong_together(harness: ServiceHarness, eraser: BindingService) -> None:
    first, second = ended(harness), ended(harness, idempotency_key=None)
    erase(eraser)
    phones = [harness.service.get(binding.id).phone_a for binding in (first, second)]
    assert phones[0] != phones[1]
    assert phones[0] not in (A, "erased")
    assert [str(phone) for phone in phones] == ["erased", "erased"]
    assert [phone.digits for phone in phones] == ["erased", "erased"]


def test_erased_phone_is_accepted_by_no_call(harness: ServiceHarness, eraser: BindingService) -> None:
    binding = ended(harness)
    erase(eraser)
    phone = harness.service.get(binding.id).phone_a
    for call in (
        lambda: harness.service.lookup(phone=phone),
        lambda: harness.service.search(phone=phone),
        lambda: harness.bind(phone, C),  # type: ignore[arg-type]
        lambda: erase(eraser, phone),  # type: ignore[arg-type]
    ):
        with pytest.raises(errors.InvalidRequest, match="was erased"):
            call()


def test_erased_binding_cannot_be_replaced(harness: ServiceHarness, eraser: BindingService) -> None:
    binding = harness.bind(expire_s=60)
    harness.clock.advance(1_000)
    harness.service.expire_due()
    assert harness.service.get(binding.id).is_replaceable
    erase(eraser)
    with pytest.raises(errors.NotActive):
        harness.service.replace(binding.id, phone_a=C, phone_b=D)


def test_other_party_can_be_erased_later(harness: ServiceHarness, eraser: BindingService) -> None:
    binding = ended(harness)
    erase(eraser)
    assert erase(eraser, B).bindings == 1
    row = harness.service.get(binding.id)
    assert (row.phone_a.is_erased, row.phone_b.is_erased) == (True, True)
    assert [event.detail["side"] for event in harness.service.history(binding.id)[-2:]] == ["a", "b"]


def test_key_of_an_erased_binding_may_be_used_again(harness: ServiceHarness, eraser: BindingService) -> None:
    first = ended(harness)
    erase(eraser)
    second = harness.service.as_caller(actor="key:taxi").bind(
        phone_a=C, phone_b=D, pool_number=POOL, expire_s=60, mode="AXB", idempotency_key=KEY
    )
    assert second.id != first.id


def open_binding(harness: ServiceHarness) -> str:
    return harness.bind().id


def doubt(harness: ServiceHarness) -> str:
    harness.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind()
    return unknown.value.binding.id


def held_after_its_end(harness: ServiceHarness) -> str:
    binding = harness.bind(expire_s=60)
    harness.clock.advance(61)
    harness.service.expire_due()
    return binding.id


def hold(harness: ServiceHarness) -> str:
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id="4luaKsL2")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind()
    return "1 hold"


@pytest.mark.parametrize("make", [open_binding, doubt, held_after_its_end, hold])
def test_erasure_is_refused_while_the_phone_is_in_use_and_says_by_what(
    harness: ServiceHarness, eraser: BindingService, journal: Path, make: Any
) -> None:
    ended(harness, A, D, idempotency_key=None)
    name = make(harness)
    before = rows_of_all_tables(harness)
    for dry_run in (False, True):
        with pytest.raises(errors.PhoneInUse, match=name) as refused:
            erase(eraser, dry_run=dry_run)
        assert (refused.value.retry_after_s or 0) >= 1
    assert rows_of_all_tables(harness) == before
    assert ErasureJournal(str(journal)).entries() == []


def test_dry_run_counts_and_changes_nothing(
    harness: ServiceHarness, eraser: BindingService, journal: Path
) -> None:
    ended(harness)
    before = rows_of_all_tables(harness)
    preview = erase(eraser, dry_run=True)
    assert (rows_of_all_tables(harness), journal.exists()) == (before, False)
    result = erase(eraser)
    assert (preview.bindings, preview.texts) == (result.bindings, result.texts) == (1, 2)


def test_repeated_erasure_finds_nothing(harness: ServiceHarness, eraser: BindingService) -> None:
    ended(harness)
    assert erase(eraser).bindings == 1
    again = erase(eraser)
    assert (again.bindings, again.texts, again.refusals, again.holds) == (0, 0, 0, 0)


def test_erasure_without_a_journal_is_refused_by_name(harness: ServiceHarness) -> None:
    ended(harness)
    with pytest.raises(errors.InvalidRequest, match="BINDINGS_ERASURE_JOURNAL"):
        erase(harness.service)


def test_more_bindings_than_a_batch_are_erased(
    harness: ServiceHarness, eraser: BindingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bindings.access.erasure.BATCH", 2)
    made = [ended(harness, idempotency_key=None) for _ in range(3)]
    made += [ended(harness, C, A, idempotency_key=None) for _ in range(2)]
    progress: list[int] = []
    assert erase(eraser, on_progress=progress.append).bindings == 5
    assert progress[:3] == [2, 4, 5]
    assert harness.service.search(phone=A).data == ()
    assert all(harness.kinds(binding)[-1] == EventKind.ERASED for binding in made)


def test_more_refused_binds_than_a_batch_are_deleted(
    harness: ServiceHarness, eraser: BindingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bindings.access.erasure.BATCH", 2)
    bound = harness.bind(A, B)
    for phone in (C, D, E):
        with pytest.raises(errors.PhoneInUse):
            harness.bind(A, phone)
    harness.service.unbind(bound.id)
    assert (erase(eraser).refusals, harness.service.search_refusals(phone=A).data) == (3, ())


def test_searches_for_the_phone_are_deleted_also_as_that_of_the_other_party(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    save = harness.service.sessions.save_search
    save("browser", Search(number=Phone(A)))
    save("browser", Search(number=Phone(B), party=Phone(A)))
    other = save("browser", Search(number=Phone(B), party=Phone(C)))
    assert erase(eraser).searches == 2
    assert harness.database.read(lambda connection: connection.execute(select(searches.c.id)).scalars().all()) == [
        other
    ]


@pytest.mark.parametrize("point", POINTS)
def test_erasure_that_dies_is_completed_by_the_next_one(
    harness: ServiceHarness, eraser: BindingService, journal: Path, point: str
) -> None:
    ended(harness)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id="4luaKsL2")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, B)
    harness.clock.advance(10_000)
    hold_ids = ids_of_holds(harness)
    with dies_at(point), pytest.raises(DiedError):
        erase(eraser)
    assert_sound(harness.service)
    erase(eraser)
    named = [
        str(hold_id)
        for event in harness.service.export_events()
        if event.kind is EventKind.ERASED
        for hold_id in event.detail.get("hold_ids", ())
    ]
    assert named == sorted(hold_ids - ids_of_holds(harness)), "an event names each deleted hold"
    assert len(named) == 1
    (entry,) = ErasureJournal(str(journal)).entries()
    assert harness.database.read(rows.is_complete, entry.id)
    assert_no_words(harness)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.processes
def test_erasure_whose_process_is_killed_is_completed_by_a_replay(
    harness: ServiceHarness, eraser: BindingService, journal: Path, point: str
) -> None:
    ended(harness)
    program = f"""
import os, signal
from bindings import failpoints
from tests.service.harness import Clock, service_at
from datetime import datetime
service = service_at({harness.url!r}, Clock(datetime.fromisoformat({harness.clock().isoformat()!r})),
                     "http://127.0.0.1:1", **{harness.settings | {"erasure_journal": str(journal)}!r})
failpoints.install(lambda name: os.kill(os.getpid(), signal.SIGKILL) if name == {point!r} else None)
service.erasure.erase(phone={A!r}, reason="request 17")
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    killed = subprocess.run([sys.executable, "-c", program], env=environment, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL
    replayed = eraser.erasure.replay()
    assert (replayed.entries, replayed.complete, replayed.open) == (1, 0, 0)
    assert_no_words(harness)
    assert eraser.erasure.replay().complete == 1


def test_erasure_that_dies_before_its_end_is_not_complete_because_texts_are_erased(
    harness: ServiceHarness, eraser: BindingService, journal: Path
) -> None:
    """Texts without a binding have an event of their own, with the id of the erasure."""
    take_exports(harness, ended(harness))
    with dies_at("erase.after_batch"), pytest.raises(DiedError):
        erase(eraser)
    assert EventKind.ERASED in harness.all_kinds()
    (entry,) = ErasureJournal(str(journal)).entries()
    assert not harness.database.read(rows.is_complete, entry.id)
    assert eraser.erasure.replay().erased == 1
    assert harness.database.read(rows.is_complete, entry.id)


def ids_of_holds(harness: ServiceHarness) -> set[str]:
    query = text("SELECT id FROM holds")
    return {str(value) for value in harness.database.read(lambda connection: connection.execute(query).scalars())}


def assert_no_words(harness: ServiceHarness) -> None:
    stored = everything(harness)
    assert [word for word in WORDS[:4] if word in stored] == []


def restored(harness: ServiceHarness, binding: Binding, kept: dict[str, Any]) -> None:
    """Bring a binding back as a restore would: its row as it was, without the events of the erasure."""
    assignments = ", ".join(f"{name} = :{name}" for name in CHANGED)
    restore = text(f"UPDATE bindings SET {assignments} WHERE id = '{binding.id}'")

    def work(tx: Transaction) -> None:
        connection = tx.connection
        if harness.database.postgres:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(delete(events_table).where(events_table.c.kind == EventKind.ERASED))
            connection.execute(restore, kept)
            return
        for name in ("events_refuse_delete", "bindings_as_asked", "bindings_keep_salt", "bindings_only_forward"):
            connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(delete(events_table).where(events_table.c.kind == EventKind.ERASED))
        connection.execute(restore, kept)

    harness.database.write(work)
    harness.has_rewritten = True


def row_of(harness: ServiceHarness, binding: Binding) -> dict[str, Any]:
    """Return what an erasure changes of a row, as the database has it."""
    statement = text(f"SELECT {', '.join(CHANGED)} FROM bindings WHERE id = '{binding.id}'")
    return dict(harness.database.read(lambda connection: connection.execute(statement).one()._asdict()))


def test_replay_erases_again_what_a_restore_has_brought_back_and_leaves_what_came_later(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    binding = ended(harness)
    kept = row_of(harness, binding)
    erase(eraser)
    harness.clock.advance(100)
    later = ended(harness, idempotency_key="later")
    restored(harness, binding, kept)
    assert harness.service.get(binding.id).phone_a == A
    replayed = eraser.erasure.replay()
    assert (replayed.erased, replayed.bindings, replayed.open) == (1, 1, 0)
    assert harness.service.get(binding.id).phone_a.is_erased
    assert harness.service.get(later.id).phone_a == A, "requested after the erasure"
    assert eraser.erasure.replay().complete == 1


def test_replay_leaves_a_binding_that_the_restored_database_has_as_open(
    harness: ServiceHarness, eraser: BindingService, journal: Path
) -> None:
    binding = harness.bind(expire_s=60)
    erasures = ErasureJournal(str(journal))
    erasures.prepare()
    entry = JournalEntry(id=binding.id, at=harness.clock(), digest=erasures.digest(binding.phone_a), ticket=None)
    erasures.append(entry, {})
    assert eraser.erasure.replay().open == 1
    harness.clock.advance(1_000)
    harness.service.expire_due()
    assert (eraser.erasure.replay().erased, harness.service.search(phone=A).data) == (1, ())


def test_journal_has_no_phone_and_is_refused_with_another_key(
    harness: ServiceHarness, eraser: BindingService, journal: Path
) -> None:
    ended(harness)
    erase(eraser)
    key = Path(f"{journal}.key")
    assert [path.stat().st_mode & 0o777 for path in (journal, key)] == [0o600, 0o600]
    line = json.loads(journal.read_text().splitlines()[-1])
    assert (line["ticket"], line["counts"]["bindings"]) == ("T-17", 1)
    assert A not in journal.read_text()
    right = key.read_bytes()
    for wrong in (bytes(32), b"short"):
        key.write_bytes(wrong)
        for call in (eraser.erasure.replay, lambda: erase(eraser, B)):
            with pytest.raises(errors.InvalidRequest, match="key"):
                call()
    key.unlink()
    with pytest.raises(errors.InvalidRequest, match="needs its key"):
        erase(eraser, B)
    key.write_bytes(right)
    key.chmod(0o640)
    with pytest.raises(errors.InvalidRequest, match=r"a file \.key beside it that allows other users \(0640\)"):
        erase(eraser, B)
    key.chmod(0o600)
    journal.chmod(0o644)
    with pytest.raises(errors.InvalidRequest, match="allows other users"):
        erase(eraser, B)
    assert harness.service.search(phone=B).data != ()


def test_line_that_a_crash_cut_off_does_not_hide_the_others(
    harness: ServiceHarness, eraser: BindingService, journal: Path
) -> None:
    ended(harness)
    erase(eraser)
    with journal.open("a") as file:
        file.write('{"id": "0')
    assert len(ErasureJournal(str(journal)).entries()) == 1
    ended(harness, idempotency_key="next")
    erase(eraser)
    assert len(ErasureJournal(str(journal)).entries()) == 2
    assert eraser.erasure.replay().complete == 2


def test_erasure_beside_a_bind_of_the_same_phone_erases_all_or_is_refused(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    ended(harness, idempotency_key=None)
    raised = in_threads(lambda: harness.bind(A, C), lambda: erase(eraser))
    assert all(isinstance(error, errors.PhoneInUse) for error in raised)
    (bound,) = [row for row in harness.service.search(phone=A).data if row.state is State.ACTIVE]
    assert bound.phone_b == C
    assert len(harness.service.search(phone=A).data) == (2 if raised else 1)


def test_bind_that_comes_before_the_first_batch_leaves_the_erasure_to_a_repetition(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    first = ended(harness, idempotency_key=None)
    bound: list[Binding] = []

    def bind(point: str) -> None:
        if point == "erase.after_journal":
            bound.append(harness.bind(A, C))

    failpoints.install(bind)
    try:
        with pytest.raises(errors.PhoneInUse) as in_use:
            erase(eraser)
    finally:
        failpoints.install(None)
    assert in_use.value.holder.id == bound[0].id
    assert harness.service.get(first.id).phone_a == A
    harness.service.unbind(bound[0].id)
    assert erase(eraser).bindings == 2


def test_triggers_refuse_the_same_changes_outside_of_an_erasure(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    first, second = ended(harness), ended(harness, C, D, idempotency_key="other")
    erase(eraser)
    for binding in (first, second):
        for change in ("phone_b = 'x1234567890123456789'", "reference = 'a'", "facts_salt = NULL, phone_a = 'x1'"):
            statement = text(f"UPDATE bindings SET {change} WHERE id = '{binding.id}'")
            with pytest.raises(Exception, match=r"keep what was recorded|refuses the user|violated"):
                harness.database.write(lambda tx, statement=statement: tx.connection.execute(statement))  # type: ignore[misc]


def test_ended_holds_and_refusals_of_the_phone_are_deleted_and_those_of_others_stay(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id="4luaKsL2")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, B)
    harness.clock.advance(10_000)
    result = erase(eraser)
    assert result.holds == 1
    live = harness.database.read(hold_rows.live, "default", harness.clock() - timedelta(days=1))
    assert [hold.phone for hold in live] == [B]
    feed_has_caught_up(harness.service)
    (end,) = [
        event
        for event in harness.service.export_events()
        if event.kind is EventKind.ERASED and not event.binding_id
    ]
    assert (len(end.detail["hold_ids"]), end.detail["reason"]) == (1, "request 17")


def test_events_of_an_earlier_version_that_keep_a_text_are_counted(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    binding = ended(harness, reference=None)
    details: list[tuple[str, dict[str, Any]]] = [
        (EventKind.REQUESTED, {"reference": REFERENCE}),
        (EventKind.REVEALED, {"reason": REASON}),
        (EventKind.FAILED, {"reason": "never_sent", "status": None, "said": "connection refused"}),
        (EventKind.FAILED, {"reason": "request", "status": "-22", "said": REASON}),
    ]
    assert [rows._has_text(kind, detail) for kind, detail in details] == [True, True, False, True]

    def write_as_before(tx: Transaction) -> None:
        version = update(bindings).where(bindings.c.id == binding.id).values(version=bindings.c.version + 1)
        row = {"tx": 0, "binding_id": binding.id, "sequence": binding.version + 1, "kind": "revealed"}
        values = row | {"actor": "before", "at": harness.clock(), "detail": {"reason": REASON}}
        tx.connection.execute(version)
        tx.connection.execute(events_table.insert().values(values))

    harness.database.write(write_as_before)
    harness.has_rewritten = True
    assert erase(eraser, dry_run=True).old_events == 1


def test_refusals_table_has_only_rows_of_others(harness: ServiceHarness, eraser: BindingService) -> None:
    harness.bind(C, D)
    for phones in ((A, C), (D, A), (B, C)):
        with pytest.raises(errors.PhoneInUse):
            harness.bind(*phones)
    assert erase(eraser).refusals == 2
    assert [refusal.phone_a for refusal in harness.service.search_refusals().data] == [B]


def check_of(service: BindingService, name: str) -> Check:
    checks = {check.name: check for check in health.service_checks(service.runtime)}
    return checks[name]


def test_check_is_red_while_an_erasure_of_the_journal_is_not_carried_out(
    harness: ServiceHarness, eraser: BindingService
) -> None:
    assert check_of(harness.service, "erasures").seen == "there is no journal of erasures"
    assert check_of(eraser, "erasures").seen == "there is no journal of erasures"
    ended(harness)
    with dies_at("erase.after_journal"), pytest.raises(DiedError):
        erase(eraser)
    check = check_of(eraser, "erasures")
    assert (check.level, check.seen) == (
        Level.RED,
        "the journal has 1 erasure(s) that this database has not carried out",
    )
    assert check.todo == (
        "run `bindings erase --replay` as the owner of the tables: a restore may have brought people back"
    )
    eraser.erasure.replay()
    check = check_of(eraser, "erasures")
    assert (check.level, check.seen) == (Level.OK, "every erasure of the journal is carried out")


def test_check_says_how_long_data_is_kept(harness: ServiceHarness) -> None:
    check = check_of(harness.service, "retention")
    assert check.seen == "nothing is ever deleted: BINDINGS_RETENTION_DAYS is not set"
    register_scope(harness.database, harness.service.settings.scope)
    service = harness.open(retention_days=180)
    check = check_of(service, "retention")
    not_applied = "the limit of 180 days was not applied in the last two days"
    assert (check.level, check.seen) == (Level.WARN, not_applied)
    assert check.todo == (
        "run `bindings retention` daily, on PostgreSQL as the owner of the tables, or let a scheduler do it"
    )
    service.apply_retention()
    check = check_of(service, "retention")
    assert check.level is Level.OK
    assert check.seen == "what has ended is deleted after 180 days"
