"""Promised ends in a database that the version before has written to, or whose bindings it expires or adopts.

What that version writes is made by its statements: they set neither `max_expire_s` nor `provider_expires_at`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import insert, update

from bindings import errors
from bindings.domain.binding import EventKind, State
from bindings.store.schema import bindings, events
from bindings.store.sql import to_json_value
from tests.service.harness import C, D
from tests.service.test_extend import HOUR, bind, is_held, seconds_left

if TYPE_CHECKING:
    from typing import Any

    from sqlalchemy import ColumnElement

    from bindings.domain.binding import Binding
    from bindings.store.database import Transaction
    from tests.service.harness import ServiceHarness

EITHER = pytest.mark.parametrize("by", ["the version before", "this version"])


def change_as_before(
    harness: ServiceHarness, kind: EventKind, where: tuple[ColumnElement[bool], ...], **values: Any
) -> None:
    """Change rows and write their events, as the version before did; the detail of an adoption has its facts."""
    facts = {name: to_json_value(value) for name, value in values.items()} if kind is EventKind.ADOPTED else {}
    returned = bindings.c.id, bindings.c.version, bindings.c.change_tx
    change = update(bindings).where(*where).values(version=bindings.c.version + 1, **values).returning(*returned)

    def work(tx: Transaction) -> None:
        for binding_id, version, change_tx in tx.connection.execute(change).all():
            event = {"binding_id": binding_id, "sequence": version, "kind": kind, "at": harness.clock.at}
            tx.connection.execute(insert(events).values(tx=change_tx, actor="before", detail=facts, **event))

    harness.database.write(work)


def expire(harness: ServiceHarness, binding: Binding, by: str) -> None:
    """Let the promised end come, and mark the binding as expired."""
    harness.clock.advance(seconds_left(harness, binding) + 1)
    if by == "this version":
        harness.service.expire_due()
    else:
        is_due = bindings.c.state == State.ACTIVE, bindings.c.expires_at <= harness.clock.at
        change_as_before(harness, EventKind.EXPIRED, is_due, state=State.EXPIRED, ended_at=bindings.c.expires_at)
    assert harness.service.get(binding.id).state is State.EXPIRED


def assert_released(harness: ServiceHarness, binding: Binding) -> None:
    assert harness.service.recover().released == 1
    assert harness.entry(binding).unbound_at is not None
    assert not is_held(harness)


@EITHER
def test_binding_of_the_version_before_ends_without_a_release(harness: ServiceHarness, by: str) -> None:
    binding = harness.bind(expire_s=HOUR)
    harness.clock.advance(60)
    with pytest.raises(errors.InvalidRequest, match="may end the binding"):
        harness.service.extend(binding.id, expire_s=2 * HOUR)
    assert harness.service.get(binding.id).provider_expires_at is None
    expire(harness, binding, by)
    assert harness.service.recover().released == 0
    assert harness.service.unbind(binding.id).state is State.EXPIRED
    assert harness.received("unbind") == 0


@EITHER
def test_binding_of_the_version_before_is_released_after_it_was_shortened(
    harness: ServiceHarness, by: str
) -> None:
    binding = harness.bind(expire_s=HOUR)
    shortened = harness.service.unbind(binding.id, after_s=60)
    expire(harness, shortened, by)
    assert is_held(harness)
    assert_released(harness, binding)


@EITHER
def test_binding_of_the_version_before_is_extended_up_to_its_first_end(harness: ServiceHarness, by: str) -> None:
    binding = harness.bind(expire_s=HOUR)
    harness.service.unbind(binding.id, after_s=60)
    extended = harness.service.extend(binding.id, expire_s=600)
    assert extended.provider_expires_at == binding.expires_at
    with pytest.raises(errors.InvalidRequest, match="may end the binding"):
        harness.service.extend(binding.id, expire_s=HOUR + 1)
    expire(harness, extended, by)
    assert_released(harness, binding)


@EITHER
def test_binding_of_this_version_is_released_whichever_version_expires_it(
    harness: ServiceHarness, by: str
) -> None:
    binding = bind(harness)
    expire(harness, binding, by)
    assert_released(harness, binding)


@EITHER
def test_doubt_of_the_version_before_is_shortened_and_released_whichever_version_adopts_it(
    harness: ServiceHarness, by: str
) -> None:
    harness.bind(C, D)
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(errors.OutcomeUnknown) as unknown:
        harness.bind(expire_s=HOUR)
    doubt, entry = unknown.value.binding, harness.simulator.ledger.entries()[-1]
    harness.clock.advance(61)
    if by == "this version":
        assert harness.service.reconcile().adopted == 1
    else:
        numbers = {"middle_number_a": entry.middle_number_a, "middle_number_b": entry.middle_number_b}
        instants = {
            "sent_at": doubt.requested_at,
            "answered_at": harness.clock.at,
            "expires_at": doubt.requested_at + timedelta(seconds=HOUR),
            "held_until": doubt.held_until,
        }
        values = {"state": State.ACTIVE, "reason": "adopted", "bind_id": str(entry.bind_id)} | numbers | instants
        is_in_doubt = bindings.c.id == doubt.id, bindings.c.state == State.IN_DOUBT
        change_as_before(harness, EventKind.ADOPTED, is_in_doubt, **values)
    adopted = harness.service.get(doubt.id)
    assert (adopted.state, adopted.provider_expires_at) == (State.ACTIVE, None)
    shortened = harness.service.unbind(doubt.id, after_s=60)
    assert shortened.provider_expires_at == adopted.expires_at
    expire(harness, shortened, "this version")
    assert_released(harness, adopted)
