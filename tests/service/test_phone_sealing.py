"""Encrypting a database that has phones in digits, and moving it to newer keys, while it is in use."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import DateTime, column, delete, insert, select, table, text, update
from uuid_utils import uuid7

from bindings import errors, failpoints
from bindings.clock import HostClock
from bindings.domain.phone import Phone
from bindings.jobs import phone_sealing
from bindings.monitoring.check import Level
from bindings.monitoring.health_metrics import health_metrics
from bindings.monitoring.phone_checks import of_phones
from bindings.service import BindingService
from bindings.store import account
from bindings.store import phone_sealing as store
from bindings.store import refusals as refusal_rows
from bindings.store import replicas as replica_rows
from bindings.store.schema import HEAD, SEALED_PHONES, bindings, holds, refusals, replicas
from bindings.store.sessions import Search
from bindings.validation import requests as validation
from tests.service.harness import APP, POOL, A, B, C, D, E, F, G, H, wait_for
from tests.service.phone_keys import phone_keys, write_ring
from tests.service.phone_traces import dump_of, traces_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bindings.access.erasure import ErasureResult
    from tests.service.harness import ServiceHarness

ALL_TABLES = store.TABLES
RESTART = "restart them with the keys of this process; one that has stopped counts for three minutes"
DONE = dict.fromkeys(ALL_TABLES, 0)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(store, "BATCH", 2)
    yield
    failpoints.install(None)


@pytest.fixture
def database_url(own_database_url: str) -> str:
    """Provide a database that is not reused: it records that older code does not start."""
    return own_database_url


class Content:
    """What a test has recorded in digits, and how a service reads it."""

    def __init__(self, harness: ServiceHarness) -> None:
        account.register_scope(harness.database, "default")
        self.first = harness.bind(A, B, idempotency_key="order-1")
        self.ended = harness.bind(C, D, idempotency_key="order-2")
        harness.service.unbind(self.ended.id)
        harness.simulator.script("lost_reply", times=1, on="bind")
        with pytest.raises(errors.OutcomeUnknown):
            harness.bind(E, F, idempotency_key="order-3")
        with pytest.raises(errors.PhoneInUse):
            harness.bind(A, C)
        harness.simulator.script("refuse:-35", times=1, on="bind")
        with pytest.raises(errors.PhoneInUse):
            harness.bind(G, H, idempotency_key="order-4")
        self.search_id = harness.service.sessions.save_search("browser", Search(number=Phone(A), party=Phone(B)))

    def read(self, service: BindingService) -> list[object]:
        """Return what the service answers about every phone and every key."""
        answers: list[object] = [service.sessions.get_search("browser", self.search_id)]
        for phone in (A, B, C, D, E, F, G, H):
            answers += [
                service.lookup(phone=phone),
                service.search(phone=phone).data,
                service.holds(phone=phone),
                service.search_refusals(phone=phone).data,
            ]
        answers.append(service.check(phone_a=A, phone_b=E, mode="AXB"))
        answers += [[event.kind for event in service.history(row.id)] for row in (self.first, self.ended)]
        return answers


def rows_of(harness: ServiceHarness, query: str) -> list[Any]:
    return list(harness.database.read(lambda connection: connection.execute(text(query)).all()))


def versions(harness: ServiceHarness) -> list[Any]:
    return rows_of(harness, "SELECT id, version, change_tx FROM bindings ORDER BY id")


def ring_of(harness: ServiceHarness, tmp_path: Path, **numbers: tuple[int, ...]) -> BindingService:
    """Return the harness's service from now on, with the keys of these numbers, recorded as a process."""
    all_numbers = {"index": (1,), "data": (1,)} | numbers
    file = write_ring(
        tmp_path / f"ring {len(harness.services)}", index=all_numbers["index"], data=all_numbers["data"]
    )
    service = harness.open(phone_keys_file=str(file))
    account.register_scope(service.runtime.database, "default")
    harness.services.insert(0, harness.services.pop())
    service.runtime.database.write(replica_rows.record)
    return service


