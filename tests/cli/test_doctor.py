"""doctor: every red check has an observation and a remedy, and the other checks still run."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import update
from sqlalchemy.engine import make_url

from bindings.cli import output
from bindings.cli.doctor import COLOURS
from bindings.domain.addresses import sends_in_clear
from bindings.monitoring import health
from bindings.service import BindingService
from bindings.store import job_runs
from bindings.store.database import Database
from bindings.store.schema import passes
from tests.store.failing import failing

if TYPE_CHECKING:
    from pathlib import Path

    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell
    from tests.store.databases import Server

NAMES = ["settings", "provider_encryption", *health.DATABASE_CHECKS, *health.PROVIDER_CHECKS]


def checks_of(shell: Shell, *, code: int) -> dict[str, Any]:
    result = shell.run("doctor", "--json")
    assert result.code == code, result.out
    assert result.json["level"] == ("red" if code else result.json["level"])
    assert [check["name"] for check in result.json["data"]] == NAMES
    for check in result.json["data"]:
        assert check["level"] == "ok" or check["todo"], check
    return {check["name"]: check for check in result.json["data"]}


def test_doctor_with_correct_setup_has_no_red_check(shell: Shell, simulator: Simulator) -> None:
    shell.bind()
    checks = checks_of(shell, code=0)
    assert {name for name, check in checks.items() if check["level"] != "ok"} == {"sweep"}
    assert "bindings scheduler" in checks["sweep"]["todo"]
    assert simulator.counts.received == {"bind": 1, "page": 1, "pools": 1}


def test_doctor_without_json_prints_levels_and_remedies(shell: Shell) -> None:
    shell.set(provider_api_secret="wrong")
    result = shell.program("doctor")
    assert result.code == 1
    assert "red   account" in result.out
    assert "account: check BINDINGS_PROVIDER_API_KEY" in result.err
    assert "wrong" not in result.out


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        ("-1", "BINDINGS_PROVIDER_API_KEY"),
        ("-2", "IP address"),
        ("-29", "workspace"),
        ("-30", "API key"),
        ("-31", "whitelist"),
    ],
)
def test_refused_account_is_red_and_names_the_cause(
    shell: Shell, simulator: Simulator, status: str, hint: str
) -> None:
    simulator.change(account_status=status)
    checks = checks_of(shell, code=1)
    assert checks["account"]["level"] == "red"
    assert f"status {status}" in checks["account"]["seen"]
    assert hint in checks["account"]["todo"]
    assert checks["provider"]["level"] == "ok"


def test_refused_list_is_a_warning_once_a_bind_was_accepted_without_it(shell: Shell, simulator: Simulator) -> None:
    simulator.script("refuse:-1", rate=1.0, on="page")
    assert checks_of(shell, code=1)["account"]["level"] == "red", "a wrong key gives the same answer"
    shell.run("reconcile")
    assert checks_of(shell, code=1)["account"]["level"] == "red"
    assert shell.bind().code == 0
    checks = checks_of(shell, code=0)
    assert (checks["account"]["level"], checks["list"]["level"]) == ("ok", "warn")
    assert "status -1" in checks["list"]["seen"]
    assert "binds do not need the list" in checks["list"]["todo"]


def test_account_refused_after_its_list_was_read_is_red(shell: Shell, simulator: Simulator) -> None:
    shell.run("reconcile")
    assert shell.bind().code == 0
    simulator.change(account_status="-30")
    assert checks_of(shell, code=1)["account"]["level"] == "red"


def test_refused_list_of_pools_is_a_warning(shell: Shell, simulator: Simulator) -> None:
    simulator.script("refuse:-1", rate=1.0, on="pools")
    checks = checks_of(shell, code=0)
    assert (checks["account"]["level"], checks["list"]["level"], checks["pools"]["level"]) == ("ok", "ok", "warn")


def test_wrong_api_key_is_red(shell: Shell) -> None:
    shell.set(provider_api_key="other")
    assert "status -1" in checks_of(shell, code=1)["account"]["seen"]


@pytest.mark.parametrize(
    ("offset_s", "level"), [(0, "ok"), (45, "warn"), (-45, "warn"), (120, "warn"), (900, "red")]
)
def test_provider_clock_level_depends_on_its_offset(
    shell: Shell, simulator: Simulator, offset_s: float, level: str
) -> None:
    simulator.change(clock_offset_s=offset_s)
    checks = checks_of(shell, code=1 if level == "red" else 0)
    assert checks["provider_clock"]["level"] == level
    assert checks["account"]["level"] == "ok"  # after the correction of the timestamp
    if offset_s == 900:
        assert "status -16" in checks["provider_clock"]["seen"]
        assert "+900 s from this host's clock" in checks["provider_clock"]["seen"]
    elif offset_s:
        assert "accepts this host's timestamps" in checks["provider_clock"]["seen"]


def test_missing_schema_is_red_and_names_the_command(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "new.db").touch()
    shell.set(database_url=f"sqlite:///{tmp_path / 'new.db'}")
    checks = checks_of(shell, code=1)
    assert (checks["schema"]["level"], checks["schema"]["todo"]) == ("red", "run `bindings db upgrade`")
    assert checks["schema"]["seen"].startswith("missing, this version needs ")
    assert checks["sweep"]["seen"] == "not checked"
    assert checks["account"]["level"] == "ok"
    advice = "correct `schema` first, then check again"
    count = sum(check["todo"] == advice for check in checks.values())
    lines = shell.run("doctor").err.splitlines()
    assert [line for line in lines if advice in line] == [f"{count} checks: {advice}"]


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hunter2@127.0.0.1:9/none", "sqlite:////nowhere/at/all.db"],
    ids=["postgresql", "sqlite"],
)
def test_unreachable_database_is_red_and_the_provider_is_still_checked(shell: Shell, url: str) -> None:
    shell.set(database_url=url)
    checks = checks_of(shell, code=1)
    assert checks["database"]["level"] == "red"
    assert "BINDINGS_DATABASE_URL" in checks["database"]["todo"]
    assert checks["account"]["level"] == "ok"
    assert "hunter2" not in shell.results[-1].out


@pytest.mark.postgres
def test_check_that_the_database_did_not_allow_gives_no_advice_of_its_own(shell: Shell, postgres_url: str) -> None:
    """Not to change the scope: whether it is wrong is not known."""
    shell.set(database_url=postgres_url)
    with failing(postgres_url, "53100", when="INSERT ON account"):
        scope = checks_of(shell, code=1)["scope"]
    assert scope["seen"].startswith("not checked: the disk of the database server is full")
    assert scope["todo"] == "free space on the server"


@pytest.mark.postgres
def test_missing_permission_to_upgrade_is_named(shell: Shell, postgres_server: Server) -> None:
    url = postgres_server.create()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("REVOKE CREATE ON SCHEMA public FROM public")  # as it is since PostgreSQL 15
        admin.execute("CREATE ROLE plain_reader LOGIN")
        try:
            shell.set(
                database_url=make_url(url).set(username="plain_reader").render_as_string(hide_password=False)
            )
            schema = checks_of(shell, code=1)["schema"]
        finally:
            admin.execute("DROP ROLE plain_reader")
    assert "permission is denied for schema public" in schema["seen"]
    assert "GRANT CREATE ON SCHEMA public" in schema["todo"]
    postgres_server.drop(url)


def test_file_that_is_not_a_database_is_red(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "text.db"
    file.write_text("not a database at all, but long enough to be looked at\n" * 40)
    shell.set(database_url=f"sqlite:///{file}")
    assert checks_of(shell, code=1)["database"]["level"] == "red"


def test_unreachable_provider_is_red_and_the_database_is_still_checked(shell: Shell) -> None:
    shell.set(provider_url="http://127.0.0.1:9")
    checks = checks_of(shell, code=1)
    assert "refused" in checks["provider"]["seen"]
    assert checks["schema"]["level"] == "ok"


def test_provider_with_invalid_response_is_red(shell: Shell, simulator: Simulator) -> None:
    simulator.script("bad_gateway", times=1)
    assert checks_of(shell, code=1)["provider"]["level"] == "red"


def test_missing_credentials_are_a_warning_that_names_the_variables(shell: Shell) -> None:
    shell.set(provider_api_key=None, provider_api_secret=None, provider_app_id=None)
    checks = checks_of(shell, code=0)
    assert checks["provider"]["level"] == "warn"
    for name in ("API_KEY", "API_SECRET", "APP_ID"):
        assert f"BINDINGS_PROVIDER_{name}" in checks["provider"]["seen"]


def test_wrong_settings_are_reported_first_and_together_without_their_values(shell: Shell) -> None:
    shell.set(bind_limit="lots", provider_zone="Mars", colour="blue")
    checks = checks_of(shell, code=1)
    for name in ("BIND_LIMIT", "PROVIDER_ZONE", "COLOUR"):
        assert f"BINDINGS_{name}" in checks["settings"]["seen"]
    assert checks["settings"]["level"] == "red"
    for value in ("lots", "Mars", "blue"):
        assert value not in shell.results[-1].out


def test_database_of_another_account_is_red(shell: Shell) -> None:
    shell.bind()
    shell.set(scope="other")
    assert checks_of(shell, code=1)["scope"]["level"] == "red"
    result = shell.run("list", "--json")
    assert (result.code, result.fields) == (2, ["BINDINGS_SCOPE"])


def test_reconciliation_that_takes_longer_than_three_intervals_is_a_warning(shell: Shell) -> None:
    shell.bind()
    assert checks_of(shell, code=0)["reconcile_duration"]["level"] == "ok"
    with closing(Database(shell.environment["BINDINGS_DATABASE_URL"])) as database:
        slot = database.write(lambda tx: job_runs.claim_slot(tx, "reconcile", 300.0, "a-replica"))
        assert slot is not None
        checks = checks_of(shell, code=0)
        assert checks["reconcile_duration"]["level"] == "ok"
        assert "has not finished" in checks["reconcile_duration"]["seen"]
        started = update(passes).where(passes.c.task == "reconcile")
        hour_ago = database.clock() - timedelta(hours=1)
        database.write(lambda tx: tx.connection.execute(started.values(started_at=hour_ago)))
        assert checks_of(shell, code=0)["reconcile_duration"]["level"] == "warn"
        database.write(lambda tx: job_runs.finish(tx, "reconcile", slot, {}))
        check = checks_of(shell, code=0)["reconcile_duration"]
    assert (check["level"], check["seen"][:18]) == ("warn", "the last one took ")
    assert "BINDINGS_SCAN_CALLS_PER_S" in check["todo"]


def test_open_doubts_are_a_warning_with_their_number_and_the_oldest(shell: Shell, simulator: Simulator) -> None:
    simulator.script("lost_reply", times=1)
    shell.bind()
    checks = checks_of(shell, code=0)
    assert checks["doubts"]["level"] == "warn"
    assert checks["doubts"]["seen"].startswith("1 open, the oldest from ")


ELSEWHERE = "http://provider.invalid:9"


def test_address_that_sends_in_clear_to_another_host_is_a_warning(shell: Shell) -> None:
    shell.set(provider_url=ELSEWHERE)
    shell.run("webhooks", "add", "--url", "http://127.0.0.1:9/hook")
    in_clear = shell.run("webhooks", "add", "--url", "http://receiver.invalid/hook", "--json").json["id"]
    disabled = shell.run("webhooks", "add", "--url", "http://receiver.invalid/other", "--json").json["id"]
    with BindingService.open(environment=shell.environment) as service:
        service.webhooks.disable(disabled)
    checks = checks_of(shell, code=1)
    provider, webhook = checks["provider_encryption"], checks["webhook_encryption"]
    assert (provider["level"], webhook["level"]) == ("warn", "warn")
    assert "BINDINGS_PROVIDER_URL is http: to another host" in provider["seen"]
    assert "phones and the API key" in provider["seen"]
    assert "5 min (BINDINGS_TIMESTAMP_TOLERANCE_S)" in provider["seen"]
    assert in_clear in webhook["seen"]
    assert disabled not in webhook["seen"]


def test_config_and_new_webhooks_warn_of_what_is_sent_in_clear(shell: Shell) -> None:
    assert shell.run("config").err == ""
    assert "in clear" not in shell.run("webhooks", "add", "--url", "https://receiver.invalid/hook").err
    shell.set(provider_url=ELSEWHERE)
    assert "phones and the API key are sent in clear" in shell.run("config").err
    assert "in clear" in shell.run("webhooks", "add", "--url", "http://receiver.invalid/hook").err


@pytest.mark.parametrize(
    ("url", "in_clear"),
    [
        ("https://api.example.com", False),
        ("http://api.example.com", True),
        ("HTTP://api.example.com", True),
        ("http://10.0.0.8:8080/gateway", True),
        ("http://127.0.0.1:9000", False),
        ("http://127.8.8.8", False),
        ("http://localhost:9000", False),
        ("http://LOCALHOST", False),
        ("http://[::1]:9000", False),
        ("http://[fd00::8]", True),
        ("http://localhost.example.com", True),
        ("http://127.0.0.1.example.com", True),
    ],
)
def test_address_sends_in_clear_if_it_is_http_and_of_another_host(url: str, *, in_clear: bool) -> None:
    assert sends_in_clear(url) == in_clear


def test_levels_have_colours_in_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [["red", "provider", "not reached"]]
    output.table(["", "CHECK", "OBSERVED"], rows, colours=COLOURS)
    assert "\x1b[" not in capsys.readouterr().out
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    output.table(["", "CHECK", "OBSERVED"], rows, colours=COLOURS)
    assert re.search(r"\x1b\[1;31mred", capsys.readouterr().out)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR")
    output.table(["", "CHECK", "OBSERVED"], rows, colours=COLOURS)
    assert "31m" not in capsys.readouterr().out
