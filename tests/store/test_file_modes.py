"""Files with phones are for their owner only, whatever the umask of the process that creates them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from bindings.cli.root import root
from bindings.monitoring.check import Level
from bindings.monitoring.protection_checks import of_file_modes
from bindings.store.database import Database

# Creates the database, also through a link, keeps it open while an export is written, and prints the modes.
PROGRAM = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "link.db").symlink_to(folder / "real.db")
os.environ["BINDINGS_DATABASE_URL"] = f"sqlite:///{folder / 'link.db'}"
from bindings.cli.root import main
from bindings.store import migrations
from bindings.store.database import Database
url = os.environ["BINDINGS_DATABASE_URL"]
migrations.upgrade(url)
database = Database(url)
database.clock()
sys.argv = ["bindings", "export", "events", "-o", str(folder / "events.csv")]
try:
    main()
finally:
    print(json.dumps({file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}))
"""


@pytest.mark.parametrize("umask", [0, 0o277], ids=oct)
def test_database_its_companions_and_exports_are_for_their_owner_whatever_the_umask(
    tmp_path: Path, umask: int
) -> None:
    process = subprocess.run(
        [sys.executable, "-B", "-c", PROGRAM, str(tmp_path)],
        umask=umask,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    modes = json.loads(process.stdout)
    assert modes.keys() == {"link.db", "real.db", "real.db-wal", "real.db-shm", "events.csv"}
    assert {modes[name] for name in modes.keys() - {"events.csv"}} == {0o600}, modes
    assert modes["events.csv"] & ~0o600 == 0, modes


def test_wider_mode_is_a_warning_with_the_command_that_corrects_it(sqlite_url: str) -> None:
    file = Path(sqlite_url.removeprefix("sqlite:///"))
    folder = file.parent / "it's"
    folder.mkdir()
    file = file.rename(folder / "a b.db")
    file.chmod(0o644)
    url = f"sqlite:///{file}"
    database = Database(url)
    try:
        check = of_file_modes(database)
        wal, shm = f"{file}-wal", f"{file}-shm"
        listed = ", ".join(f"{path} (0644)" for path in (file, wal, shm))
        expected = f"the modes of the database's files, which have phones and secrets, allow other users: {listed}"
        assert (check.level, check.seen) == (Level.WARN, expected)
        assert check.todo is not None
        assert check.todo.startswith("run `chmod 600 ")
        warned = CliRunner(env={"BINDINGS_DATABASE_URL": url}).invoke(root, ["db", "check"])
        assert warned.exit_code == 0  # it is still used
        assert f"{check.seen}; {check.todo}" in warned.stderr.replace("\n", " ")
        subprocess.run(check.todo.removeprefix("run `").removesuffix("`"), shell=True, check=True)
        assert of_file_modes(database).level is Level.OK
        assert {os.stat(path).st_mode & 0o777 for path in (file, wal, shm)} == {0o600}  # noqa: PTH116
    finally:
        database.close()