def test_database_in_digits_is_encrypted_and_answers_as_before(harness: ServiceHarness, tmp_path: Path) -> None:
    content = Content(harness)
    before, rows = content.read(harness.service), versions(harness)
    sealing = ring_of(harness, tmp_path)
    assert content.read(sealing) == before
    dry_run = phone_sealing.seal(sealing.runtime, dry_run=True)
    assert dry_run.remaining == {"bindings": 4, "refusals": 1, "holds": 2, "searches": 1}
    assert not dry_run.complete
    assert phone_sealing.report(sealing.runtime).next_step == "run `bindings phones seal`"
    progress: list[tuple[int, int]] = []
    result = phone_sealing.seal(sealing.runtime, on_progress=lambda *step: progress.append(step))
    assert result.converted == dry_run.remaining
    assert result.remaining == DONE
    assert result.complete
    assert progress[-1] == (8, 8)
    assert content.read(sealing) == before
    assert versions(harness) == rows  # I7: no version changed, so no event is missing
    report = phone_sealing.report(sealing.runtime)
    assert report.rows["bindings"] == {"digits": 0, "data:1": 4, "index:1": 4}
    assert report.next_step is None
    assert of_phones(sealing.runtime.database).level is Level.OK
    again = phone_sealing.seal(sealing.runtime)
    assert again.converted == DONE
    assert again.complete
    acts = [event.detail for event in sealing.export_events() if event.kind == "administered"]
    assert acts == [
        {"act": "phones.keys_changed", "index_key": 1, "data_key": 1, "phone_key_checks": phone_keys().checks},
        {
            "act": "phones.sealed",
            "index_key": 1,
            "data_key": 1,
            "phone_key_checks": phone_keys().checks,
            "phones_sealed_at": harness.clock().isoformat(),
        },
    ]


def test_refused_bind_is_not_recorded_in_digits_once_phones_are_encrypted(
    harness: ServiceHarness, tmp_path: Path
) -> None:
    harness.bind(A, B)
    without_keys, sealing = harness.service, ring_of(harness, tmp_path)
    with pytest.raises(errors.PhoneInUse):
        without_keys.bind(phone_a=A, phone_b=C, pool_number=POOL, expire_s=600, mode="AXB")
    harness.database.write(
        lambda tx: tx.connection.execute(delete(replicas).where(replicas.c.phone_key_ids == []))
    )
    assert phone_sealing.seal(sealing.runtime).complete
    request = validation.bind_request(phone_a=A, phone_b=C, pool_number=POOL, expire_s=600, mode="AXB", app_id=APP)
    runtime = without_keys.runtime
    events = len(list(sealing.export_events()))
    with pytest.raises(errors.Busy, match="which this process does not have; nothing was done"):
        runtime.database.write(
            lambda tx: refusal_rows.record(
                tx, str(uuid7()), request, runtime.caller, code="phone-in-use", event_detail={}
            )
        )
    assert phone_sealing.report(sealing.runtime).rows["refusals"] == {"digits": 0, "data:1": 1, "index:1": 1}
    assert len(list(sealing.export_events())) == events


def test_rows_from_before_the_encryption_are_found_beneath_a_process_that_knows_it_complete(
    harness: ServiceHarness, tmp_path: Path
) -> None:
    """I1: such a database is restored in place; the account is of the same moment as the rows."""
    content = Content(harness)
    sealing = ring_of(harness, tmp_path)
    before = content.read(sealing)
    tables = (*ALL_TABLES, "account")
    rows = {table: [row._asdict() for row in rows_of(harness, f"SELECT * FROM {table}")] for table in tables}
    assert phone_sealing.seal(sealing.runtime).complete
    for restored in (False, True):
        if restored:
            for statement in [_restoring(table, row) for table in tables for row in rows[table]]:
                harness.rewrite(statement)
            assert all(row.phone_key is None for row in rows_of(harness, "SELECT phone_key FROM bindings"))
        assert content.read(sealing) == before
        for pair in ((A, C), (C, B), (D, A), (G, C), (C, H)):  # bindings and holds of A, B, G and H
            with pytest.raises(errors.PhoneInUse):
                sealing.bind(phone_a=pair[0], phone_b=pair[1], pool_number=POOL, expire_s=60, mode="AXB")
        before = content.read(sealing)


