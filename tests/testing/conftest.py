"""The databases of the other tests, so that the migrations run only once."""

from __future__ import annotations

import pytest


@pytest.fixture
def bindings_database_url(sqlite_url: str) -> str:
    return sqlite_url
