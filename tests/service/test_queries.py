"""Expiry, lookup, trace, search, export and reveal of bindings."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from bindings import errors
from bindings.clock import MAX_SKEW_S
from bindings.domain.binding import Certainty, EventKind, State
from bindings.domain.phone import Phone
from bindings.jobs import expire
from bindings.validation import fields
from tests.service.harness import (
    APP,
    NOON,
    POOL,
    A,
    B,
    C,
    D,
    E,
    F,
    ServiceHarness,
    due_batches,
    feed_has_caught_up,
    in_threads,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bindings.domain.binding import Binding, Trace

MICROSECOND = timedelta(microseconds=1)


def test_sweep_ends_a_due_binding_once_at_its_nominal_end(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60)
    assert binding.expires_at is not None
    harness.clock.at = binding.expires_at - MICROSECOND
    assert harness.service.expire_due().expired == 0
    harness.clock.at = binding.expires_at
    assert harness.service.expire_due().expired == 1
    harness.clock.advance(500)
    assert harness.service.expire_due().expired == 0
    ended = harness.service.get(binding.id)
    assert (ended.state, ended.ended_at, ended.held_until) == (
        State.EXPIRED,
        binding.expires_at,
        binding.held_until,
    )
    assert harness.kinds(binding)[2:] == [EventKind.EXPIRED]


def test_I5_concurrent_sweeps_end_each_binding_exactly_once(harness: ServiceHarness) -> None:
    replicas = [harness.service, harness.open(), harness.open()]
    bindings = [harness.bind(f"9188071{n:03}", f"9188072{n:03}", expire_s=60) for n in range(40)]
    harness.clock.advance(100)
    counts: list[int] = []

    def sweep(service: Any) -> None:
        counts.append(expire.expire_due(due_batches(service, batch=7)).expired)

    assert in_threads(*(lambda s=service: sweep(s) for service in replicas * 2)) == []
    assert sum(counts) == 40
    assert all(harness.kinds(binding).count(EventKind.EXPIRED) == 1 for binding in bindings)


def test_sweep_without_time_left_reports_that_it_did_not_finish(harness: ServiceHarness) -> None:
    for number in range(4):
        harness.bind(f"9188071{number:03}", f"9188072{number:03}", expire_s=60)
    harness.clock.advance(100)
    counts = expire.expire_due(due_batches(harness.service, batch=2, budget_s=0))
    assert (counts.expired, counts.finished) == (2, False)


def test_I6_lookup_hides_a_binding_past_its_end_without_a_sweep(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60, reference="order-1")
    assert binding.expires_at is not None
    number = str(binding.middle_number_a)
    harness.clock.at = binding.expires_at - MICROSECOND
    assert harness.service.lookup(phone=A) == [binding]
    assert harness.service.lookup(reference="order-1") == [binding]
    harness.clock.at = binding.expires_at
    assert harness.service.get(binding.id).state is State.ACTIVE
    assert harness.service.lookup(phone=A) == []
    assert harness.service.lookup(phone=B) == []
    assert harness.service.lookup(middle_number=number) == []
    assert harness.service.lookup(middle_number=number, party=A) == []
    assert harness.service.lookup(reference="order-1") == []


def test_lookup_hides_bindings_in_doubt_lapsed_and_failed(harness: ServiceHarness) -> None:
    for fault in ("lost_reply", "refuse:-22"):
        harness.simulator.script(fault, times=1, on="bind")
        with pytest.raises(errors.BindingsError):
            harness.bind(A, B)
        if fault == "lost_reply":
            assert harness.service.lookup(phone=A) == []
            harness.clock.advance(10_000)
            harness.service.recover()
    assert harness.service.lookup(phone=A) == []


def test_lookup_by_phone_finds_both_roles_newest_first(harness: ServiceHarness) -> None:
    first = harness.bind(A, B, "AXXB")
    harness.clock.advance(1)
    second = harness.bind(C, A, "AXXB")
    assert harness.service.lookup(phone=A) == [second, first]
    assert harness.service.lookup(phone="+" + A) == [second, first]
    assert harness.service.lookup(phone=B) == [first]
    assert harness.service.lookup(phone=F) == []


def test_lookup_by_middle_number_and_party_finds_the_binding_of_that_party(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, "AXXB")
    number_a, number_b = str(binding.middle_number_a), str(binding.middle_number_b)
    assert harness.service.lookup(middle_number=number_a, party=A) == [binding]
    assert harness.service.lookup(middle_number=number_b, party=B) == [binding]
    assert harness.service.lookup(middle_number=number_a, party=B) == []
    assert harness.service.lookup(middle_number="+" + number_a) == [binding]
    axb = harness.bind(C, D)
    for party in (C, D):
        assert harness.service.lookup(middle_number=str(axb.middle_number_a), party=party) == [axb]


def test_lookup_by_reference_finds_every_active_binding_of_an_order_newest_first(harness: ServiceHarness) -> None:
    courier = harness.bind(A, B, "AXXB", reference="order-1", expire_s=fields.MAX_EXPIRE_S)
    harness.clock.advance(fields.MAX_EXPIRE_S - 60)
    support = harness.bind(C, B, "AXXB", reference="order-1")
    harness.bind(D, E, "AXXB", reference="order-10")
    ended = harness.bind(E, F, "AXXB", reference="order-1")
    harness.service.unbind(ended.id)
    assert harness.service.lookup(reference="order-1") == [support, courier]
    assert harness.service.lookup(reference="order") == []
    harness.clock.advance(120)
    assert harness.service.lookup(reference="order-1") == [support]


def test_lookup_by_reference_hides_a_binding_whose_unbind_has_no_answer(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, reference="order-1")
    harness.simulator.script("lost_reply", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(binding.id)
    assert harness.service.lookup(reference="order-1") == []


@pytest.mark.parametrize("mode", ["AXB", "AXXB"])
def test_binding_names_the_counterpart_of_a_caller_and_the_number_to_present(
    harness: ServiceHarness, mode: str
) -> None:
    binding = harness.bind(A, B, mode)
    for caller, other, own_number, other_number in (
        (A, B, binding.middle_number_a, binding.middle_number_b),
        ("+" + B, A, binding.middle_number_b, binding.middle_number_a),
    ):
        counterpart = binding.counterpart(caller)
        assert counterpart.digits == other
        assert binding.middle_number_for(caller) == own_number
        assert binding.middle_number_for(counterpart) == other_number


def test_counterpart_of_a_phone_that_is_no_party_is_an_error_without_the_phone(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    for question in (binding.counterpart, binding.middle_number_for):
        with pytest.raises(ValueError, match=f"not a party of binding {binding.id}") as refused:
            question(C)
        assert C not in str(refused.value)
        with pytest.raises(ValueError, match="must be digits"):
            question("C")


@pytest.mark.parametrize("mode", ["AXB", "AXXB"])
def test_every_query_by_middle_number_finds_either_side_once(harness: ServiceHarness, mode: str) -> None:
    """Middle number B has its own index entry only if it differs from middle number A."""
    binding = harness.bind(A, B, mode)
    numbers = {str(binding.middle_number_a), str(binding.middle_number_b)}
    assert len(numbers) == (1 if mode == "AXB" else 2)
    now, later = harness.clock.advance(1), binding.held_until + timedelta(days=1)
    investigation = harness.service.investigation
    for number in numbers:
        assert harness.service.lookup(middle_number=number) == [binding]
        assert harness.service.search(middle_number=number).data == (binding,)
        assert [holder.id for holder in harness.service.trace(middle_number=number, at=now).holders] == [
            binding.id
        ]
        assert [holder.id for holder in investigation.number_at(Phone(number), at=now).trace.holders] == [
            binding.id
        ]
        assert investigation.number_history(Phone(number)).data == (binding,)
    harness.clock.at = later
    for number in numbers:
        assert investigation.number_at(Phone(number), at=later).previous_binding == binding


def test_trace_is_exact_from_the_first_byte_to_the_end_of_the_hold(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B, expire_s=60)
    assert binding.sent_at is not None
    assert binding.answered_at is not None
    assert binding.expires_at is not None
    number = str(binding.middle_number_a)
    end = binding.held_until

    def at(instant: datetime) -> list[tuple[str, Certainty]]:
        result = harness.service.trace(middle_number=number, at=instant, window_s=0)
        return [(holder.id, holder.certainty) for holder in result.holders]

    harness.clock.at = end
    for expired in (False, True):
        if expired:
            harness.service.expire_due()
        assert at(binding.sent_at - MICROSECOND) == []
        assert at(binding.sent_at) == [(binding.id, Certainty.POSSIBLE)]
        assert at(binding.answered_at) == [(binding.id, Certainty.CERTAIN)]
        assert at(binding.expires_at - MICROSECOND) == [(binding.id, Certainty.CERTAIN)]
        assert at(binding.expires_at) == [(binding.id, Certainty.POSSIBLE)]
        assert at(end - MICROSECOND) == [(binding.id, Certainty.POSSIBLE)]
        assert at(end) == []


def test_trace_returns_near_misses_and_filters_by_party(harness: ServiceHarness) -> None:
    harness.simulator.change(pool_size=1)
    first = harness.bind(A, B, expire_s=60)
    harness.clock.at = first.held_until + timedelta(seconds=30)
    harness.service.expire_due()
    second = harness.bind(A, B, expire_s=60)
    other = harness.bind(C, D, expire_s=60)
    number = str(first.middle_number_a)
    between = first.held_until + timedelta(seconds=10)
    result = harness.service.trace(middle_number=number, at=between, party=A)
    assert result.holders == ()
    assert {(miss.id, miss.relation) for miss in result.near_misses} == {(first.id, "ended"), (second.id, "began")}
    unfiltered = harness.service.trace(middle_number=number, at=between)
    assert {miss.id for miss in unfiltered.near_misses} == {first.id, second.id, other.id}
    assert harness.service.trace(middle_number=number, at=between, window_s=5).near_misses == ()


def test_trace_returns_the_holders_that_do_not_have_the_party(harness: ServiceHarness) -> None:
    harness.simulator.change(pool_size=1)
    first, second = harness.bind(A, B), harness.bind(C, D)
    number, at = str(first.middle_number_a), harness.clock.advance(10)
    assert second.middle_number_a == number
    assert harness.service.trace(middle_number=number, at=at, party=A).other_holders == ()
    assert harness.service.trace(middle_number=number, at=at).other_holders == ()
    missed = harness.service.trace(middle_number=number, at=at, party=E)
    assert (missed.holders, {holder.id for holder in missed.other_holders}) == ((), {first.id, second.id})
    assert {binding.id for binding in missed.bindings} == {first.id, second.id}
    over = harness.clock.at = max(first.held_until, second.held_until)
    assert harness.service.trace(middle_number=number, at=over, party=E).other_holders == ()


def test_trace_of_a_time_that_has_not_come_is_refused(harness: ServiceHarness) -> None:
    """What will have the number then is not known: the binding may be unbound before."""
    binding = harness.bind(A, B)
    harness.clock.advance(1)
    number, investigation = str(binding.middle_number_a), harness.service.investigation
    tolerance = timedelta(seconds=MAX_SKEW_S)

    def ask(at: datetime) -> list[Trace]:
        phones = (Phone(number), Phone(A))
        return [
            harness.service.trace(middle_number=number, at=at),
            *(investigation.number_at(phone, at=at).trace for phone in phones),
        ]

    for at in (binding.held_until + MICROSECOND, harness.clock() + tolerance + MICROSECOND):
        with pytest.raises(errors.InvalidRequest, match="must not be later than now") as refused:
            harness.service.trace(middle_number=number, at=at)
        assert [error.field for error in refused.value.field_errors] == ["at"]
        for phone in (Phone(number), Phone(A)):
            with pytest.raises(errors.InvalidRequest, match="must not be later than now"):
                investigation.number_at(phone, at=at)
    for trace in ask(harness.clock() + tolerance):
        assert [(holder.id, holder.certainty) for holder in trace.holders] == [(binding.id, Certainty.CERTAIN)]


def test_trace_of_a_clock_that_is_ahead_is_one_of_now(harness: ServiceHarness) -> None:
    """A binding that ends within the tolerance still has its number, for certain."""
    binding = harness.bind(A, B, expire_s=30)
    number, ahead = str(binding.middle_number_a), harness.clock.advance(1) + timedelta(seconds=MAX_SKEW_S)
    assert binding.held_until < ahead
    for trace in (
        harness.service.trace(middle_number=number, at=ahead),
        harness.service.investigation.number_at(Phone(number), at=ahead).trace,
    ):
        assert [holder.certainty for holder in trace.holders] == [Certainty.CERTAIN]
        assert trace.near_misses == ()


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_trace_at_the_limits_of_the_calendar_returns_or_raises_invalid_request(
    harness: ServiceHarness, at: str
) -> None:
    binding = harness.bind()
    with suppress(errors.InvalidRequest):
        assert harness.service.trace(middle_number=str(binding.middle_number_a), at=at).holders == ()


def test_every_event_is_read_with_the_reference_of_its_binding(harness: ServiceHarness) -> None:
    binding, without = harness.bind(A, B, reference="order-42"), harness.bind(C, D)
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, E, reference="order-43")
    harness.service.unbind(binding.id)
    feed_has_caught_up(harness.service)
    expected = {binding.id: "order-42", without.id: None, None: "order-43"}  # None: of the refused bind
    service, actor = harness.service, binding.actor
    for events in (
        service.history(binding.id),
        service.events().data,
        service.events_for_actor(actor).data,
        list(service.export_events()),
    ):
        assert events
        assert [event.reference for event in events] == [expected[event.binding_id] for event in events]
    later = [event for event in service.history(binding.id) if event.kind != EventKind.REQUESTED]
    assert not any("order-42" in str(event.detail) for event in later), (
        "it is read with the event, not stored in it"
    )


def bind_many(harness: ServiceHarness, count: int) -> list[Binding]:
    bindings = []
    for number in range(count):
        bindings.append(
            harness.bind(
                f"9188071{number:03}",
                f"9188072{number:03}",
                "AXB" if number % 2 else "AXXB",
                reference=f"order-{number % 3}",
                app_id=APP if number % 4 else "other",
            )
        )
        if number % 5 == 0:  # five bindings share an instant
            harness.clock.advance(10)
    return bindings


def test_search_pages_return_every_row_once_newest_first_and_none_is_empty(harness: ServiceHarness) -> None:
    bindings = bind_many(harness, 23)
    for limit in (1, 5, 23, 24):
        result: list[Binding] = []
        cursor = None
        while True:
            page = harness.service.search(cursor=cursor, limit=limit)
            assert 0 < len(page.data) <= limit
            result += page.data
            cursor = page.next_cursor
            if cursor is None:
                break
        assert sorted(bindings, key=lambda binding: (binding.requested_at, binding.id), reverse=True) == result


def test_search_without_matches_is_one_empty_page(harness: ServiceHarness) -> None:
    page = harness.service.search(state="lapsed")
    assert (page.data, page.next_cursor) == ((), None)


def test_cursor_stays_valid_while_bindings_are_added(harness: ServiceHarness) -> None:
    bindings = bind_many(harness, 6)
    page = harness.service.search(limit=3)
    harness.bind(A, B)
    second_page = harness.service.search(limit=10, cursor=page.next_cursor)
    assert {binding.id for binding in (*page.data, *second_page.data)} == {binding.id for binding in bindings}


def test_every_search_filter_selects_and_filters_combine(harness: ServiceHarness) -> None:
    bindings = bind_many(harness, 12)
    harness.service.unbind(bindings[3].id)
    expected: dict[str, Any] = {
        "state": ("unbound", [bindings[3]]),
        "mode": ("AXB", [binding for binding in bindings if binding.mode == "AXB"]),
        "phone": (bindings[5].phone_b, [bindings[5]]),
        "reference": ("order-1", [binding for binding in bindings if binding.reference == "order-1"]),
        "active": (True, [binding for binding in bindings if binding is not bindings[3]]),
        "bind_id": (bindings[7].bind_id, [bindings[7]]),
        "pool_number": (POOL, bindings),
        "app_id": ("other", [binding for binding in bindings if binding.app_id == "other"]),
        "requested_from": (
            bindings[6].requested_at,
            [binding for binding in bindings if binding.requested_at >= bindings[6].requested_at],
        ),
        "requested_to": (
            bindings[6].requested_at,
            [binding for binding in bindings if binding.requested_at < bindings[6].requested_at],
        ),
    }
    for name, (value, rows) in expected.items():
        result = harness.service.search(limit=200, **{name: value}).data
        assert {binding.id for binding in result} == {binding.id for binding in rows}, name
    number = str(bindings[2].middle_number_b)
    assert bindings[2].id in {binding.id for binding in harness.service.search(middle_number=number).data}
    both = harness.service.search(mode="AXB", reference="order-1", app_id=APP, limit=200).data
    assert {binding.id for binding in both} == {
        binding.id
        for binding in bindings
        if (binding.mode, binding.reference, binding.app_id) == ("AXB", "order-1", APP)
    }


def test_search_for_active_bindings_goes_by_the_rule_of_lookup_and_for_a_state_by_the_record(
    harness: ServiceHarness,
) -> None:
    ended = harness.bind(A, B, expire_s=60)
    active = harness.bind(C, D, expire_s=600)
    harness.simulator.script("refuse:-22", times=1, on="bind")
    with pytest.raises(errors.ProviderRefused):
        harness.bind(E, F)
    assert ended.expires_at is not None
    harness.clock.at = ended.expires_at
    search = harness.service.search
    assert search(state="active").data == (active, ended)
    assert search(active=True).data == (active,)
    assert search(active=True, phone=A).data == ()
    failed, *others = search(active=False).data
    assert (failed.state, others) == (State.FAILED, [ended])
    harness.simulator.script("lost_reply", times=1, on="unbind")
    with pytest.raises(errors.OutcomeUnknown):
        harness.service.unbind(active.id)
    assert search(active=True).data == ()
    assert len(search(active=False).data) == 3


def test_search_by_idempotency_key_finds_the_bindings_of_every_actor_and_application(
    harness: ServiceHarness,
) -> None:
    first = harness.bind(A, B, idempotency_key="order-1/1")
    other_app = harness.bind(C, D, app_id="other", idempotency_key="order-1/1")
    harness.bind(E, F, idempotency_key="order-1/2")
    search = harness.service.search
    assert search(idempotency_key="order-1/1").data == (other_app, first)
    assert search(idempotency_key="order-1/1", app_id="other").data == (other_app,)
    assert search(idempotency_key="order-1").data == ()


@pytest.mark.parametrize("instant", ["0999-01-01T00:00:00Z", "9999-12-31T00:00:00Z"])
def test_requested_from_out_of_range_is_refused_on_both_databases(harness: ServiceHarness, instant: str) -> None:
    """SQLite compares text, and as text the year 999 would sort after 2026."""
    with pytest.raises(errors.InvalidRequest, match="requested_from"):
        harness.service.search(requested_from=instant)


@pytest.mark.parametrize(
    "params",
    [{"limit": 0}, {"limit": 201}, {"cursor": "x"}, {"requested_from": "2026-03-01T12:00:00"}, {"active": "yes"}],
)
def test_search_with_an_invalid_filter_is_refused(harness: ServiceHarness, params: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequest):
        harness.service.search(**params)


def test_search_with_an_unknown_filter_is_a_type_error(harness: ServiceHarness) -> None:
    params: dict[str, Any] = {"phone_a": A}
    with pytest.raises(TypeError, match="phone_a"):
        harness.service.search(**params)


def test_unknown_binding_is_not_found(harness: ServiceHarness) -> None:
    for query in (harness.service.get, harness.service.history):
        for name in (str(uuid7()), "x"):
            with pytest.raises(errors.NotFound):
                query(name)


def test_exports_stream_every_row_oldest_first_and_by_period(harness: ServiceHarness) -> None:
    bindings = bind_many(harness, 12)
    exported = list(harness.service.export_bindings())
    assert exported == sorted(bindings, key=lambda binding: (binding.requested_at, binding.id))
    cut = bindings[6].requested_at
    early = list(harness.service.export_bindings(until=cut))
    late = list(harness.service.export_bindings(since=cut))
    assert early + late == exported
    assert early
    assert late
    stream = harness.service.export_bindings()
    next(stream)
    assert harness.bind(E, F).state is State.ACTIVE, "an open export does not block a bind"
    stream.close()  # type: ignore[attr-defined]
    assert len(list(harness.service.export_events(until=NOON))) == 0


def test_reveal_is_recorded_with_actor_and_reason(harness: ServiceHarness) -> None:
    binding = harness.bind()
    harness.service.as_caller(actor="auditor").reveal([binding.id], reason="case 7")
    event = harness.service.history(binding.id)[-1]
    assert (event.kind, event.actor, event.detail["reason"]) == (EventKind.REVEALED, "auditor", "case 7")
    with pytest.raises(errors.InvalidRequest):
        harness.service.reveal([binding.id], reason="")


def test_reveal_of_an_id_that_is_not_a_uuid_is_not_found(harness: ServiceHarness) -> None:
    with pytest.raises(errors.NotFound):
        harness.service.reveal(["no-uuid"], reason="case 7")
    with pytest.raises(errors.InvalidRequest):  # a wrong reason is reported first
        harness.service.reveal(["no-uuid"], reason="")


def test_calls_that_take_ids_take_any_number_in_any_iterable(harness: ServiceHarness) -> None:
    binding = harness.bind()
    ids = {binding.id} | {str(uuid7()) for _ in range(fields.MAX_LIMIT)}
    last = [*sorted(ids - {binding.id}), binding.id]
    for values in (ids, last, dict.fromkeys(last), iter(last)):
        assert harness.service.get_many(values) == {binding.id: binding}
    assert harness.service.traceparents(iter(last)) == {}
    harness.service.reveal(iter([binding.id]), reason="case 7")
    assert harness.kinds(binding)[-1] is EventKind.REVEALED


def test_one_id_instead_of_a_list_is_refused_by_name(harness: ServiceHarness) -> None:
    binding = harness.bind()
    calls: list[Callable[[Any], object]] = [
        harness.service.get_many,
        harness.service.traceparents,
        lambda ids: harness.service.reveal(ids, reason="case 7"),
    ]
    for call in calls:
        for wrong in (binding.id, None, 7):
            with pytest.raises(errors.InvalidRequest) as refused:
                call(wrong)
            assert [error.field for error in refused.value.field_errors] == ["binding_ids"]
    with pytest.raises(errors.InvalidRequest, match="what"):
        harness.service.reveal([binding.id], reason="case 7", what="")