def _restoring(table: str, row: dict[str, Any]) -> Any:
    """Return the statement that gives a row the phones and keys that it had."""
    words = ("phone", "number", "party", "fingerprint", "facts_salt")
    names = [name for name in row if any(word in name for word in words)]
    values = ", ".join(f"{name} = :{name}" for name in names)
    where = "CAST(id AS text) = :of_id"
    parameters = {name: row[name] for name in names} | {"of_id": str(row["id"])}
    return text(f"UPDATE {table} SET {values} WHERE {where}").bindparams(**parameters)


def test_each_idempotency_key_is_known_after_the_encryption(harness: ServiceHarness, tmp_path: Path) -> None:
    content = Content(harness)
    sealing = ring_of(harness, tmp_path)
    phone_sealing.seal(sealing.runtime)
    terms: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}
    calls = harness.received("bind")
    assert sealing.bind(phone_a=A, phone_b=B, idempotency_key="order-1", **terms) == content.first
    assert sealing.bind(phone_a=C, phone_b=D, idempotency_key="order-2", **terms).id == content.ended.id
    with pytest.raises(errors.OutcomeUnknown):
        sealing.bind(phone_a=E, phone_b=F, idempotency_key="order-3", **terms)
    for key, pair in (("order-1", (A, C)), ("order-2", (C, E)), ("order-3", (F, E))):
        with pytest.raises(errors.IdempotencyMismatch):
            sealing.bind(phone_a=pair[0], phone_b=pair[1], idempotency_key=key, **terms)
    assert harness.received("bind") == calls


def with_replica(harness: ServiceHarness, **values: Any) -> Callable[[], None]:
    """Record another process that is at work; the returned function ends it."""
    row_id, now = str(uuid7()), harness.clock()
    row = {"id": row_id, "name": "host:1", "version": "1", "started_at": now, "seen_at": now} | values
    harness.database.write(lambda tx: tx.connection.execute(insert(replicas).values(row)))
    ended = replicas.delete().where(replicas.c.id == row_id)

    def end() -> None:
        harness.database.write(lambda tx: tx.connection.execute(ended))

    return end


OWN_IDS = [f"{name}:{check}" for name, check in phone_keys().checks.items()]
UNFIT: dict[str, dict[str, Any]] = {
    "no keys": {"schema_revision": HEAD, "phone_key_ids": []},
    "another key of the number": {"schema_revision": HEAD, "phone_key_ids": ["index:1:00", "data:1:00"]},
    "no data key": {"schema_revision": HEAD, "phone_key_ids": OWN_IDS[:1]},
    "an older version": {"schema_revision": "0015", "phone_key_ids": OWN_IDS},
    "a release without revisions": {"schema_revision": None, "phone_key_ids": OWN_IDS},
}


@pytest.mark.parametrize("name", UNFIT)
def test_nothing_is_encrypted_while_a_process_at_work_could_not_read_it(
    harness: ServiceHarness, tmp_path: Path, name: str
) -> None:
    Content(harness)
    sealing = ring_of(harness, tmp_path)
    end = with_replica(harness, **UNFIT[name])
    with pytest.raises(errors.Busy, match="host:1") as busy:
        phone_sealing.seal(sealing.runtime)
    assert busy.value.retry_after_s == 180
    assert rows_of(harness, "SELECT phone_index_key FROM account") == [(None,)]
    check = of_phones(sealing.runtime.database)
    assert check.level is Level.WARN
    assert check.seen == "phones are stored in digits; processes that lack the keys: host:1"
    assert check.todo == RESTART
    next_step = phone_sealing.report(sealing.runtime).next_step
    assert next_step == "restart the processes that lack the keys: host:1"
    end()
    assert phone_sealing.seal(sealing.runtime).complete


