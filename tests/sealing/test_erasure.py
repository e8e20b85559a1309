"""A history with an erasure verifies, and a change that pretends to be one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import delete, text

from bindings import errors
from bindings.store.account import register_scope
from bindings.store.schema import holds
from tests.sealing.test_seal_job import verify
from tests.service.harness import APP, A, B, C, D, ServiceHarness

if TYPE_CHECKING:
    from pathlib import Path

    from bindings.sealing.keys import SigningKey
    from tests.sealing.test_seal_job import Seal


def ended(harness: ServiceHarness, phone_a: str, phone_b: str) -> str:
    binding = harness.bind(phone_a, phone_b, reference="order-1", idempotency_key=phone_a)
    harness.service.unbind(binding.id, reason="trip ended")
    return binding.id


def test_sealed_history_with_an_erasure_verifies(
    harness: ServiceHarness,
    seal: Seal,
    key: SigningKey,
    tmp_path: Path,
) -> None:
    ended(harness, A, B)
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id=APP)
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, D)
    log = harness.service.access_log
    for filters in ({"reference": "order-1"}, {"reference": "order-2"}, {}):
        export_id = log.start_export(view="find", filters=filters, format="csv", reason="drill")
        log.finish_export(export_id, row_count=1, sha256="ab")
        log.record_reveal_of_period(since=None, until=None, reason=f"call of {A}", filters=filters)
    harness.clock.advance(10_000)
    seal()
    assert verify(harness, key).findings == ()
    eraser = harness.open(erasure_journal=str(tmp_path / "erasures"))
    register_scope(harness.database, eraser.settings.scope)
    result = eraser.erasure.erase(phone=A, reason="request 17")
    assert (result.bindings, result.holds) == (2, 1)
    seal()
    assert verify(harness, key).findings == ()


def test_text_or_filter_of_an_export_that_is_deleted_without_an_erasure_is_found(
    harness: ServiceHarness, seal: Seal, key: SigningKey
) -> None:
    log = harness.service.access_log
    log.start_export(view="find", filters={"reference": "order-1"}, format="csv", reason="drill")
    seal()
    harness.rewrite(text("UPDATE exports SET filter = '{\"deleted\": true}', reason = 'deleted'"))
    assert {finding.subject for finding in verify(harness, key).findings} == {"export"}
    harness.rewrite(text("DELETE FROM texts"))
    assert {finding.subject for finding in verify(harness, key).findings} == {"text"}


@pytest.mark.parametrize("change", ["phone_a = 'x123'", "phone_a = 'x123', facts_salt = NULL, reference = NULL"])
def test_change_that_pretends_to_be_an_erasure_is_found(
    harness: ServiceHarness,
    seal: Seal,
    key: SigningKey,
    change: str,
) -> None:
    binding_id = ended(harness, A, B)
    seal()
    harness.rewrite(text(f"UPDATE bindings SET {change}, phone_a_sealed = NULL WHERE id = '{binding_id}'"))
    assert {finding.id for finding in verify(harness, key).findings} == {binding_id}


def test_hold_that_is_deleted_without_an_erasure_is_found(
    harness: ServiceHarness,
    seal: Seal,
    key: SigningKey,
) -> None:
    harness.simulator.add_foreign_binding(phone_a=A, phone_b=C, app_id=APP)
    with pytest.raises(errors.PhoneInUseAtProvider):
        harness.bind(A, D)
    seal()
    harness.rewrite(delete(holds).where(holds.c.phone == A))
    assert verify(harness, key).findings != ()
