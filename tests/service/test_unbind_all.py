"""Unbind every open binding of a phone, a middle number or a reference: dry run, token, requests and calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from sqlalchemy import select

from bindings import errors, failpoints
from bindings.domain import selection
from bindings.domain.binding import State
from bindings.domain.selection import SelectionToken
from bindings.lifecycle import unbind as unbind_calls
from bindings.lifecycle import unbind_all as calls
from bindings.store.schema import texts
from tests.service.harness import A, B, C, D, E, F, hold_answers, in_threads, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bindings.domain.binding import Binding
    from bindings.lifecycle.unbind_all import ReleaseResult
    from tests.service.harness import ServiceHarness

ORDER = "order-42"


@pytest.fixture
def without_hook() -> Iterator[None]:
    yield
    failpoints.install(None)


def unbind_all(harness: ServiceHarness, **fields: Any) -> ReleaseResult:
    selected = {} if {"phone", "middle_number"} & fields.keys() else {"reference": ORDER}
    return harness.service.unbind_all(**({"reason": "order closed"} | selected | fields))


def counts(result: ReleaseResult) -> tuple[int, int, int]:
    return result.requested, result.confirmed, result.unclear


def ids(bindings: Iterable[Binding]) -> set[str]:
    return {binding.id for binding in bindings}


def bind_in_doubt(harness: ServiceHarness, phone_a: str, phone_b: str, **fields: Any) -> Binding:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind(phone_a, phone_b, **fields)
    return unknown.value.binding


def test_all_open_bindings_of_a_reference_are_unbound_with_one_reason_and_request(harness: ServiceHarness) -> None:
    bound = [harness.bind(A, B, reference=ORDER), harness.bind(C, D, mode="AXXB", reference=ORDER)]
    other, ended = harness.bind(E, F, reference="order-43"), harness.bind("918801", "918802", reference=ORDER)
    harness.service.unbind(ended.id)
    result = unbind_all(harness)
    assert counts(result) == (2, 2, 0)
    assert (ids(result.bindings), result.token, result.more) == (ids(bound), None, False)
    assert {binding.state for binding in result.bindings} == {State.UNBOUND}
    assert harness.service.get(other.id).state is State.ACTIVE
    assert not harness.entry(other).unbound_at
    histories = [harness.service.history(binding.id)[-2:] for binding in bound]
    assert [[event.kind for event in history] for history in histories] == [["unbind_requested", "unbound"]] * 2
    assert {history[0].detail["reason"] for history in histories} == {"order closed"}
    assert len({event.request_id for history in histories for event in history} - {None}) == 1
    assert counts(unbind_all(harness)) == (0, 0, 0), "safe to repeat"
    assert harness.received("unbind") == 3


def test_request_id_of_the_caller_is_kept(harness: ServiceHarness) -> None:
    binding = harness.bind(reference=ORDER)
    harness.service.as_caller(request_id="ticket-7").unbind_all(reference=ORDER, reason="closed")
    assert [event.request_id for event in harness.service.history(binding.id)[-2:]] == ["ticket-7"] * 2


def test_phone_selects_both_parties_and_middle_number_both_sides(harness: ServiceHarness) -> None:
    first, second = harness.bind(A, B, mode="AXXB"), harness.bind(C, A, mode="AXXB")
    third = harness.bind(D, E, mode="AXXB")
    assert ids(unbind_all(harness, phone=f"+{A}", dry_run=True).bindings) == ids([first, second])
    assert counts(unbind_all(harness, phone=A)) == (2, 2, 0)
    assert third.middle_number_b is not None
    assert ids(unbind_all(harness, middle_number=third.middle_number_b).bindings) == ids([third])
    same = harness.bind(E, F)
    assert same.middle_number_a == same.middle_number_b
    assert counts(unbind_all(harness, middle_number=str(same.middle_number_a))) == (1, 1, 0), (
        "once, not for each side"
    )


def test_in_doubt_and_pending_bindings_are_unbound_once_they_exist(harness: ServiceHarness) -> None:
    doubt = bind_in_doubt(harness, A, B, reference=ORDER)
    answer = hold_answers(harness.simulator)

    def release() -> None:
        wait_for(lambda: len(unbind_all(harness, dry_run=True).bindings) == 2)
        assert counts(unbind_all(harness)) == (2, 0, 2)
        answer.set()

    assert in_threads(lambda: harness.bind(C, D, reference=ORDER), release) == []
    (pending,) = (binding for binding in harness.service.search(reference=ORDER).data if binding.id != doubt.id)
    assert pending.state is State.UNBOUND, "unbound as soon as the provider had answered"
    harness.clock.advance(400)
    harness.service.reconcile()
    harness.service.recover()
    assert harness.service.get(doubt.id).state is State.UNBOUND
    assert harness.entry(harness.service.get(doubt.id)).unbound_at is not None


def test_refused_bind_with_a_request_to_unbind_keeps_its_key(harness: ServiceHarness, without_hook: None) -> None:
    """A retry of the bind that the call was meant to end must not bring it back."""
    del without_hook
    results: list[ReleaseResult] = []

    def hook(name: str) -> None:
        if name == "bind.after_answer":
            results.append(unbind_all(harness))

    failpoints.install(hook)
    harness.simulator.script("refuse:-41", times=1, on="bind")
    for _ in range(2):
        with pytest.raises(errors.NoMiddleNumber):
            harness.bind(reference=ORDER, idempotency_key="k")
    assert [counts(result) for result in results] == [(1, 0, 1)]
    assert len(harness.service.search(reference=ORDER).data) == 1
    assert harness.received("bind") == 1


def test_dry_run_changes_nothing_and_its_token_admits_no_others(harness: ServiceHarness) -> None:
    first, second = harness.bind(A, B, reference=ORDER), harness.bind(C, D, reference=ORDER)
    listed = unbind_all(harness, dry_run=True)
    assert (counts(listed), listed.more) == ((0, 0, 0), False)
    assert listed.bindings == (first, second)
    assert harness.received("unbind") == 0
    third = harness.bind(E, F, reference=ORDER)
    with pytest.raises(
        errors.SelectionChanged, match="a binding was added since the dry run; nothing was changed"
    ):
        unbind_all(harness, token=listed.token)
    assert [harness.service.get(binding.id) for binding in (first, second, third)] == [first, second, third]
    harness.service.unbind(third.id)
    harness.service.unbind(first.id)
    assert ids(unbind_all(harness, token=listed.token).bindings) == {second.id}, "fewer are accepted"
    assert counts(unbind_all(harness, token=listed.token)) == (0, 0, 0), "safe to repeat"


def test_token_of_another_selection_is_refused(harness: ServiceHarness) -> None:
    harness.bind(A, B, reference=ORDER)
    with pytest.raises(errors.SelectionChanged):
        unbind_all(harness, token=harness.service.unbind_all(reference="x", reason="r", dry_run=True).token)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"reference": None}, ["phone"]),
        ({"phone": A}, ["phone"]),
        ({"phone": A, "middle_number": "91", "reference": None}, ["phone"]),
        ({"reference": ""}, ["reference"]),
        ({"reference": None, "phone": "0x"}, ["phone"]),
        ({"reference": None, "middle_number": "x"}, ["middle_number"]),
        ({"reason": None}, ["reason"]),
        ({"reason": "a\nb"}, ["reason"]),
        ({"dry_run": "yes"}, ["dry_run"]),
        ({"token": "AQ", "dry_run": True}, ["token"]),
        *[({"token": token}, ["token"]) for token in ("", "A", "AgAAAAAAAA", "AQAA", "é", "A Q", 5)],
    ],
)
def test_wrong_argument_is_named_before_any_io(
    harness: ServiceHarness, fields: dict[str, Any], wrong: list[str]
) -> None:
    with (
        mock.patch.object(harness.database, "read", side_effect=AssertionError),
        mock.patch.object(harness.database, "write", side_effect=AssertionError),
        pytest.raises(errors.InvalidRequest) as refused,
    ):
        harness.service.unbind_all(**({"reference": ORDER, "reason": "r"} | fields))
    assert [error.field for error in refused.value.field_errors] == wrong


def test_own_only_selects_the_bindings_of_the_actor(harness: ServiceHarness) -> None:
    other = harness.service.as_caller(actor="other")
    own = other.bind(phone_a=C, phone_b=D, pool_number="1", expire_s=60, mode="AXB", reference=ORDER)
    foreign = harness.bind(A, B, reference=ORDER)
    for by in ({"reference": ORDER}, {"phone": C}, {"middle_number": own.middle_number_a}):
        assert ids(other.unbind_all(**by, reason="r", dry_run=True, own_only=True).bindings) <= {own.id}
    assert counts(other.unbind_all(phone=A, reason="r", own_only=True)) == (0, 0, 0)
    assert ids(other.unbind_all(reference=ORDER, reason="r", own_only=True).bindings) == {own.id}
    assert harness.service.get(foreign.id) == foreign


def test_unclear_answers_are_counted_and_repeated_by_recover_or_by_the_call(harness: ServiceHarness) -> None:
    harness.bind(A, B, reference=ORDER)
    harness.bind(C, D, reference=ORDER)
    harness.simulator.script("lost_reply", times=2, on="unbind")
    result = unbind_all(harness)
    assert counts(result) == (2, 0, 2)
    assert {binding.state for binding in result.bindings} == {State.ACTIVE}
    assert all(binding.unbind_requested_at is not None for binding in result.bindings)
    assert harness.service.lookup(reference=ORDER) == []
    harness.simulator.script("lost_reply", times=1, on="unbind")
    assert counts(unbind_all(harness)) == (2, 1, 1)
    assert harness.service.recover().unbound == 1
    assert counts(unbind_all(harness)) == (0, 0, 0)
    for binding in result.bindings:
        assert harness.kinds(binding).count("unbind_requested") == 1


def test_calls_end_with_the_budget_and_recover_makes_the_others(harness: ServiceHarness) -> None:
    harness.bind(A, B, reference=ORDER)
    harness.bind(C, D, reference=ORDER)
    with mock.patch.object(unbind_calls, "UNBIND_BUDGET_S", -1.0):
        assert counts(unbind_all(harness)) == (2, 0, 2)
    assert harness.received("unbind") == 0
    assert harness.service.lookup(reference=ORDER) == []
    assert harness.service.recover().unbound == 2


def test_requests_are_kept_if_the_provider_cannot_be_reached(harness: ServiceHarness) -> None:
    harness.bind(reference=ORDER)
    away = harness.open(provider_url="http://127.0.0.1:1")
    assert counts(away.unbind_all(reference=ORDER, reason="r")) == (1, 0, 1)
    assert harness.service.recover().unbound == 1


def test_binding_past_its_end_is_left_to_the_sweep(harness: ServiceHarness) -> None:
    passed, live = harness.bind(A, B, expire_s=60, reference=ORDER), harness.bind(C, D, reference=ORDER)
    harness.clock.advance(61)
    assert ids(unbind_all(harness, dry_run=True).bindings) == {live.id}
    assert ids(unbind_all(harness).bindings) == {live.id}
    assert harness.service.expire_due().expired == 1
    assert harness.service.get(passed.id).state is State.EXPIRED


def test_call_acts_on_a_bounded_number_of_bindings_and_says_that_there_are_more(harness: ServiceHarness) -> None:
    pairs = [(A, B), (C, D), (E, F)]
    bound = [harness.bind(*pair, reference=ORDER) for pair in pairs]
    with mock.patch.object(calls, "MAX_BINDINGS", 2):
        listed = unbind_all(harness, dry_run=True)
        assert (listed.bindings, listed.more) == (tuple(bound[:2]), True)
        harness.simulator.script("lost_reply", times=2, on="unbind")
        first = unbind_all(harness, token=listed.token)
        assert (counts(first), ids(first.bindings), first.more) == ((2, 0, 2), ids(bound[:2]), True)
        second = unbind_all(harness)
        assert bound[2].id in ids(second.bindings), "first those without a request"
        assert (counts(second), second.more) == ((2, 2, 0), True)
        third = unbind_all(harness)
        assert (counts(third), third.more) == ((1, 1, 0), False)


def test_token_of_the_most_bindings_has_the_documented_length() -> None:
    digests = frozenset(number.to_bytes(selection.DIGEST_BYTES) for number in range(selection.MAX_BINDINGS))
    token = SelectionToken(digests=digests, complete=False)
    assert len(token.encode()) == selection.MAX_TOKEN
    assert SelectionToken.decode(token.encode()) == token


def test_none_of_the_bindings_is_offered_once_the_requests_are_committed(
    harness: ServiceHarness, without_hook: None
) -> None:
    """One transaction commits all requests; recover ends what a process that is killed then leaves."""
    del without_hook
    harness.bind(A, B, reference=ORDER)
    harness.bind(C, D, reference=ORDER)
    offered: dict[str, int] = {}

    class Killed(BaseException):
        pass

    def hook(name: str) -> None:
        if name == "unbind_all.after_requests":
            offered[name] = len(harness.service.lookup(reference=ORDER))
            raise Killed

    failpoints.install(hook)
    with pytest.raises(Killed):
        unbind_all(harness)
    failpoints.install(None)
    assert offered == {"unbind_all.after_requests": 0}
    assert harness.received("unbind") == 0
    assert harness.service.recover().unbound == 2


def test_concurrent_calls_and_binds_leave_no_request_behind(harness: ServiceHarness) -> None:
    for pair in ((A, B), (C, D)):
        harness.bind(*pair, reference=ORDER)
    results: list[ReleaseResult] = []
    release = [lambda: results.append(unbind_all(harness))] * 4
    assert in_threads(*release, lambda: harness.bind(E, F, reference=ORDER)) == []
    harness.service.recover()
    rows = harness.service.search(reference=ORDER).data
    assert len(rows) == 3
    assert {row.state for row in rows[1:]} == {State.UNBOUND}
    assert all((row.state is State.UNBOUND) == (row.unbind_requested_at is not None) for row in rows)
    for row in rows:
        assert harness.kinds(row).count("unbind_requested") <= 1


def test_each_text_of_one_call_has_a_salt_of_its_own(harness: ServiceHarness) -> None:
    for pair in ((A, B), (C, D)):
        harness.bind(*pair, reference="order-1")
    dry_run = harness.service.unbind_all(reference="order-1", reason="over", dry_run=True)
    harness.service.unbind_all(reference="order-1", reason="over", token=dry_run.token)
    rows = harness.database.read(lambda connection: connection.execute(select(texts.c.text, texts.c.salt)).all())
    assert [row.text for row in rows] == ["over", "over"]
    assert len({row.salt for row in rows}) == 2