def test_check_says_which_step_is_next(harness: ServiceHarness, tmp_path: Path) -> None:
    Content(harness)
    assert (of_phones(harness.database).level, of_phones(harness.database).seen) == (
        Level.OK,
        "phones are stored in digits",
    )
    next_step = str(phone_sealing.report(harness.service.runtime).next_step)
    assert next_step.endswith("for every process: `bindings phones new-keys FILE` makes the keys")
    without_keys = harness.database
    sealing = ring_of(harness, tmp_path)
    checks = [of_phones(sealing.runtime.database)]
    stop_at("phones.after_batch", 1)
    with pytest.raises(Stopped):
        phone_sealing.seal(sealing.runtime)
    failpoints.install(None)
    checks.append(of_phones(sealing.runtime.database))
    phone_sealing.seal(sealing.runtime)
    check = of_phones(without_keys)
    assert check.level is Level.RED
    assert "must have the keys data:1, index:1" in check.seen
    assert check.todo == "give each process these keys: without them none starts"
    newer = ring_of(harness, tmp_path, data=(1, 2))
    checks.append(of_phones(newer.runtime.database))
    phone_sealing.rotate(newer.runtime)
    checks.append(of_phones(newer.runtime.database))
    many = [with_replica(harness, **UNFIT["no keys"]) for _ in range(7)]
    checks.append(of_phones(newer.runtime.database))
    assert many
    names = ", ".join(["host:1"] * 5)
    assert [(check.level, check.seen, check.todo) for check in checks] == [
        (Level.WARN, "phones are stored in digits", "run `bindings phones seal`"),
        (
            Level.WARN,
            (
                "phones are encrypted with index:1 and data:1, and rows from before are not all converted yet"
                " (6 left, as last counted)"
            ),
            "run `bindings phones seal`: it goes on with what is left to convert",
        ),
        (
            Level.WARN,
            "phones are encrypted with index:1 and data:1",
            "run `bindings phones rotate`: the keys have a newer one than the phones",
        ),
        (
            Level.WARN,
            "phones are encrypted with index:1 and data:2",
            "remove from the keys what no row needs: data:1",
        ),
        (
            Level.WARN,
            f"phones are encrypted with index:1 and data:2; processes that lack the keys: {names} and 2 more",
            RESTART,
        ),
    ]


def test_metric_has_how_many_rows_are_left_to_convert(harness: ServiceHarness, tmp_path: Path) -> None:
    def left(service: BindingService) -> int:
        return health_metrics(service.runtime, service.runtime.database).phones_to_convert

    Content(harness)
    sealing = ring_of(harness, tmp_path)
    seen = [left(sealing)]
    for times in (1, 2):
        stop_at("phones.after_batch", times)
        with pytest.raises(Stopped):
            phone_sealing.seal(sealing.runtime)
        failpoints.install(None)
        seen.append(left(sealing))
    stop_at("phones.batch_in_transaction", 1)
    with pytest.raises(Stopped):
        phone_sealing.seal(sealing.runtime)
    failpoints.install(None)
    seen.append(left(sealing))  # a batch that is not committed is not counted
    assert phone_sealing.seal(sealing.runtime).complete
    seen.append(left(sealing))
    newer = ring_of(harness, tmp_path, data=(1, 2))
    stop_at("phones.after_batch", 1)
    with pytest.raises(Stopped):
        phone_sealing.rotate(newer.runtime)
    failpoints.install(None)
    seen.append(left(newer))
    assert phone_sealing.seal(newer.runtime).complete
    assert [*seen, left(newer)] == [0, 6, 4, 4, 0, 6, 0]


