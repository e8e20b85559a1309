"""Commands that run one job: their counts, messages and exit codes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.cli.conftest import A, B, C, D
from tests.service.harness import wait_for

if TYPE_CHECKING:
    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell


def test_expire_expires_bindings_whose_time_is_over(shell: Shell) -> None:
    shell.bind(A, B)
    binding = shell.bind(C, D, "--expire-s", "1").json
    wait_for(lambda: shell.run("lookup", "--phone", C, "--json").json["data"] == [])
    assert shell.run("expire", "--json").json == {"expired": 1, "batches": 1, "finished": True}
    assert shell.run("get", binding["id"], "--json").json["state"] == "expired"
    assert shell.run("expire").out == "expired: 0\n"


def test_warn_announces_a_binding_once(shell: Shell) -> None:
    binding = shell.bind(A, B, "--warn-s", "3599").json
    due_at = datetime.fromisoformat(binding["expires_at"]) - timedelta(seconds=3599)
    wait_for(lambda: datetime.now(UTC) > due_at)
    assert shell.run("warn", "--json").json == {"warned": 1, "batches": 1, "finished": True}
    assert shell.run("history", binding["id"], "--json").json["data"][-1]["kind"] == "expires_soon"
    assert shell.run("warn").out == "announced: 0\n"


def test_pools_shows_active_bindings_and_capacity(shell: Shell, simulator: Simulator) -> None:
    unused = shell.run("pools")
    assert (unused.code, unused.out, "No pool is in use" in unused.err) == (0, "", True)
    simulator.change(pool_size=1, max_concurrency=1)
    shell.bind(A, B)
    (pool,) = shell.run("pools", "--json").json["data"]
    assert (pool["pool_number"], pool["live"], pool["capacity"]) == ("918806", 1, None)
    assert shell.run("pools").out.splitlines()[1].split() == ["918806", "4luaKsL2", "1", "unknown"]
    assert shell.bind(C, D).code == 7
    (pool,) = shell.run("pools", "--json").json["data"]
    assert (pool["pool_number"], pool["live"], pool["capacity"]) == ("918806", 1, 1)
    assert shell.run("pools").out.splitlines()[1].split() == ["918806", "4luaKsL2", "1", "1", "low"]


def test_recover_without_open_operations_does_nothing(shell: Shell) -> None:
    assert shell.run("recover", "--json").json == {
        "in_doubt": 0,
        "lapsed": 0,
        "unbound": 0,
        "still_unclear": 0,
        "released": 0,
        "never_sent": 0,
    }
    assert shell.run("recover").code == 0


def test_retention_deletes_only_with_the_setting_and_names_the_counts(shell: Shell) -> None:
    shell.bind(A, B)
    result = shell.run("retention", "--json").json
    assert (result["kept_from"], result["bindings"], result["finished"]) == (None, 0, True)
    assert "BINDINGS_RETENTION_DAYS is not set" in shell.run("retention", "--dry-run").err
    shell.set(retention_days="30")
    dry_run = shell.run("retention", "--dry-run", "--json").json
    assert (dry_run["dry_run"], dry_run["bindings"], dry_run["events"]) == (True, 0, 0)
    assert shell.run("retention").out.startswith("deleted bindings: 0")


def test_reconcile_holds_an_orphan_and_a_dry_run_only_counts_it(shell: Shell, simulator: Simulator) -> None:
    simulator.add_foreign_binding(phone_a=A, phone_b=B, app_id="4luaKsL2")
    dry = shell.run("reconcile", "--dry-run", "--json").json
    assert (dry["orphans"], dry["dry_run"]) == (1, True)
    assert shell.run("stats", "--json").json["by_event"] == {}
    assert shell.run("reconcile", "--json").json["orphans"] == 1
    result = shell.bind(A, C)
    assert (result.code, result.problem["holder"]["why"]) == (3, "orphan")


def test_reconcile_with_unreachable_provider_exits_with_5_and_names_the_cause(shell: Shell) -> None:
    shell.set(provider_url="http://127.0.0.1:9")
    result = shell.run("reconcile")
    assert result.code == 5
    assert "1 of 1 scans are incomplete: connect: connection refused" in result.err
    assert shell.run("reconcile", "--json").json["incomplete"] == 1


def test_reconcile_with_wrong_zone_setting_exits_with_1(shell: Shell) -> None:
    shell.bind()
    shell.set(provider_zone="+00:00")
    result = shell.run("reconcile")
    assert result.code == 1
    assert "BINDINGS_PROVIDER_ZONE" in result.err


def test_reconcile_without_any_application_names_the_setting(shell: Shell) -> None:
    shell.set(provider_app_id=None)
    result = shell.run("reconcile")
    assert result.code == 0
    assert "BINDINGS_PROVIDER_APP_ID" in result.err
