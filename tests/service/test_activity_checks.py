"""The checks of what happened lately: each sentence is shown only in the state that it describes."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import Caller
from bindings.errors import BindingsError, OutcomeUnknown
from bindings.monitoring.activity_checks import of_binds, of_webhooks
from bindings.monitoring.check import Check, Level
from bindings.monitoring.reconciliation_checks import of_reconciliation
from bindings.store import reports
from tests.service.harness import A, B, C, D, E, F

if TYPE_CHECKING:
    from typing import Any

    from tests.service.harness import ServiceHarness

PAIRS = ((A, B), (C, D), (E, F))
MORE_PAIRS = tuple((f"91770000{number:02}", f"91770001{number:02}") for number in range(9))


def seen(check: Check) -> tuple[Level, str]:
    assert (check.todo is None) == (check.level is Level.OK)
    return check.level, check.seen


def fail_binds(harness: ServiceHarness, fault: str) -> None:
    harness.simulator.script(fault, times=len(PAIRS), on="bind")
    for pair in PAIRS:
        with pytest.raises(BindingsError):
            harness.bind(*pair)


def test_binds_that_all_fail_are_red_and_name_the_cause(harness: ServiceHarness) -> None:
    assert seen(of_binds(harness.database)) == (Level.OK, "none has a result in the last 5 min")
    fail_binds(harness, "refuse:-41")
    level, text = seen(of_binds(harness.database))
    assert level is Level.RED
    assert text.startswith("0 of 3 succeeded in the last 5 min; most frequent: status -41, ")
    assert text.endswith("(3)")
    harness.clock.advance(6 * 60)
    assert seen(of_binds(harness.database)) == (Level.OK, "none has a result in the last 5 min")


def test_binds_without_a_clear_answer_are_red(harness: ServiceHarness) -> None:
    fail_binds(harness, "reset_before")
    level, text = seen(of_binds(harness.database))
    assert (level, "no clear answer of the provider (3)" in text) == (Level.RED, True)


def test_some_failed_binds_are_a_warning_and_few_are_none(harness: ServiceHarness) -> None:
    harness.simulator.script("refuse:-22", times=1, on="bind")
    with suppress(BindingsError):
        harness.bind(A, B)
    assert seen(of_binds(harness.database)) == (Level.OK, "0 of 1 succeeded in the last 5 min")
    for pair in MORE_PAIRS[:8]:
        harness.bind(*pair)
    assert seen(of_binds(harness.database)) == (Level.OK, "8 of 9 succeeded in the last 5 min")
    harness.bind(*MORE_PAIRS[8])
    assert seen(of_binds(harness.database)) == (Level.OK, "9 of 10 succeeded in the last 5 min")
    harness.simulator.script("refuse:-22", times=1, on="bind")
    with suppress(BindingsError):
        harness.bind(C, D)
    level, text = seen(of_binds(harness.database))
    assert (level, text.startswith("9 of 11 succeeded")) == (Level.WARN, True)


def test_binds_that_succeed_are_ok(harness: ServiceHarness) -> None:
    for pair in PAIRS:
        harness.bind(*pair)
    assert seen(of_binds(harness.database)) == (Level.OK, "3 of 3 succeeded in the last 5 min")


def test_list_that_cannot_be_read_is_a_warning_until_it_was_read(harness: ServiceHarness) -> None:
    assert seen(of_reconciliation(harness.database, harness.service.settings)) == (
        Level.OK,
        "none is among the newest 20 reports",
    )
    harness.bind(A, B)
    harness.simulator.script("bad_gateway", rate=1.0, on="page")
    for _ in range(2):
        harness.service.reconcile()
        harness.service.reconcile(dry_run=True)
        harness.clock.advance(60)
    level, text = seen(of_reconciliation(harness.database, harness.service.settings))
    assert (level, text) == (
        Level.WARN,
        "the last 2 did not read and handle the whole list, the newest 60 s ago",
    )
    harness.simulator.clear_faults()
    harness.service.reconcile()
    level, text = seen(of_reconciliation(harness.database, harness.service.settings))
    assert (level, text.endswith("read all that it needed")) == (Level.OK, True)


def test_times_that_do_not_fit_are_red_and_name_the_setting(harness: ServiceHarness) -> None:
    counts: dict[str, Any] = {"zone_misfit_s": 3_600.0, "incomplete": 1}
    harness.database.write(
        lambda tx: reports.store(tx, Caller(actor="test"), began_at=harness.clock(), counts=counts, cases=[])
    )
    check = of_reconciliation(harness.database, harness.service.settings)
    assert (check.level, check.todo) == (Level.RED, "check BINDINGS_PROVIDER_ZONE")


def test_webhooks_are_ok_without_dead_letters(harness: ServiceHarness) -> None:
    assert seen(of_webhooks(harness.database)) == (Level.OK, "deliveries: 0 pending, 0 dead")


def test_outcome_of_a_pending_bind_is_not_counted(harness: ServiceHarness) -> None:
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(OutcomeUnknown):
        harness.bind(A, B)
    assert of_binds(harness.database).seen == "0 of 1 succeeded in the last 5 min"
