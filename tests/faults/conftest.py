"""The laboratory that every experiment of this folder runs in."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.faults.harness import Lab
from tests.store import databases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Lab]:
    """Processes, files and servers that last for the session."""
    server = databases.find_postgres()
    if server is None and os.environ.get("CI"):
        pytest.fail("no PostgreSQL")
    lab = Lab(tmp_path_factory.mktemp("faults"), sqlite_template, None if server is None else server.url)
    try:
        yield lab
    finally:
        lab.close()
        if server is not None:
            server.stop()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long runs are run by `make soak` (`pytest -m soak`) only."""
    if "soak" in config.option.markexpr:
        return
    long = [item for item in items if item.get_closest_marker("soak")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
