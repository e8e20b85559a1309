"""Temporary databases: migrated, each with contents of its own, and deleted after their use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bindings.errors import Busy
from bindings.store import migrations
from bindings.testing import temporary_database
from bindings.testing.databases import DatabaseTemplate, memory_folder

if TYPE_CHECKING:
    from tests.store.databases import Server


def test_file_is_migrated_and_deleted_afterwards() -> None:
    with temporary_database() as url:
        assert migrations.current(url).accepted
        file = Path(url.removeprefix("sqlite:///"))
        assert file.is_file()
    assert not file.parent.exists()


@pytest.mark.postgres
def test_database_on_a_server_is_a_copy_and_dropped_afterwards(
    postgres_server: Server, postgres_template: str
) -> None:
    template = DatabaseTemplate(server_url=postgres_server.url, url=postgres_template)
    with template.copy() as first, template.copy() as second:
        assert first != second
        assert migrations.current(first).accepted
    with pytest.raises(Busy, match="no database of the name"):
        migrations.current(first)


def test_folder_in_memory_needs_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bindings.testing.databases.LEAST_MEMORY_BYTES", 2**62)
    assert memory_folder.__wrapped__() is None
