"""Regressions: incomplete scans, a refused unbind that blocks others, named holders, and oversized values."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from bindings import errors
from bindings.domain.binding import State
from bindings.provider import wire
from tests.service.harness import A, B, C, D, E, F, G, H

if TYPE_CHECKING:
    from tests.service.harness import ServiceHarness


def test_I4_scan_that_misses_a_live_binding_concludes_no_absence(harness: ServiceHarness) -> None:
    service = harness.open(timestamp_tolerance_s=1)
    service.bind(phone_a=A, phone_b=B, pool_number="918806", expire_s=3_600, mode="AXB")
    hidden = service.bind(phone_a=C, phone_b=D, pool_number="918806", expire_s=3_600, mode="AXB")
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as excinfo:
        service.bind(phone_a=E, phone_b=F, pool_number="918806", expire_s=3_600, mode="AXB")
    doubt = excinfo.value.binding.id
    for entry in harness.simulator.ledger.entries()[1:]:
        harness.simulator.remove_binding(entry.bind_id)
    harness.clock.advance(61)
    first = service.reconcile()
    assert (first.ghosts, first.absent, service.get(doubt).state) == (1, 0, State.IN_DOUBT)
    assert service.get(hidden.id).state is State.UNBOUND
    harness.clock.advance(61)
    second = service.reconcile()
    assert (second.absent, service.get(doubt).state) == (1, State.FAILED)


def test_refused_unbind_does_not_block_the_recovery_of_others(harness: ServiceHarness) -> None:
    for binding in (harness.bind(A, B), harness.bind(C, D)):
        harness.simulator.script("lost_reply", times=1, on="unbind")
        with pytest.raises(errors.OutcomeUnknown):
            harness.service.unbind(binding.id)
    harness.simulator.script("refuse:-22", times=1, on="unbind")
    counts = harness.service.recover()
    assert (counts.unbound, counts.still_unclear) == (1, 1)
    assert harness.service.recover().unbound == 1


def test_phone_in_use_at_the_provider_is_held_until_the_time_in_the_error(harness: ServiceHarness) -> None:
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
        harness.bind(A, B, idempotency_key="once")
    holder = excinfo.value.holder
    assert (holder.retry_after_s, holder.held_until) == (60, harness.clock() + timedelta(seconds=60))
    with pytest.raises(errors.PhoneInUseAtProvider) as second:
        harness.bind(A, G)
    assert second.value.holder.held_until == holder.held_until
    with pytest.raises(errors.PhoneInUseAtProvider) as replay:
        harness.bind(A, B, idempotency_key="once")
    assert replay.value.holder.held_until == holder.held_until


def test_unbind_of_a_refused_bind_makes_no_call_and_leaves_its_phones_held(harness: ServiceHarness) -> None:
    """Regression: it sent the bindId "None" and ended the holds of the -35, which name no binding."""
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
        harness.bind(A, B)
    assert harness.service.unbind(str(excinfo.value.binding_id)).state is State.FAILED
    assert harness.received("unbind") == 0
    harness.clock.advance(59)
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, G)


def test_own_binding_that_explains_a_refusal_is_named(harness: ServiceHarness) -> None:
    own_binding = harness.bind(A, B, mode="AXXB")
    harness.simulator.change(policy="strict")
    with pytest.raises(errors.PhoneInUseAtProvider) as excinfo:
        harness.bind(A, H, mode="AXB")
    assert excinfo.value.holder.id == own_binding.id
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(C, D)
    assert harness.service.stats()["by_met"] == {"AXB met AXXB active": 1, "AXB met nothing of ours": 1}


@pytest.mark.parametrize("invalid", ["a" * 129, "a\x00b", ""])
def test_invalid_request_id_of_a_caller_is_refused(harness: ServiceHarness, invalid: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="request_id"):
        harness.service.as_caller(request_id=invalid)


@pytest.mark.parametrize(
    ("field", "value"),
    [(wire.BIND_ID, "9" * 65), (wire.MIDDLE_NUMBER_A, "9" * 33), (wire.MIDDLE_NUMBER_B, "+91 880 6")],
)
def test_response_value_that_does_not_fit_its_column_is_malformed(field: str, value: str) -> None:
    data = {wire.BIND_ID: 1, wire.MIDDLE_NUMBER_A: "918806", wire.MIDDLE_NUMBER_B: "918806"} | {field: value}
    with pytest.raises(wire.Malformed, match=field):
        wire.read_bound(data)


def test_middle_number_is_stored_without_plus_and_long_status_is_truncated() -> None:
    data = {wire.BIND_ID: 1, wire.MIDDLE_NUMBER_A: "+918806", wire.MIDDLE_NUMBER_B: "918806"}
    assert wire.read_bound(data).middle_number_a == "918806"
    assert wire.read_envelope(b'{"status":"INTERNAL_SERVER_ERROR"}').status == "INTERNAL_SERVER_"
