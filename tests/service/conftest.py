"""Fixtures for the service tests."""

from __future__ import annotations

import pytest

from bindings.jobs import provider_scan, reconcile


@pytest.fixture(autouse=True)
def _no_wait_between_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a scan ask for a page again at once: the monotonic clock of the harness is the real one."""
    monkeypatch.setattr(provider_scan, "FAILED_WAITS_S", (0.0, 0.0))
    monkeypatch.setattr(provider_scan, "LIMITED_WAITS_S", (0.0, 0.0))


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a scan read a few rows per page, so that a short list has several pages in both directions."""
    monkeypatch.setattr(reconcile, "FORWARD_SIZE", 10)
    monkeypatch.setattr(reconcile, "BACKWARD_SIZE", 7)
