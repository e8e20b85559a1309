"""Retention and erasure in a sealed history: what they record is accepted, and nothing else, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, select, text

from bindings.monitoring.audit import Verification, verify_database
from bindings.sealing.encoding import event_bytes
from bindings.sealing.findings import Findings
from bindings.sealing.keys import PublicKeys
from bindings.sealing.rows import RowComparison
from bindings.sealing.seals import SealBody
from bindings.store.account import register_scope
from bindings.store.schema import bindings, seals
from tests.service.harness import NOON, A, B, C, D, E, F, ServiceHarness

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy import Connection

    from bindings.jobs.retention import RetentionResult
    from bindings.jobs.seal import SealResult
    from bindings.sealing.keys import SigningKey

    Seal = Callable[..., SealResult]

DAY = 86_400.0


@pytest.fixture
def verify(harness: ServiceHarness, key: SigningKey) -> Callable[[], Verification]:
    register_scope(harness.database, "default")
    return lambda: verify_database(harness.database, PublicKeys(key.public_pem, "key"), {})


def test_retention_deletes_only_what_a_sealed_event_says(
    harness: ServiceHarness, seal: Seal, verify: Callable[[], Verification]
) -> None:
    keeping = harness.open(retention_days=7)

    def apply() -> RetentionResult:
        return keeping.apply_retention()

    for phones in ((A, B), (C, D)):
        harness.service.unbind(harness.bind(*phones).id)
    seal(batch=3)
    harness.clock.advance(10 * DAY)
    harness.service.unbind(harness.bind(E, F).id)
    assert apply().bindings == 0, "the event is not sealed yet"
    seal()
    assert apply().bindings == 2
    assert verify().findings == ()
    if harness.database.postgres:
        return
    assert apply().events == 0, "the mark is not sealed yet"
    seal()
    assert apply().events == 8, "three whole seals; the event of the last one is in the next"
    result = verify()
    assert (result.findings, result.deleted_seals) == ((), 3)
    assert seal().finished
    assert verify().findings == ()


def test_binding_that_was_deleted_early_is_found(
    harness: ServiceHarness, seal: Seal, verify: Callable[[], Verification]
) -> None:
    keeping = harness.open(retention_days=7)
    harness.service.unbind(harness.bind(A, B).id)
    harness.clock.advance(10 * DAY)
    young = harness.bind(C, D)
    harness.service.unbind(young.id)
    seal()
    keeping.apply_retention()
    seal()
    assert keeping.apply_retention().bindings == 1

    def delete_early(connection: object) -> None:
        if harness.database.postgres:
            connection.execute(text("SET LOCAL session_replication_role = replica"))  # type: ignore[attr-defined]
        else:
            connection.execute(text("DROP TRIGGER bindings_refuse_delete"))  # type: ignore[attr-defined]
        connection.execute(delete(bindings).where(bindings.c.id == young.id))  # type: ignore[attr-defined]

    harness.database.write(lambda tx: delete_early(tx.connection))
    harness.has_rewritten = True
    found = [(finding.subject, finding.id) for finding in verify().findings if finding.subject != "trigger"]
    assert found == [("binding", young.id)]


def test_restore_starts_an_epoch_and_names_the_head_that_it_loses(
    harness: ServiceHarness, seal: Seal, key: SigningKey, verify: Callable[[], Verification]
) -> None:
    harness.bind(A, B)
    seal()
    lost = f"7:{64 * 'a'}"
    harness.service.mark_restored(head=lost)
    seal()
    assert verify().findings == ()
    epochs = [SealBody.parse(body).epoch for body in harness.database.read(_bodies)]
    assert epochs == [1, 2]
    keys = PublicKeys(key.public_pem, "key")
    assert verify_database(harness.database, keys, {7: 64 * "a"}).findings == ()
    cut_off = verify_database(harness.database, keys, {7: 64 * "b"})
    assert [finding.message for finding in cut_off.findings] == ["has no seal 7: it was cut off"]


def _bodies(connection: Connection) -> list[str]:
    return list(connection.execute(select(seals.c.body).order_by(seals.c.number)).scalars())


def test_texts_may_be_missing_once_erased_and_stay_after_deleted_events() -> None:
    findings = Findings()
    with RowComparison(findings, with_rows=True) as comparison:
        comparison.deleted_until = 9, 5
        for position in (5, 6):
            comparison.add_row("text", {"id": f"{position} reason", "facts": "ab", "group": str(position)})
        detail = {"reason": {"text_sha256": "ab"}}
        for binding_id, kinds in {"erased": ("unbound", "erased"), "kept": ("unbound",)}.items():
            for position, kind in enumerate(kinds, 7):
                event: dict[str, Any] = {
                    "kind": kind,
                    "binding_id": binding_id,
                    "tx": 10,
                    "position": position,
                    "sequence": 9,
                }
                event |= {"at": NOON, "detail": detail if kind == "unbound" else {}}
                comparison.add_event(event_bytes(event), event, 1)
        comparison.finish()
    of_texts = [(finding.id, finding.message) for finding in findings.reported if finding.subject == "text"]
    assert sorted(of_texts) == [
        ("6 reason", "has a row and no event"),
        ("7 reason", "has an event and no row"),
    ]
