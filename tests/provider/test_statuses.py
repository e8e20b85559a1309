from __future__ import annotations

import re
from pathlib import Path

import pytest

from bindings.http_transport import NotSent, Unknown
from bindings.provider import statuses
from bindings.provider.outcome import (
    BindSucceeded,
    ProviderPage,
    ProviderPools,
    Refusal,
    Refused,
    UnbindNotFound,
    UnbindSucceeded,
)


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        ("-1", Refusal.ACCOUNT),
        ("-2", Refusal.ACCOUNT),
        ("-13", Refusal.ACCOUNT),
        ("-16", Refusal.CLOCK),
        ("-22", Refusal.REQUEST),
        ("-29", Refusal.ACCOUNT),
        ("-30", Refusal.ACCOUNT),
        ("-31", Refusal.ACCOUNT),
        ("-35", Refusal.IN_USE),
        ("-41", Refusal.NO_NUMBER),
    ],
)
def test_documented_refusal_has_its_class(code: str, refusal: Refusal) -> None:
    assert statuses.refusal(code) is refusal


@pytest.mark.parametrize("code", ["0", "-18", "-24", "-99", "", "00", "-035", " -35", "35"])
def test_other_statuses_are_not_refusals(code: str) -> None:
    assert statuses.refusal(code) is None


def test_every_documented_status_is_in_the_table_once() -> None:
    documented = {"0", "-1", "-2", "-13", "-16", "-18", "-22", "-24", "-29", "-30", "-31", "-35", "-41"}
    assert sorted(status.code for status in statuses.STATUSES) == sorted(documented)


def test_every_row_of_the_table_has_all_texts() -> None:
    for status in statuses.STATUSES:
        assert all((status.meaning, status.effect, status.cause, status.remedy, status.responsible)), status.code


def test_meaning_is_the_documented_one_or_unknown() -> None:
    assert statuses.meaning("-18") == "system anomaly"
    assert statuses.meaning("-99") == "unknown status"


def test_metric_labels_of_the_outcomes_are_the_documented_ones() -> None:
    outcomes = (
        BindSucceeded,
        UnbindSucceeded,
        UnbindNotFound,
        Refused,
        NotSent,
        Unknown,
        ProviderPage,
        ProviderPools,
    )
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "monitor.md").read_text(encoding="utf-8")
    [row] = [line for line in page.splitlines() if line.startswith("| `bindings_provider_call_seconds` |")]
    documented = re.findall("`([a-z_]+)`", row.split("|")[3])
    assert sorted(documented) == sorted(outcome.label for outcome in outcomes)
