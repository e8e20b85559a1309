"""Names of the version before: they still work, and warn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.service.harness import A, B

if TYPE_CHECKING:
    from tests.service.harness import ServiceHarness


def test_acting_returns_a_service_for_another_caller(harness: ServiceHarness) -> None:
    with pytest.warns(DeprecationWarning, match="as_caller"):
        service = harness.service.acting(actor="ops", request_id="r-1")
    assert (service.runtime.caller.actor, service.runtime.caller.request_id) == ("ops", "r-1")


def test_some_returns_bindings_by_id(harness: ServiceHarness) -> None:
    binding = harness.bind(A, B)
    with pytest.warns(DeprecationWarning, match="get_many"):
        assert harness.service.some([binding.id]) == {binding.id: binding}


def test_tally_counts_events(harness: ServiceHarness) -> None:
    with pytest.warns(DeprecationWarning, match="update_statistics"):
        assert harness.service.tally().events == 0


def test_restored_makes_binds_wait(harness: ServiceHarness) -> None:
    with pytest.warns(DeprecationWarning, match="mark_restored"):
        harness.service.restored()
    with pytest.warns(DeprecationWarning, match="mark_restored"):
        harness.service.restored(waive=True)
    assert harness.bind(A, B).is_active(harness.clock.at)
