"""mark_absent: an operator's statement that ends a doubt, its effects, and the recovery if it was wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import EventKind, Mode, Reason, State
from bindings.domain.hold import HoldReason
from bindings.lifecycle.doubts import next_steps
from bindings.store import holds
from tests.service.harness import A, B, C, D, E, F

if TYPE_CHECKING:
    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness

REASON = "the provider's console shows no such pair, ticket 4711"


def put_in_doubt(
    harness: ServiceHarness,
    fault: str = "reset_before",
    *,
    age_s: float = 400,
    phones: tuple[str, str] = (A, B),
) -> Binding:
    harness.simulator.script(fault, times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(*phones)
    harness.clock.advance(age_s)
    return excinfo.value.binding


def test_mark_absent_fails_the_doubt_frees_its_phones_and_records_actor_and_reason(
    harness: ServiceHarness,
) -> None:
    binding = put_in_doubt(harness)
    marked = harness.service.as_caller(actor="key:ann").mark_absent(binding.id, reason=REASON)
    failed = harness.service.get(binding.id)
    assert marked.after == failed
    assert (failed.state, failed.reason, failed.held_until) == (State.FAILED, Reason.VOUCHED, harness.clock())
    event = harness.service.history(binding.id)[-1]
    assert marked.event == event
    assert (event.kind, event.actor, event.detail["because"]) == (EventKind.FAILED, "key:ann", REASON)
    assert harness.bind(A, C).state is State.ACTIVE


def test_mark_absent_dry_run_shows_the_same_result_and_changes_nothing(harness: ServiceHarness) -> None:
    binding = put_in_doubt(harness)
    history = harness.service.history(binding.id)
    preview = harness.service.mark_absent(binding.id, reason=REASON, dry_run=True)
    assert (preview.before, preview.dry_run) == (harness.service.get(binding.id), True)
    assert harness.service.history(binding.id) == history
    with pytest.raises(errors.PhoneInUse):
        harness.bind(A, C)
    result = harness.service.mark_absent(binding.id, reason=REASON)
    assert (preview.after, preview.event.detail) == (result.after, result.event.detail)


def test_mark_absent_is_refused_while_the_request_may_still_be_accepted(harness: ServiceHarness) -> None:
    binding = put_in_doubt(harness, age_s=60)
    with pytest.raises(errors.InvalidRequest, match="too young"):
        harness.service.mark_absent(binding.id, reason=REASON)
    assert harness.service.get(binding.id).state is State.IN_DOUBT


def test_mark_absent_is_refused_if_not_in_doubt_without_a_reason_or_unknown(harness: ServiceHarness) -> None:
    active = harness.bind(C, D)
    with pytest.raises(errors.InvalidRequest, match="this one is active"):
        harness.service.mark_absent(active.id, reason=REASON)
    with pytest.raises(errors.InvalidRequest, match="reason"):
        harness.service.mark_absent(active.id, reason="")
    with pytest.raises(errors.NotFound):
        harness.service.mark_absent("01890000-0000-7000-8000-000000000000", reason=REASON)


def test_mark_absent_twice_returns_the_first_result(harness: ServiceHarness) -> None:
    binding = put_in_doubt(harness)
    first = harness.service.mark_absent(binding.id, reason=REASON)
    harness.clock.advance(5)
    second = harness.service.mark_absent(binding.id, reason="again")
    assert (second.before, second.after, second.event) == (first.after, first.after, first.event)


def test_idempotency_key_of_a_binding_marked_absent_raises_provider_unreachable(harness: ServiceHarness) -> None:
    harness.simulator.script("reset_before", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        harness.bind(A, B, idempotency_key="k")
    harness.clock.advance(400)
    harness.service.mark_absent(str(excinfo.value.binding_id), reason=REASON)
    with pytest.raises(errors.ProviderUnreachable, match="an operator stated"):
        harness.bind(A, B, idempotency_key="k")


def test_late_success_after_a_wrong_mark_absent_is_recorded_held_and_unbound(harness: ServiceHarness) -> None:
    binding = put_in_doubt(harness, "lost_reply")
    harness.service.mark_absent(binding.id, reason="wrong")
    (entry,) = harness.simulator.ledger
    harness.settle_late(binding, entry)
    assert harness.service.get(binding.id).state is State.FAILED
    assert harness.kinds(binding)[-1] is EventKind.LATE_SUCCESS
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, C)
    harness.service.recover()
    assert harness.simulator.ledger.get(entry.bind_id).unbound_at is not None  # type: ignore[union-attr]
    assert harness.bind(A, C).state is State.ACTIVE


def test_I4_phones_of_a_late_success_that_the_provider_does_not_know_are_held_for_the_guard_time(
    harness: ServiceHarness,
) -> None:
    """An earlier unbind of it may have lost its reply; the provider may refuse the phones for a while after it."""
    binding = put_in_doubt(harness, "lost_reply")
    harness.service.mark_absent(binding.id, reason="wrong")
    (entry,) = harness.simulator.ledger
    harness.settle_late(binding, entry)
    harness.simulator.script("lost_reply", times=1, on="unbind")
    assert (harness.service.recover().unbound, harness.service.recover().unbound) == (0, 1)
    assert harness.simulator.counts.decided["unbind"]["-24"] == 1
    with pytest.raises(errors.PhoneInUseAtProvider) as in_use:
        harness.bind(A, C)
    assert in_use.value.retry_after_s == harness.service.settings.guard_for(0)
    harness.clock.at = in_use.value.holder.held_until
    assert harness.bind(A, C).state is State.ACTIVE


def test_row_of_a_late_success_that_is_to_be_unbound_is_no_orphan(harness: ServiceHarness) -> None:
    binding = put_in_doubt(harness, "lost_reply")
    harness.service.mark_absent(binding.id, reason="wrong")
    (entry,) = harness.simulator.ledger
    harness.settle_late(binding, entry)
    held = harness.database.read(holds.live, "default", harness.clock())
    harness.simulator.script("reset_before", times=1, on="unbind")
    result = harness.service.reconcile()
    assert (result.orphans, result.revenants, result.holds_ended) == (0, 0, 0)
    assert harness.database.read(holds.live, "default", harness.clock()) == held


def test_unbinds_of_late_successes_end_with_the_first_that_the_provider_refuses_to_the_account(
    harness: ServiceHarness,
) -> None:
    for phones in ((A, B), (C, D), (E, F)):
        late = put_in_doubt(harness, "lost_reply", phones=phones)
        harness.service.mark_absent(late.id, reason="wrong")
        harness.settle_late(late, list(harness.simulator.ledger)[-1])
    harness.simulator.script("refuse:-1", rate=1.0, on="unbind")
    assert harness.service.recover().still_unclear == 3
    assert harness.simulator.counts.received["unbind"] == 1
    harness.simulator.clear_faults()
    counts = harness.service.recover()
    assert (counts.unbound, counts.still_unclear) == (3, 0)


def test_scan_after_a_wrong_mark_absent_holds_the_phones_and_names_the_doubt(harness: ServiceHarness) -> None:
    binding = put_in_doubt(harness, "lost_reply")
    harness.service.mark_absent(binding.id, reason="wrong")
    assert harness.service.reconcile(reason="ticket 4712").orphans == 1
    live_holds = harness.database.read(holds.live, "default", harness.clock())
    assert {(hold.why, hold.origin_id) for hold in live_holds} == {(HoldReason.ORPHAN, binding.id)}
    assert harness.service.report(harness.service.reports().data[0].id).counts["reason"] == "ticket 4712"


def test_reports_listed_without_cases_keep_their_counts(harness: ServiceHarness) -> None:
    put_in_doubt(harness, "lost_reply")
    harness.service.reconcile()
    (listed,) = harness.service.reports(cases=False).data
    full = harness.service.report(listed.id)
    assert listed.cases == []
    assert [case["case"] for case in full.cases] == ["adopted"]
    assert (listed.counts, listed.began_at) == (full.counts, full.began_at)
    with pytest.raises(errors.NotFound):
        harness.service.report("no such")


def test_next_steps_of_a_doubt_say_what_the_next_scan_can_still_do(harness: ServiceHarness) -> None:
    config = harness.service.settings
    binding = put_in_doubt(harness, age_s=0)
    soon = binding.requested_at + timedelta(seconds=60)

    def step_texts(scan: float | None) -> list[str]:
        at = None if scan is None else binding.requested_at + timedelta(seconds=scan)
        return [step.text for step in next_steps(binding, soon, config, at)]

    early = next_steps(binding, binding.requested_at, config, soon)
    assert [(step.at, "a look" in step.text) for step in early[:2]] == [(binding.settle_by, True), (soon, False)]
    for settings, doubt, scan_at in (
        (config.model_copy(update={"on_doubt": "observe"}), binding, soon),
        (config, replace(binding, mode=Mode.AXXB), soon),
        (config, binding, None),
    ):
        assert not any("a look" in step.text for step in next_steps(doubt, doubt.requested_at, settings, scan_at))
    observing = config.model_copy(update={"on_doubt": "observe"})
    assert not any("adopt" in step.text for step in next_steps(binding, soon, observing, soon))
    assert "adopts" in step_texts(120)[0]
    assert "may also prove" in step_texts(120)[1]
    assert "or proves" in step_texts(400)[0]
    assert "too late" in step_texts(3_601)[0]
    assert all("lapses" in step_texts(scan)[-1] for scan in (None, 120, 400, 3_601))
    overdue, *_ = next_steps(binding, soon, config, binding.requested_at)
    assert overdue.at == soon, "an overdue scan is expected immediately"
    active = harness.bind(C, D)
    assert next_steps(active, soon, config, None)[-1].at == active.expires_at
    promised_less = harness.bind(E, F, max_expire_s=7_200)
    assert next_steps(promised_less, soon, config, None)[-1].at == promised_less.provider_expires_at
