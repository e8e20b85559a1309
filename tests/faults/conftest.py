"""The fault harness as a fixture, and the selection of long runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import FaultHarness
from tests.store import databases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def fault_harness(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[FaultHarness]:
    """Make the harness of this session."""
    server = databases.find_postgres()
    if server is None and os.environ.get("CI"):
        pytest.fail("no PostgreSQL")
    fault_harness = FaultHarness(
        tmp_path_factory.mktemp("faults"), sqlite_template, None if server is None else server.url
    )
    try:
        yield fault_harness
    finally:
        fault_harness.close()
        if server is not None:
            server.stop()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect long runs, unless `-m` asks for them (`make soak`)."""
    if "soak" in config.option.markexpr:
        return
    long_runs = [item for item in items if item.get_closest_marker("soak")]
    if long_runs:
        config.hook.pytest_deselected(items=long_runs)
        items[:] = [item for item in items if item not in long_runs]
