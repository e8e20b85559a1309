"""expire, warn, recover and reconcile: one pass each, counted."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.cli.conftest import A, B, C, D

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell


def test_expire_ends_what_is_over(shell: Shell) -> None:
    shell.bind(A, B)
    binding = shell.bind(C, D, "--expire-s", "1").json
    time.sleep(1.2)  # on the real clock, as a user
    assert shell.run("expire", "--json").json == {"expired": 1, "batches": 1, "finished": True}
    assert shell.run("get", binding["id"], "--json").json["state"] == "expired"
    assert shell.run("expire").out == "expired: 0\n"


def test_warn_announces_what_ends_soon_once(shell: Shell) -> None:
    binding = shell.bind(A, B, "--warn-s", "3599").json
    time.sleep(1.2)  # on the real clock, as a user
    assert shell.run("warn", "--json").json == {"warned": 1, "batches": 1, "finished": True}
    assert shell.run("history", binding["id"], "--json").json["data"][-1]["kind"] == "expires_soon"
    assert shell.run("warn").out == "announced: 0\n"


def test_pools_tell_how_full_they_are(shell: Shell, simulator: Simulator) -> None:
    simulator.change(pool_size=1, max_concurrency=1)
    shell.bind(A, B)
    (pool,) = shell.run("pools", "--json").json["data"]
    assert (pool["pool_number"], pool["live"], pool["capacity"]) == ("918806", 1, 1)
    assert shell.run("pools").out.splitlines()[1].split() == ["918806", "4luaKsL2", "1", "1", "low"]


def test_recover_has_nothing_to_do_in_peace(shell: Shell) -> None:
    assert shell.run("recover", "--json").json == {"in_doubt": 0, "lapsed": 0, "unbound": 0, "still_unclear": 0}
    assert shell.run("recover").code == 0


def test_retention_says_that_everything_is_kept_and_with_a_setting_what_goes(shell: Shell) -> None:
    shell.bind(A, B)
    kept = shell.run("retention", "--json").json
    assert (kept["kept_from"], kept["bindings"], kept["finished"]) == (None, 0, True)
    assert "BINDINGS_RETENTION_DAYS is not set" in shell.run("retention", "--dry-run").err
    shell.set(retention_days="30")
    foretold = shell.run("retention", "--dry-run", "--json").json
    assert (foretold["dry_run"], foretold["bindings"], foretold["events"]) == (True, 0, 0)
    assert shell.run("retention").out.startswith("deleted bindings: 0")


def test_reconcile_finds_an_orphan_and_a_dry_run_only_tells_of_it(shell: Shell, simulator: Simulator) -> None:
    simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id="4luaKsL2")
    dry = shell.run("reconcile", "--dry-run", "--json").json
    assert (dry["orphans"], dry["dry_run"]) == (1, True)
    assert shell.run("stats", "--json").json["by_event"] == {}
    assert shell.run("reconcile", "--json").json["orphans"] == 1
    answer = shell.bind(A, C)
    assert (answer.code, answer.problem["holder"]["why"]) == (3, "orphan")


def test_reconcile_without_a_provider_exits_with_5_and_says_why(shell: Shell) -> None:
    shell.set(provider_url="http://127.0.0.1:9")
    answer = shell.run("reconcile")
    assert answer.code == 5
    assert "1 of 1 scans did not come to their end: connect: connection refused" in answer.err
    assert shell.run("reconcile", "--json").json["incomplete"] == 1


def test_reconcile_with_a_wrong_zone_exits_with_1(shell: Shell) -> None:
    shell.bind()
    shell.set(provider_zone="+00:00")
    answer = shell.run("reconcile")
    assert answer.code == 1
    assert "BINDINGS_PROVIDER_ZONE" in answer.err


def test_reconcile_says_when_there_is_nothing_to_ask_about(shell: Shell) -> None:
    shell.set(provider_app_id=None)
    answer = shell.run("reconcile")
    assert answer.code == 0
    assert "BINDINGS_PROVIDER_APP_ID" in answer.err
