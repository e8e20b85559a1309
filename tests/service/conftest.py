"""Fixtures for the service tests."""

from __future__ import annotations

import pytest

from bindings.jobs import reconcile


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a scan read a few rows per page, so that a short list has several pages in both directions."""
    monkeypatch.setattr(reconcile, "FORWARD_SIZE", 10)
    monkeypatch.setattr(reconcile, "BACKWARD_SIZE", 7)
