"""Refused binds: what is recorded of a bind that was refused before the call, and how it is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import select
from uuid_utils import uuid7

from bindings import errors
from bindings.domain.binding import EventKind
from bindings.store import refusals, reserve
from bindings.store.schema import refusals as refusals_table
from tests.service.harness import APP, POOL, A, B, C, D, ServiceHarness, feed_has_caught_up
from tests.store.test_reserve import request

if TYPE_CHECKING:
    from bindings.domain.binding import RefusedBind
    from bindings.service import BindingService
    from bindings.store.database import Transaction


def refuse(service: BindingService, phone_a: str = A, phone_b: str = C, reference: str = "order-43") -> None:
    with pytest.raises((errors.PhoneInUse, errors.ProviderAccountRefused)):
        service.bind(
            phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=60, mode="AXB", reference=reference
        )


def references(service: BindingService, **filters: Any) -> list[str | None]:
    return [refusal.reference for refusal in service.search_refusals(**filters).data]


def test_conflict_is_recorded_with_its_phones_its_holder_and_its_event(harness: ServiceHarness) -> None:
    first = harness.bind(A, B, reference="order-42", expire_s=600)
    caller = harness.service.as_caller(actor="key:rides", request_id="request-9")
    refuse(caller)
    (refusal,) = harness.service.search_refusals().data
    assert (refusal.code, refusal.provider_status) == ("phone-in-use", None)
    assert (refusal.phone_a.digits, refusal.phone_b.digits) == (A, C)
    assert (refusal.mode, refusal.pool_number, refusal.app_id) == ("AXB", POOL, APP)
    assert (refusal.reference, refusal.actor, refusal.request_id) == ("order-43", "key:rides", "request-9")
    holder = refusal.holder
    assert holder is not None
    assert (holder.id, holder.reference, holder.why) == (first.id, "order-42", "binding")
    assert (holder.held_until, holder.state) == (first.held_until, "active")
    assert holder.retry_after_s == reserve.seconds_until(first.held_until, refusal.at)
    feed_has_caught_up(harness.service)
    (event,) = [event for event in harness.service.export_events() if event.kind is EventKind.REFUSED]
    assert event.at == refusal.at
    position = harness.database.read(
        lambda connection: connection.execute(select(refusals_table.c.event_position)).scalar()
    )
    assert event.cursor.endswith(f"-{position}")
    assert C not in str(event.detail)
    assert C not in repr(refusal)


def test_refused_bind_is_found_by_reference_phone_request_and_actor(harness: ServiceHarness) -> None:
    harness.bind(A, B, reference="order-42")
    refuse(harness.service.as_caller(actor="key:rides", request_id="request-9"))
    refuse(harness.service.as_caller(actor="key:meals", request_id="request-10"), D, B, "order-44")
    service = harness.service
    assert references(service) == ["order-44", "order-43"]
    assert references(service, reference="order-43") == ["order-43"]
    assert references(service, reference="order-42") == []
    assert references(service, phone=f"+{C}") == ["order-43"]
    assert references(service, phone=D) == ["order-44"]
    assert references(service, phone=C, reference="order-44") == []
    assert references(service, request_id="request-10") == ["order-44"]
    assert references(service, actor="key:rides") == ["order-43"]


def test_references_are_found_by_their_beginning_exactly(harness: ServiceHarness) -> None:
    names = ["a_1", "a_12", "a%1", "ab1", "A_1", "a\\1", "a", "b", "a\U0010fffd", "\U0010fffd1"]
    for number, name in enumerate(names):
        phones = f"9155{number:06}", f"9166{number:06}"
        harness.bind(*phones, reference=name)
        refuse(harness.service, *phones, reference=name)
    for prefix in (*names, "\\", "%", "_"):
        expected = sorted(name for name in names if name.startswith(prefix))
        bound = harness.service.search(reference_prefix=prefix).data
        assert sorted(str(binding.reference) for binding in bound) == expected, prefix
        assert sorted(map(str, references(harness.service, reference_prefix=prefix))) == expected, prefix


def test_refused_binds_are_paged_newest_first(harness: ServiceHarness) -> None:
    harness.bind(A, B)
    for number in range(5):
        refuse(harness.service, A, C if number % 2 else D, f"order-{number}")
    for filters, expected in (({}, 5), ({"phone": A}, 5), ({"phone": C}, 2)):
        pages: list[RefusedBind] = []
        cursor = None
        while True:
            page = harness.service.search_refusals(cursor=cursor, limit=2, **filters)
            pages += page.data
            cursor = page.next_cursor
            if cursor is None:
                break
        assert len({refusal.id for refusal in pages}) == len(pages) == expected
        assert [refusal.at for refusal in pages] == sorted((refusal.at for refusal in pages), reverse=True)


def test_phone_held_by_a_stranger_names_no_holder(harness: ServiceHarness) -> None:
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id=APP)
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, C)
    refuse(harness.service)
    (refusal,) = harness.service.search_refusals().data
    assert refusal.code == "phone-in-use-at-provider"
    assert refusal.holder is not None
    assert (refusal.holder.id, refusal.holder.why) == (None, "refused")


def test_bind_refused_because_of_the_account_is_recorded_with_its_status(harness: ServiceHarness) -> None:
    harness.simulator.change(account_status="-29")
    with pytest.raises(errors.ProviderAccountRefused):
        harness.bind(A, B)
    assert harness.service.search_refusals().data == (), "the first bind was sent: it is a binding that failed"
    refuse(harness.service, C, D)
    (refusal,) = harness.service.search_refusals(reference="order-43").data
    assert (refusal.code, refusal.provider_status, refusal.holder) == ("provider-account", "-29", None)
    feed_has_caught_up(harness.service)
    (event,) = [event for event in harness.service.export_events() if event.kind is EventKind.REFUSED]
    assert (event.at, event.reference) == (refusal.at, "order-43")
    assert (event.detail["status"], event.detail["app_id"]) == ("-29", APP)
    assert C not in str(event.detail)


def test_refusal_holds_if_its_record_cannot_be_written(
    harness: ServiceHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.bind(A, B)

    def fail(*_: object, **__: object) -> bool:
        raise errors.Busy

    monkeypatch.setattr("bindings.store.refusals.record", fail)
    refuse(harness.service)
    assert harness.service.search_refusals().data == ()


def test_record_is_written_once_if_its_commit_is_repeated(harness: ServiceHarness) -> None:
    refusal_id = str(uuid7())

    def work(tx: Transaction) -> bool:
        caller = harness.service.runtime.caller
        return refusals.record(tx, refusal_id, request(A, C), caller, code="phone-in-use", event_detail={})

    def repeat(tx: Transaction) -> bool:
        tx.attempt = 2
        return work(tx)

    assert harness.database.write(work)
    assert harness.database.write(repeat)
    assert len(harness.service.search_refusals().data) == 1
    assert harness.all_kinds().count(EventKind.REFUSED) == 1


def test_wrong_filters_are_named_before_any_read(harness: ServiceHarness) -> None:
    with pytest.raises(errors.InvalidRequest) as invalid:
        harness.service.search_refusals(reference="", phone="0123", request_id="a\nb", cursor="x", limit=0)
    names = {error.field for error in invalid.value.field_errors}
    assert names == {"reference", "phone", "request_id", "cursor", "limit"}
