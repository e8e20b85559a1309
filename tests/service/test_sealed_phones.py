"""Encrypted phones: every rule about phones holds as before, also while some rows have digits and some do not."""

from __future__ import annotations

import pickle
from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select, text, update
from sqlalchemy.exc import StatementError

from bindings.domain.phone import Phone
from bindings.domain.search_filters import Order, SearchFilters
from bindings.errors import Busy, IdempotencyMismatch, PhoneInUse
from bindings.store.phone_keys import DataKey
from bindings.store.phones import SealedPhone
from bindings.store.schema import bindings
from bindings.store.sessions import Search
from tests.service.harness import A, B, C, D, E, F
from tests.service.phone_keys import MIXED, SEALED, write_sealed
from tests.service.test_conflicts import *  # noqa: F403 -- its tests run here with the `phones` of this module
from tests.service.test_idempotency import *  # noqa: F403
from tests.service.test_phone_holds import *  # noqa: F403
from tests.service.test_refusals import *  # noqa: F403
from tests.service.test_sessions import *  # noqa: F403

del test_I1_conflict_policy_matches_the_provider  # noqa: F821 -- a hundred combinations that know no phone

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.service.harness import ServiceHarness


@pytest.fixture(
    params=[
        ("sqlite", SEALED),
        pytest.param(("postgresql", MIXED), marks=(pytest.mark.postgres, pytest.mark.soak)),
        pytest.param(("sqlite", MIXED), marks=pytest.mark.soak),
        pytest.param(("postgresql", SEALED), marks=(pytest.mark.postgres, pytest.mark.soak)),
    ],
    ids="-".join,
)
def combination(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the database of the test, and how its harness writes phones."""
    database, phones = request.param
    return database, phones


@pytest.fixture
def database_kind(combination: tuple[str, str]) -> str:
    return combination[0]


@pytest.fixture
def phones(combination: tuple[str, str]) -> str:
    return combination[1]


def rows_of(harness: ServiceHarness, query: str) -> list[Any]:
    return list(harness.database.read(lambda connection: connection.execute(text(query)).all()))


def in_digits(harness: ServiceHarness) -> dict[str, int]:
    """Return how many rows of each table have a phone in digits."""
    columns = {
        "bindings": ("phone_a", "phone_b"),
        "refusals": ("phone_a", "phone_b"),
        "holds": ("phone",),
        "searches": ("number", "party"),
    }
    return {
        table: rows_of(
            harness,
            f"SELECT count(*) FROM {table} WHERE " + " OR ".join(f"{name} NOT LIKE '~%'" for name in names),
        )[0][0]
        for table, names in columns.items()
    }


def test_no_phone_is_written_in_digits_and_each_is_read_again(harness: ServiceHarness, phones: str) -> None:
    if phones == MIXED:
        pytest.skip("rows in digits are meant to be there")
    binding = harness.bind(idempotency_key="order-1")
    with pytest.raises(PhoneInUse):
        harness.bind(A, C)
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(PhoneInUse):
        harness.bind(E, F)
    harness.service.sessions.save_search("browser", Search(number=Phone(A), party=Phone(B)))
    assert in_digits(harness) == dict.fromkeys(("bindings", "refusals", "holds", "searches"), 0)
    fingerprints = rows_of(harness, "SELECT fingerprint FROM bindings WHERE fingerprint IS NOT NULL")
    assert [(text_[0], len(text_)) for (text_,) in fingerprints] == [("~", 46)]
    assert harness.service.get(binding.id) == binding
    assert (binding.phone_a.digits, binding.phone_b.digits) == (A, B)
    assert [hold.phone.digits for hold in harness.service.holds(phone=E)] == [E]
    [refusal] = harness.service.search_refusals(phone=C).data
    assert (refusal.phone_a.digits, refusal.phone_b.digits) == (A, C)


def test_bind_decrypts_no_phone(harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has both already, and opening them would take as long as encrypting them."""
    opened: list[str] = []
    monkeypatch.setattr(DataKey, "open", lambda _key, column, *_: opened.append(column))
    binding = harness.bind()
    assert (binding.phone_a.digits, binding.phone_b.digits, opened) == (A, B, [])
    monkeypatch.undo()
    assert harness.service.get(binding.id) == binding


def test_rows_in_both_forms_are_found_by_the_same_phone(harness: ServiceHarness, phones: str) -> None:
    if phones == SEALED:
        pytest.skip("all rows have the same form")
    pairs = [(A, B), (A, C), (D, A), (A, E)]
    made = [harness.bind(*pair, mode="AXXB", reference="order") for pair in pairs]
    forms = {phone[0] == "~" for (phone,) in rows_of(harness, "SELECT phone_a FROM bindings")}
    assert forms == {True, False}
    service = harness.service
    assert {row.id for row in service.lookup(phone=A)} == {row.id for row in made}
    assert {row.id for row in service.search(phone=A).data} == {row.id for row in made}
    for row, (a, b) in zip(made, pairs, strict=True):
        assert service.lookup(middle_number=row.middle_number_a, party=a) == [row]
        holders = service.check(phone_a=b, phone_b=a, mode="AXXB")
        assert [holder.id for holder in holders] == [row.id]
    dry_run = service.unbind_all(phone=A, reason="test", dry_run=True)
    assert {row.id for row in dry_run.bindings} == {row.id for row in made}


@pytest.mark.parametrize("first", [None, 1])
def test_idempotency_key_is_found_whichever_way_its_request_was_recorded(
    harness: ServiceHarness, phones: str, first: int | None
) -> None:
    if phones == MIXED:
        pytest.skip("the order is fixed here")
    harness.service.check(phone_a=A, phone_b=B, mode="AXB")
    write_sealed(harness.database, index=first, data=first)
    binding = harness.bind(idempotency_key="order-1")
    write_sealed(harness.database, index=None if first else 1, data=None if first else 1)
    assert harness.bind(idempotency_key="order-1") == binding
    with pytest.raises(IdempotencyMismatch):
        harness.bind(A, C, idempotency_key="order-1")
    assert harness.received("bind") == 1


@pytest.mark.parametrize("first", [None, 1])
def test_hold_is_extended_in_the_form_that_it_has(harness: ServiceHarness, phones: str, first: int | None) -> None:
    if phones == MIXED:
        pytest.skip("the order is fixed here")
    for form in (first, None if first else 1):
        harness.service.check(phone_a=A, phone_b=B, mode="AXB")
        write_sealed(harness.database, index=form, data=form)
        harness.simulator.script("refuse:-35", times=1, on="bind")
        with pytest.raises(PhoneInUse):
            harness.bind()
        harness.clock.advance(61)
    assert [row[0] for row in rows_of(harness, "SELECT strikes FROM holds")] == [2, 2]
    [hold] = harness.service.holds(phone=A)
    assert hold.phone.digits == A


def test_sealed_phone_of_another_row_is_an_error_and_never_another_phone(
    harness: ServiceHarness, phones: str
) -> None:
    if phones == MIXED:
        pytest.skip("both rows are encrypted here")
    first, second = harness.bind(A, B), harness.bind(C, D)
    sealed = select(bindings.c.phone_a_sealed).where(bindings.c.id == first.id).scalar_subquery()
    change = update(bindings).where(bindings.c.id == second.id)
    harness.rewrite(change.values(phone_a_sealed=sealed))
    message = f"bindings.phone_a of row {second.id} does not open"
    uses: list[Callable[[Phone], object]] = [str, repr, hash, pickle.dumps, copy, lambda phone: phone.digits]
    uses += [Phone, lambda phone: phone == Phone(C), lambda phone: phone in {C: 1}]
    kinds = harness.all_kinds()
    with pytest.raises(Busy, match=message):
        harness.service.get(second.id)
    with pytest.raises(Busy, match=message):  # before the request to the provider, as the error says
        harness.service.unbind(second.id)
    with pytest.raises(Busy, match=message):  # in its transaction, which changes nothing
        harness.service.extend(second.id, expire_s=7_200)
    assert (harness.received("unbind"), harness.all_kinds()) == (0, kinds)
    [read] = harness.service.search(phone=C).data
    for use in (*uses, *uses):  # it is no phone at the second use either
        with pytest.raises(Busy, match=message) as refused:
            use(read.phone_a)
        assert A not in str(refused.value)
        assert C not in str(refused.value)
    listed = harness.service.binding_list.export(SearchFilters(), order=Order.NEWEST, file_format="csv")
    for rows in (harness.service.export_bindings(), listed):
        with pytest.raises(Busy, match=message):
            list(rows)
    assert harness.service.lookup(phone=C)[0].phone_a.digits == C  # by which it was found
    harness.rewrite(change.values(phone_key=None, phone_a_sealed=None))
    [read] = harness.service.lookup(phone=C)
    with pytest.raises(Busy, match="does not say with which key"):
        _ = read.phone_b.digits
    harness.rewrite(change.values(phone_a=C, phone_b_sealed=None, phone_b=D))  # as `assert_sound` can read it


def test_sealed_phone_is_the_same_value_as_one_that_was_never_sealed(harness: ServiceHarness, phones: str) -> None:
    if phones == MIXED:
        pytest.skip("the phone is encrypted here")
    harness.bind(A, B)
    uses: list[Callable[[Phone], object]] = [str, repr, hash, pickle.dumps, copy, deepcopy]
    uses += [lambda phone: phone.key, lambda phone: phone == A, lambda phone: phone == Phone(B)]
    uses += [lambda phone: phone.is_erased, Phone.country_code, lambda phone: {Phone(A): 1}[phone]]
    for use in uses:
        sealed = harness.service.search(phone=B).data[0].phone_a
        assert type(sealed) is SealedPhone
        assert use(sealed) == use(Phone(A))
        assert use(sealed) == use(Phone(A))  # now that it is open
    sealed = harness.service.search(phone=B).data[0].phone_a
    assert pickle.loads(pickle.dumps(sealed)) == sealed
    for name in ("phone", "_digits"):
        with pytest.raises(AttributeError):
            setattr(sealed, name, A)
    with pytest.raises(AttributeError, match="'SealedPhone' object has no attribute 'phone'"):
        _ = sealed.phone  # type: ignore[attr-defined]


def test_phone_that_is_compared_in_one_form_only_is_refused(harness: ServiceHarness) -> None:
    statement = select(bindings.c.id).where(bindings.c.phone_a == Phone(A))
    with pytest.raises(StatementError, match=r"use store\.phones"):
        harness.database.read(lambda connection: connection.execute(statement).all())
