"""Commands show words that only a later version knows as they are stored."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy.engine import make_url

if TYPE_CHECKING:
    from tests.cli.conftest import Shell

KIND, ROLE, REASON = "moved_to_another_number", "supervisor", "a_reason_of_the_next_version"


def test_commands_show_unknown_kinds_roles_reasons_and_cases(shell: Shell) -> None:
    binding_id = shell.bind().json["id"]
    shell.run("unbind", binding_id)
    shell.run("keys", "create", "--name", "next", "--role", "admin")
    shell.run("reconcile")
    database = sqlite3.connect(make_url(shell.environment["BINDINGS_DATABASE_URL"]).database or "")
    with database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        database.execute("UPDATE keys SET role = ?", (ROLE,))
        database.execute("UPDATE bindings SET reason = ?, version = version + 1", (REASON,))
        database.execute(
            "INSERT INTO events (binding_id, sequence, kind, at, actor, detail)"
            " SELECT id, version, ?, requested_at, 'later', ? FROM bindings",
            (KIND, json.dumps({"reason": REASON})),
        )
        database.execute(
            "INSERT INTO reports (id, began_at, finished_at, actor, counts, cases) SELECT"
            " '0190b5a0-0000-7000-8000-000000000001', began_at, finished_at, actor, ?, ? FROM reports",
            (json.dumps({"revenants": 1}), json.dumps([{"case": "revenants"}])),
        )
    database.close()
    for command, word in (
        (("history", binding_id), KIND),
        (("get", binding_id), REASON),
        (("keys", "list"), ROLE),
        (("export", "events"), KIND),
        (("export", "bindings"), REASON),
        (("stats",), KIND),
        (("reports",), ""),
    ):
        for options in ((), ("--json",)):
            result = shell.run(*command, *options)
            assert (result.code, word in result.out) == (0, True), (command, options, result.err)
    assert "revenants" in shell.run("reports", "--json").out
