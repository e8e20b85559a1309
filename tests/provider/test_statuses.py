from __future__ import annotations

import pytest

from bindings.provider import statuses
from bindings.provider.outcome import Refusal


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("-1", Refusal.ACCOUNT),
        ("-2", Refusal.ACCOUNT),
        ("-16", Refusal.CLOCK),
        ("-22", Refusal.REQUEST),
        ("-29", Refusal.ACCOUNT),
        ("-30", Refusal.ACCOUNT),
        ("-31", Refusal.ACCOUNT),
        ("-35", Refusal.IN_USE),
        ("-41", Refusal.NO_NUMBER),
    ],
)
def test_each_documented_refusal_has_its_class(code: str, why: Refusal) -> None:
    assert statuses.refusal(code) is why


@pytest.mark.parametrize("code", ["0", "-18", "-24", "-99", "", "00", "-035", " -35", "35"])
def test_nothing_else_is_a_refusal(code: str) -> None:
    assert statuses.refusal(code) is None


def test_every_documented_status_stands_in_the_table_once() -> None:
    documented = {"0", "-1", "-2", "-16", "-18", "-22", "-24", "-29", "-30", "-31", "-35", "-41"}
    assert sorted(status.code for status in statuses.STATUSES) == sorted(documented)


def test_every_row_of_the_table_can_be_printed() -> None:
    for status in statuses.STATUSES:
        assert all((status.meaning, status.effect, status.cause, status.remedy, status.responsible)), status.code


def test_a_status_has_its_documented_words_and_others_have_none() -> None:
    assert statuses.meaning("-18") == "system anomaly"
    assert statuses.meaning("-99") == "unknown status"
