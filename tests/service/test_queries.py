"""Expiry, lookup, trace, search and export: what is asked about bindings, and what the clock decides."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from bindings import errors
from bindings.domain.binding import Certainty, EventKind, State
from bindings.domain.phone import Phone
from bindings.jobs import expire
from tests.service.world import APP, NOON, POOL, A, B, C, D, E, F, World, in_threads

if TYPE_CHECKING:
    from bindings.domain.binding import Binding

TICK = timedelta(microseconds=1)


def test_a_sweep_ends_what_is_due_once_at_its_nominal_end(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    assert made.expires_at is not None
    world.clock.at = made.expires_at - TICK
    assert world.service.expire_due().expired == 0
    world.clock.at = made.expires_at
    assert world.service.expire_due().expired == 1
    world.clock.advance(500)
    assert world.service.expire_due().expired == 0
    ended = world.service.get(made.id)
    assert (ended.state, ended.ended_at, ended.held_until) == (State.EXPIRED, made.expires_at, made.held_until)
    assert world.kinds(made)[2:] == [EventKind.EXPIRED]


def test_I5_many_sweeps_at_once_end_each_binding_exactly_once(world: World) -> None:
    replicas = [world.service, world.open(), world.open()]
    made = [world.bind(f"9188071{n:03}", f"9188072{n:03}", expire_s=60) for n in range(40)]
    world.clock.advance(100)
    counts: list[int] = []

    def sweep(service: Any) -> None:
        counts.append(expire.expire_due(service._database, service._caller, batch=7).expired)

    assert in_threads(*(lambda s=service: sweep(s) for service in replicas * 2)) == []
    assert sum(counts) == 40
    assert all(world.kinds(one).count(EventKind.EXPIRED) == 1 for one in made)


def test_a_sweep_without_time_says_that_it_did_not_finish(world: World) -> None:
    for number in range(4):
        world.bind(f"9188071{number:03}", f"9188072{number:03}", expire_s=60)
    world.clock.advance(100)
    counts = expire.expire_due(world.database, world.service._caller, batch=2, budget_s=0)
    assert (counts.expired, counts.finished) == (2, False)


def test_I6_a_lookup_never_shows_a_binding_past_its_end_even_with_no_sweep(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    assert made.expires_at is not None
    number = str(made.middle_number_a)
    world.clock.at = made.expires_at - TICK
    assert world.service.lookup(phone=A) == [made]
    world.clock.at = made.expires_at
    assert world.service.get(made.id).state is State.ACTIVE
    assert world.service.lookup(phone=A) == []
    assert world.service.lookup(phone=B) == []
    assert world.service.lookup(middle_number=number) == []
    assert world.service.lookup(middle_number=number, party=A) == []


def test_a_lookup_shows_no_pending_no_doubt_and_no_failure(world: World) -> None:
    for fault in ("lost_reply", "refuse:-22"):
        world.simulator.script(fault, times=1, on="bind")
        with pytest.raises(errors.BindingsError):
            world.bind(A, B)
        if fault == "lost_reply":
            assert world.service.lookup(phone=A) == []
            world.clock.advance(10_000)
            world.service.recover()
    assert world.service.lookup(phone=A) == []


def test_a_lookup_by_phone_finds_both_roles_newest_first(world: World) -> None:
    first = world.bind(A, B, "AXXB")
    world.clock.advance(1)
    second = world.bind(C, A, "AXXB")
    assert world.service.lookup(phone=A) == [second, first]
    assert world.service.lookup(phone="+" + A) == [second, first]
    assert world.service.lookup(phone=B) == [first]
    assert world.service.lookup(phone=F) == []


def test_a_lookup_by_middle_number_and_party_finds_whom_that_party_reaches(world: World) -> None:
    made = world.bind(A, B, "AXXB")
    number_a, number_b = str(made.middle_number_a), str(made.middle_number_b)
    assert world.service.lookup(middle_number=number_a, party=A) == [made]
    assert world.service.lookup(middle_number=number_b, party=B) == [made]
    assert world.service.lookup(middle_number=number_a, party=B) == []
    assert world.service.lookup(middle_number="+" + number_a) == [made]
    axb = world.bind(C, D)
    for party in (C, D):
        assert world.service.lookup(middle_number=str(axb.middle_number_a), party=party) == [axb]


@pytest.mark.parametrize("mode", ["AXB", "AXXB"])
def test_every_question_about_a_middle_number_finds_it_on_either_side_once(world: World, mode: str) -> None:
    """B's number is in an index of its own only where it is not A's."""
    made = world.bind(A, B, mode)
    numbers = {str(made.middle_number_a), str(made.middle_number_b)}
    assert len(numbers) == (1 if mode == "AXB" else 2)
    assert made.answered_at is not None
    now, later = made.answered_at, made.held_until + timedelta(days=1)
    ask = world.service.inquiries
    for number in numbers:
        assert world.service.lookup(middle_number=number) == [made]
        assert world.service.search(middle_number=number).data == (made,)
        assert [holder.id for holder in world.service.trace(middle_number=number, at=now).holders] == [made.id]
        assert [holder.id for holder in ask.number_at(Phone(number), at=now).trace.holders] == [made.id]
        assert ask.number_at(Phone(number), at=later).ended == made
        assert ask.number_history(Phone(number)).data == (made,)


def test_trace_is_exact_from_the_first_byte_to_the_end_of_the_hold(world: World) -> None:
    made = world.bind(A, B, expire_s=60)
    assert made.sent_at is not None
    assert made.answered_at is not None
    assert made.expires_at is not None
    number = str(made.middle_number_a)
    end = made.held_until

    def at(instant: datetime) -> list[tuple[str, Certainty]]:
        found = world.service.trace(middle_number=number, at=instant, window_s=0)
        return [(holder.id, holder.certainty) for holder in found.holders]

    for swept in (False, True):
        if swept:
            world.clock.at = end
            world.service.expire_due()
        assert at(made.sent_at - TICK) == []
        assert at(made.sent_at) == [(made.id, Certainty.POSSIBLE)]
        assert at(made.answered_at) == [(made.id, Certainty.CERTAIN)]
        assert at(made.expires_at - TICK) == [(made.id, Certainty.CERTAIN)]
        assert at(made.expires_at) == [(made.id, Certainty.POSSIBLE)]
        assert at(end - TICK) == [(made.id, Certainty.POSSIBLE)]
        assert at(end) == []


def test_trace_tells_near_misses_and_narrows_to_a_party(world: World) -> None:
    world.simulator.change(pool_size=1)
    first = world.bind(A, B, expire_s=60)
    world.clock.at = first.held_until + timedelta(seconds=30)
    world.service.expire_due()
    second = world.bind(A, B, expire_s=60)
    other = world.bind(C, D, expire_s=60)
    number = str(first.middle_number_a)
    between = first.held_until + timedelta(seconds=10)
    found = world.service.trace(middle_number=number, at=between, party=A)
    assert found.holders == ()
    assert {(miss.id, miss.relation) for miss in found.near_misses} == {(first.id, "ended"), (second.id, "began")}
    everyone = world.service.trace(middle_number=number, at=between)
    assert {miss.id for miss in everyone.near_misses} == {first.id, second.id, other.id}
    assert world.service.trace(middle_number=number, at=between, window_s=5).near_misses == ()


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
def test_a_trace_at_the_edge_of_the_calendar_is_an_answer_or_a_named_error(world: World, at: str) -> None:
    made = world.bind()
    with suppress(errors.InvalidRequest):
        assert world.service.trace(middle_number=str(made.middle_number_a), at=at).holders == ()


def _many(world: World, count: int) -> list[Binding]:
    made = []
    for number in range(count):
        made.append(
            world.bind(
                f"9188071{number:03}",
                f"9188072{number:03}",
                "AXB" if number % 2 else "AXXB",
                reference=f"order-{number % 3}",
                app_id=APP if number % 4 else "other",
            )
        )
        if number % 5 == 0:  # some share their instant
            world.clock.advance(10)
    return made


def test_pages_of_a_search_give_every_row_once_newest_first_and_none_is_empty(world: World) -> None:
    made = _many(world, 23)
    for limit in (1, 5, 23, 24):
        found: list[Binding] = []
        cursor = None
        while True:
            page = world.service.search(cursor=cursor, limit=limit)
            assert 0 < len(page.data) <= limit
            found += page.data
            cursor = page.next_cursor
            if cursor is None:
                break
        assert sorted(made, key=lambda one: (one.requested_at, one.id), reverse=True) == found


def test_an_empty_search_is_one_empty_page(world: World) -> None:
    page = world.service.search(state="lapsed")
    assert (page.data, page.next_cursor) == ((), None)


def test_a_cursor_stays_true_while_new_bindings_come(world: World) -> None:
    made = _many(world, 6)
    page = world.service.search(limit=3)
    world.bind(A, B)
    rest = world.service.search(limit=10, cursor=page.next_cursor)
    assert {one.id for one in (*page.data, *rest.data)} == {one.id for one in made}


def test_every_filter_of_a_search_selects_and_they_all_hold_together(world: World) -> None:
    made = _many(world, 12)
    world.service.unbind(made[3].id)
    expected: dict[str, Any] = {
        "state": ("unbound", [made[3]]),
        "mode": ("AXB", [one for one in made if one.mode == "AXB"]),
        "phone": (made[5].phone_b, [made[5]]),
        "reference": ("order-1", [one for one in made if one.reference == "order-1"]),
        "bind_id": (made[7].bind_id, [made[7]]),
        "pool_number": (POOL, made),
        "app_id": ("other", [one for one in made if one.app_id == "other"]),
        "requested_from": (
            made[6].requested_at,
            [one for one in made if one.requested_at >= made[6].requested_at],
        ),
        "requested_to": (made[6].requested_at, [one for one in made if one.requested_at < made[6].requested_at]),
    }
    for name, (value, rows) in expected.items():
        found = world.service.search(limit=200, **{name: value}).data
        assert {one.id for one in found} == {one.id for one in rows}, name
    number = str(made[2].middle_number_b)
    assert made[2].id in {one.id for one in world.service.search(middle_number=number).data}
    both = world.service.search(mode="AXB", reference="order-1", app_id=APP, limit=200).data
    assert {one.id for one in both} == {
        one.id for one in made if (one.mode, one.reference, one.app_id) == ("AXB", "order-1", APP)
    }


@pytest.mark.parametrize("long_ago", ["0999-01-01T00:00:00Z", "9999-12-31T00:00:00Z"])
def test_an_instant_that_no_binding_can_have_is_refused_alike_on_both_databases(
    world: World, long_ago: str
) -> None:
    """SQLite compares text, in which the year 999 would come after 2026."""
    with pytest.raises(errors.InvalidRequest, match="requested_from"):
        world.service.search(requested_from=long_ago)


@pytest.mark.parametrize(
    "asked",
    [{"limit": 0}, {"limit": 201}, {"cursor": "x"}, {"phone_a": A}, {"requested_from": "2026-03-01T12:00:00"}],
)
def test_a_search_refuses_what_it_does_not_know(world: World, asked: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidRequest):
        world.service.search(**asked)


def test_what_is_not_there_is_not_found(world: World) -> None:
    for question in (world.service.get, world.service.history):
        for name in (str(uuid7()), "x"):
            with pytest.raises(errors.NotFound):
                question(name)


def test_exports_stream_everything_oldest_first_and_by_period(world: World) -> None:
    made = _many(world, 12)
    exported = list(world.service.export_bindings())
    assert exported == sorted(made, key=lambda one: (one.requested_at, one.id))
    cut = made[6].requested_at
    early = list(world.service.export_bindings(until=cut))
    late = list(world.service.export_bindings(since=cut))
    assert early + late == exported
    assert early
    assert late
    stream = world.service.export_bindings()
    next(stream)
    assert world.bind(E, F).state is State.ACTIVE, "an open export stands in nobody's way"
    stream.close()  # type: ignore[attr-defined]
    assert len(list(world.service.export_events(until=NOON))) == 0


def test_revealing_phones_is_recorded_with_who_and_why(world: World) -> None:
    made = world.bind()
    world.service.as_caller(actor="auditor").reveal([made.id], reason="case 7")
    event = world.service.history(made.id)[-1]
    assert (event.kind, event.actor, event.detail["reason"]) == (EventKind.REVEALED, "auditor", "case 7")
    with pytest.raises(errors.InvalidRequest):
        world.service.reveal([made.id], reason="")


def test_revealing_what_is_no_id_is_not_found_on_both_databases(world: World) -> None:
    with pytest.raises(errors.NotFound):
        world.service.reveal(["no-uuid"], reason="case 7")
