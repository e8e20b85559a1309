"""The code of earlier versions, from the history of this repository."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NoReturn

import pytest

from bindings.domain.binding import Caller
from bindings.store import downgrade, migrations
from bindings.store.schema import HEAD
from tests.acceptance.serving import ROOT, Command, Replica

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SCHEMA = "bindings/store/schema.py"
HEAD_LINE = re.compile(r'^HEAD = "(\d{4})"', re.MULTILINE)
OF_LATER_VERSIONS = "BINDINGS_PHONE_SEARCH_BUDGET", "BINDINGS_WEBHOOK_NETWORKS"  # not each version knows them


@dataclass(frozen=True, kw_only=True)
class Version:
    """The last code that was made for a revision of the schema, in a folder of its own."""

    revision: str
    root: Path
    environment: Mapping[str, str]

    @cached_property
    def _environment(self) -> dict[str, str]:
        settings = (self.root / "bindings" / "settings.py").read_text(encoding="utf-8")
        unknown = {name for name in OF_LATER_VERSIONS if name.removeprefix("BINDINGS_").lower() not in settings}
        return {name: value for name, value in self.environment.items() if name not in unknown}

    def replica(self, log: Path) -> Replica:
        """Start a replica, which is not yet waited for."""
        return Replica(log, self._environment, root=self.root)

    def upgrade(self) -> None:
        """Migrate the database to the revision of this version."""
        if self.root == ROOT:
            migrations.upgrade(self._url)
        else:
            self._run("upgrade")

    def downgrade(self, revision: str) -> None:
        """Undo migrations of this version, whatever is lost with them."""
        if self.root == ROOT:
            downgrade.run(self._url, downgrade.plan(self._url, revision), Caller(actor="test"))
        else:
            self._run("downgrade", revision, "--lose-data", "--processes-ended")

    @property
    def _url(self) -> str:
        return self.environment["BINDINGS_DATABASE_URL"]

    def _run(self, *arguments: str) -> None:
        log = self.root / "commands.log"
        with Command(log, self._environment, "db", *arguments, root=self.root) as command:
            assert command.process.wait(300) == 0, log.read_text()


def version_for(revision: str, folder: Path, environment: Mapping[str, str]) -> Version:
    """Return the version for `revision`: this checkout if it is the newest, else one from the history.

    Skips the test if the history is not there or does not reach back to it.
    """
    if revision == HEAD:
        return Version(revision=revision, root=ROOT, environment=environment)
    root = folder / revision
    archive = _git("archive", _last_commit(revision), "bindings", "migrations")
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(root, filter="data")
    return Version(revision=revision, root=root, environment=environment)


def _last_commit(revision: str) -> str:
    """Return the last commit whose code needs this revision."""
    for commit in _git("log", "--format=%H", "-G^HEAD = ", "--", SCHEMA).decode().split():
        before = f"{commit}^"
        head = HEAD_LINE.search(_git("show", f"{before}:{SCHEMA}").decode())
        if head is not None and head[1] == revision:
            return before
    return _skip(f"the history does not reach back to the code for {revision}")


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        return _skip(f"git {arguments[0]} failed: {error}")


def _skip(why: str) -> NoReturn:
    pytest.skip(f"NO VERSION RAN BESIDE THE ONE BEFORE: {why}")