@pytest.mark.parametrize("call", ["seal", "rotate"])
def test_metric_has_the_rows_left_from_the_switch_on(
    harness: ServiceHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    Content(harness)
    service = ring_of(harness, tmp_path)
    if call == "rotate":
        phone_sealing.seal(service.runtime)
        service = ring_of(harness, tmp_path, data=(1, 2))
    remaining = store.remaining
    seen: dict[str, int] = {}

    def bind_after_the_count(*args: Any) -> dict[str, int]:
        counted = remaining(*args)
        monkeypatch.setattr(store, "remaining", remaining)
        harness.bind("9188067708", "9188067709")
        return counted

    def read_metric(reached: str) -> None:
        if reached in ("phones.after_switch", "phones.after_batch"):
            seen.setdefault(reached, health_metrics(service.runtime, service.runtime.database).phones_to_convert)

    monkeypatch.setattr(store, "remaining", bind_after_the_count)
    failpoints.install(read_metric)
    getattr(phone_sealing, call)(service.runtime)
    # What is written until the switch is counted after it, before the first batch of two.
    assert seen == {"phones.after_switch": 8, "phones.after_batch": 9 - 2}


class Stopped(BaseException):
    """The process ends here, without any handler."""


def stop_at(name: str, times: int) -> None:
    """Stop at the n-th time that a fail point is reached."""
    left = [times]

    def hook(reached: str) -> None:
        left[0] -= reached == name
        if reached == name and left[0] == 0:
            raise Stopped

    failpoints.install(hook)


@pytest.mark.parametrize("kind", ["data", "index"])
def test_rotation_moves_every_row_to_the_newer_key(harness: ServiceHarness, tmp_path: Path, kind: str) -> None:
    content = Content(harness)
    before, rows = content.read(harness.service), versions(harness)
    first = ring_of(harness, tmp_path)
    phone_sealing.seal(first.runtime)
    with pytest.raises(errors.InvalidRequest, match="has no newer key than index:1 and data:1"):
        phone_sealing.rotate(first.runtime)
    both = ring_of(harness, tmp_path, **{kind: (1, 2)})
    stop_at("phones.after_batch", 2)
    with pytest.raises(Stopped):
        phone_sealing.rotate(both.runtime)
    failpoints.install(None)
    assert content.read(both) == before
    with pytest.raises(errors.InvalidRequest, match="not all converted yet"):
        phone_sealing.rotate(both.runtime)
    late = both.bind(phone_a="9188067708", phone_b="9188067709", pool_number=POOL, expire_s=60, mode="AXB")
    result = phone_sealing.seal(both.runtime)
    assert result.complete
    assert result.removable == [f"{kind}:1"]
    expected = {"digits": 0, "index:1": 0, "index:2": 5, "data:1": 5}
    if kind == "data":
        expected = {"digits": 0, "data:1": 0, "data:2": 5, "index:1": 5}
    assert phone_sealing.report(both.runtime).rows["bindings"] == expected
    newest = ring_of(harness, tmp_path, **{kind: (2,)})
    account.register_scope(newest.runtime.database, "default")  # it would start
    assert content.read(newest) == before
    assert newest.lookup(phone="9188067709") == [late]
    assert [row for row in versions(harness) if row in rows] == rows
    terms: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXB"}
    assert newest.bind(phone_a=A, phone_b=B, idempotency_key="order-1", **terms) == content.first
    with pytest.raises(errors.IdempotencyMismatch):
        newest.bind(phone_a=A, phone_b=C, idempotency_key="order-1", **terms)


def test_rotation_of_both_kinds_or_of_phones_in_digits_is_refused(harness: ServiceHarness, tmp_path: Path) -> None:
    Content(harness)
    with pytest.raises(errors.InvalidRequest, match="COMMAND is needed"):
        phone_sealing.seal(harness.service.runtime)
    first = ring_of(harness, tmp_path)
    with pytest.raises(errors.InvalidRequest, match="stored in digits"):
        phone_sealing.rotate(first.runtime)
    phone_sealing.seal(first.runtime)
    both = ring_of(harness, tmp_path, index=(1, 2), data=(1, 2))
    with pytest.raises(errors.InvalidRequest, match="a newer index key and a newer data key"):
        phone_sealing.rotate(both.runtime)


def test_hold_that_is_there_in_both_forms_becomes_one_with_the_longer_time(
    harness: ServiceHarness, tmp_path: Path
) -> None:
    Content(harness)
    sealing = ring_of(harness, tmp_path)
    phone_sealing.seal(sealing.runtime)
    blind = phone_keys().blind(1, Phone(G))
    row = harness.database.read(
        lambda connection: connection.execute(select(holds).where(holds.c.phone == blind)).one()
    )
    later = row.held_until.replace(year=2030)
    in_digits = row._asdict() | {"id": str(uuid7()), "phone": G, "phone_sealed": None, "held_until": later}
    in_digits |= {"phone_key": None, "facts_salt": None}
    harness.database.write(lambda tx: tx.connection.execute(insert(holds).values(in_digits)))
    assert phone_sealing.seal(sealing.runtime).converted["holds"] == 1
    [hold] = sealing.holds(phone=G)
    assert hold.held_until == later


def test_code_that_knows_no_encrypted_phones_does_not_start_afterwards(
    harness: ServiceHarness, tmp_path: Path
) -> None:
    Content(harness)
    query = f"SELECT readable_from FROM schema_info WHERE revision = '{HEAD}'"
    assert rows_of(harness, query) == [("0008",)]
    phone_sealing.seal(ring_of(harness, tmp_path).runtime)
    assert rows_of(harness, query) == [(SEALED_PHONES,)]


def test_blind_index_is_given_for_a_reason_that_is_recorded(harness: ServiceHarness, tmp_path: Path) -> None:
    binding, without_keys = harness.bind(A, B), harness.service
    sealing = ring_of(harness, tmp_path)
    phone_sealing.seal(sealing.runtime)
    for phone, reason, words in ((A, None, "reason"), ("x", "audit", "phone")):
        with pytest.raises(errors.InvalidRequest, match=words):
            phone_sealing.blind_indexes(sealing.runtime, phone, reason=reason)
    indexes = phone_sealing.blind_indexes(sealing.runtime, f"+{A}", reason="audit 7")
    assert list(indexes) == ["index:1"]
    found_id = rows_of(harness, f"SELECT id FROM bindings WHERE phone_a = '{indexes['index:1']}'")
    assert [str(row[0]) for row in found_id] == [binding.id]
    [revealed] = [event for event in sealing.export_events() if event.kind == "revealed"]
    assert (revealed.detail["what"], revealed.detail["reason"]) == ("blind index of a phone", "audit 7")
    assert A not in json.dumps(revealed.detail)
    with pytest.raises(errors.InvalidRequest, match="is needed"):
        phone_sealing.blind_indexes(without_keys.runtime, A, reason="audit 8")


def test_fingerprint_that_no_row_value_gives_is_cleared_by_a_rotation(
    harness: ServiceHarness, tmp_path: Path
) -> None:
    binding = harness.bind(A, B, idempotency_key="order-1")
    phone_sealing.seal(ring_of(harness, tmp_path).runtime)
    harness.rewrite(update(bindings).values(fingerprint="~1.other"))
    assert phone_sealing.rotate(ring_of(harness, tmp_path, index=(1, 2)).runtime).complete
    assert rows_of(harness, "SELECT fingerprint FROM bindings") == [(None,)]
    assert harness.service.get(binding.id) == binding


def test_process_that_was_silent_is_checked_before_its_next_use(harness: ServiceHarness, tmp_path: Path) -> None:
    monotonic = [0.0]
    clock = HostClock(wall=harness.clock.unix, monotonic=lambda: monotonic[0])
    with BindingService.open(environment={}, database_url=harness.url, clock=clock) as silent:
        assert silent.lookup(phone=A) == []
        harness.bind(A, B)
        harness.database.write(lambda tx: tx.connection.execute(replicas.delete()))  # as after three minutes
        assert phone_sealing.seal(ring_of(harness, tmp_path).runtime).complete
        monotonic[0] += 180
        for _ in range(2):
            with pytest.raises(errors.Busy, match="must have the keys data:1, index:1"):
                silent.lookup(phone=A)


def test_dump_of_an_encrypted_database_has_no_trace_of_a_thousand_phones(
    harness: ServiceHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BATCH", 500)
    Content(harness)
    pairs = [(f"86{71_000_000_000 + 7_919 * n}", f"86{83_000_000_000 + 7_907 * n}") for n in range(500)]
    for n, (a, b) in enumerate(pairs[:40]):
        harness.bind(a, b, idempotency_key=f"key {n}")
    fingerprints = [row[0] for row in rows_of(harness, "SELECT fingerprint FROM bindings")]
    row = harness.database.read(lambda connection: connection.execute(select(refusals).limit(1)).one())._asdict()
    refused = [row | {"id": str(uuid7()), "phone_a": a, "phone_b": b} for a, b in pairs[40:]]
    harness.database.write(lambda tx: tx.connection.execute(insert(refusals), refused))
    phones = [phone for pair in pairs for phone in pair] + [A, B, C, D, E, F, G, H]
    dump = dump_of(harness.url)
    assert all(phone.encode() in dump for phone in phones)  # the search finds what is there
    sealing = ring_of(harness, tmp_path)
    assert phone_sealing.seal(sealing.runtime).complete
    assert sealing.search(phone=pairs[7][0]).data[0].phone_b.digits == pairs[7][1]
    dump = dump_of(harness.url)
    assert len(phones) > 1_000
    assert traces_in(dump, phones) == set()
    assert len(fingerprints) > len(pairs[:40])
    assert not any(fingerprint.encode() in dump for fingerprint in fingerprints)


def test_conversion_is_not_complete_while_a_row_is_left(harness: ServiceHarness, tmp_path: Path) -> None:
    """A row in digits that comes behind the place of the conversion is left to the next call."""
    Content(harness)
    service = ring_of(harness, tmp_path)

    def add_row_in_digits(point: str) -> None:
        if point == "phones.after_batch":
            expires_at = harness.clock()
            values = {"id": uuid7().hex, "owner": "browser", "number": A, "expires_at": expires_at}
            service.runtime.database.write(lambda tx: tx.connection.execute(insert(digits_table), values))

    digits_table = table(
        "searches", column("id"), column("owner"), column("number"), column("expires_at", DateTime)
    )
    failpoints.install(add_row_in_digits)
    result = phone_sealing.seal(service.runtime)
    failpoints.install(None)
    assert (result.complete, result.removable) == (False, [])
    assert result.remaining["searches"] > 0
    assert service.runtime.database.read(store.status).sealed_at is None
    assert phone_sealing.seal(service.runtime).complete


@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_row_that_is_erased_while_its_batch_is_converted_stays_erased(
    harness: ServiceHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch has read the phone in digits; on SQLite it holds the write lock from then on."""
    bound = harness.bind(A, B)
    harness.service.unbind(bound.id)
    service = ring_of(harness, tmp_path)
    eraser = harness.open(
        phone_keys_file=str(tmp_path / "ring 1"), erasure_journal=str(tmp_path / "erasures.jsonl")
    )
    convert = store._converted
    erased: list[ErasureResult] = []

    def erase_first(*arguments: Any) -> dict[str, Any]:
        if not erased:
            erased.append(eraser.erasure.erase(phone=A, reason="request 17"))
        return convert(*arguments)

    monkeypatch.setattr(store, "_converted", erase_first)
    phone_sealing.seal(service.runtime)
    assert erased[0].bindings == 1
    assert service.get(bound.id).phone_a.is_erased
    assert phone_sealing.seal(service.runtime).complete
    assert service.get(bound.id).phone_a.is_erased
    assert service.get(bound.id).phone_b == B


@pytest.mark.parametrize("database_kind", [pytest.param("postgresql", marks=pytest.mark.postgres)], indirect=True)
def test_keys_change_only_after_the_transactions_that_write_digits(
    harness: ServiceHarness, tmp_path: Path
) -> None:
    """A bind that has read how phones are written commits before the change, or the row would stay in digits."""
    Content(harness)
    service = ring_of(harness, tmp_path)
    service.runtime.reserve_call._callable = False  # the transaction, which can be held open
    recorded, may_commit = threading.Event(), threading.Event()
    passed: list[str] = []

    def hold_open(point: str) -> None:
        passed.append(point)
        if (
            passed.count("bind.reserve_in_transaction") == 2 and not recorded.is_set()
        ):  # the first is of the function
            recorded.set()
            assert may_commit.wait(300)

    def bind() -> None:
        service.bind(phone_a="9188067710", phone_b="9188067711", pool_number=POOL, expire_s=60, mode="AXB")

    failpoints.install(hold_open)
    binding, results = threading.Thread(target=bind, daemon=True), []
    sealing = threading.Thread(target=lambda: results.append(phone_sealing.seal(service.runtime)), daemon=True)
    binding.start()
    assert recorded.wait(300)
    sealing.start()
    waiting = text(
        "SELECT count(*) FROM pg_locks WHERE relation = 'account'::regclass AND mode = 'AccessExclusiveLock'"
        " AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    wait_for(lambda: bool(results) or harness.database.read(lambda c: c.execute(waiting).scalar_one()) > 0)
    may_commit.set()
    failpoints.install(None)
    binding.join(300)
    sealing.join(300)
    assert results[0].complete
    assert rows_of(harness, "SELECT phone_a FROM bindings WHERE phone_a NOT LIKE '~%'") == []
