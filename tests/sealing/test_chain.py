"""What a verification says of seals that are missing or in another order."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from bindings.sealing.chain import Chain
from bindings.sealing.encoding import instant_text
from bindings.sealing.findings import Findings
from bindings.sealing.keys import PublicKeys
from bindings.sealing.seals import Seal, SealBody, cursor

if TYPE_CHECKING:
    from bindings.sealing.keys import SigningKey

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def seal_of(number: int, previous: Seal | None, key: SigningKey) -> Seal:
    end = cursor((0, number))
    text = SealBody(
        number=number,
        epoch=1,
        first=end,
        last=end,
        count=1,
        root="ab",
        previous=None if previous is None else previous.hash,
        at=instant_text(AT),
        key_id=key.key_id,
    ).text()
    return Seal(number=number, to_tx=0, to_position=number, body=text, signature=key.sign(text), created_at=AT)


@pytest.mark.parametrize(
    ("numbers", "messages"),
    [
        ((1, 2, 3), []),
        ((1, 3), ["2 is missing"]),
        ((1, 4), ["2 to 3 are missing"]),
        ((2,), ["1 is missing"]),
        ((1, 3, 2), ["2 is missing", "comes after seal 3, not in the order of their numbers"]),
    ],
)
def test_verification_says_which_seals_are_missing_or_out_of_order(
    numbers: tuple[int, ...], messages: list[str], key: SigningKey
) -> None:
    seals: list[Seal] = []
    for number in numbers:
        seals.append(seal_of(number, seals[-1] if seals else None, key))
    findings = Findings()
    chain = Chain(seals, PublicKeys(key.public_pem, "keys"), findings, {})
    chain.begin()
    chain.finish((0, max(numbers)))
    reported = [finding.message for finding in findings.reported]
    assert [message for message in reported if "missing" in message or "order of their" in message] == messages
