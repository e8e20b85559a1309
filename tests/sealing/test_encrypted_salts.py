"""With encrypted phones the salts are encrypted too: with a salt and its hash every phone could be tried."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select, update

from bindings import errors
from bindings.monitoring.audit import verify_database
from bindings.sealing.keys import PublicKeys
from bindings.store.schema import bindings, holds
from tests.service.harness import C, D, E, F
from tests.service.phone_keys import SEALED, write_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy import Connection, Table

    from bindings.jobs.seal import SealResult
    from bindings.sealing.keys import SigningKey
    from tests.service.harness import ServiceHarness


@pytest.fixture
def phones() -> str:
    return SEALED


def refuse(harness: ServiceHarness, a: str, b: str) -> None:
    harness.simulator.script("refuse:-35", times=1, on="bind")
    with pytest.raises(errors.PhoneInUse):
        harness.bind(a, b)


def findings(harness: ServiceHarness, key: SigningKey) -> list[str]:
    keys = PublicKeys(key.public_pem, "public-key")
    return [finding.message for finding in verify_database(harness.service.runtime.database, keys, {}).findings]


def _salts(connection: Connection, table: Table) -> Sequence[str]:
    return connection.execute(select(table.c.facts_salt)).scalars().all()


def test_salts_are_encrypted_and_the_facts_are_still_proved(
    harness: ServiceHarness, key: SigningKey, seal: Callable[..., SealResult]
) -> None:
    first, second = harness.bind(), harness.bind(C, D)
    refuse(harness, E, F)
    harness.clock.advance(61)
    refuse(harness, E, F)
    seal()
    assert findings(harness, key) == []
    for table in (bindings, holds):
        salts = harness.database.read(_salts, table)
        assert salts
        assert {(salt[0], len(salt)) for salt in salts} == {("~", 45)}
    of_first = select(bindings.c.facts_salt).where(bindings.c.id == first.id).scalar_subquery()
    harness.rewrite(update(bindings).where(bindings.c.id == second.id).values(facts_salt=of_first))
    assert any("cannot be read" in message for message in findings(harness, key))


def test_salts_of_rows_in_digits_and_of_encrypted_rows_are_read_alike(
    harness: ServiceHarness, key: SigningKey, seal: Callable[..., SealResult]
) -> None:
    harness.bind()
    write_sealed(harness.database, index=None, data=None)
    harness.bind(C, D)
    refuse(harness, E, F)
    seal()
    assert findings(harness, key) == []
