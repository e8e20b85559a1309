"""doctor: every red case says what was seen and what to do, and the other checks are still made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bindings.monitoring import health

if TYPE_CHECKING:
    from pathlib import Path

    from bindings.provider.simulator import Simulator
    from tests.cli.conftest import Shell

NAMES = ["settings", *health.DATABASE_CHECKS, *health.PROVIDER_CHECKS]


def checks_of(shell: Shell, *, code: int) -> dict[str, Any]:
    answer = shell.run("doctor", "--json")
    assert answer.code == code, answer.out
    assert answer.json["level"] == ("red" if code else answer.json["level"])
    assert [check["name"] for check in answer.json["data"]] == NAMES
    for check in answer.json["data"]:
        assert check["level"] == "ok" or check["todo"], check
    return {check["name"]: check for check in answer.json["data"]}


def test_a_machine_in_order_has_no_red(shell: Shell, simulator: Simulator) -> None:
    shell.bind()
    found = checks_of(shell, code=0)
    assert {name for name, check in found.items() if check["level"] != "ok"} == {"sweep"}
    assert "bindings scheduler" in found["sweep"]["todo"]
    assert simulator.counts.received == {"bind": 1, "page": 1}


def test_it_reads_well_without_json(shell: Shell) -> None:
    shell.set(provider_api_secret="wrong")
    answer = shell.program("doctor")
    assert answer.code == 1
    assert "red   account" in answer.out
    assert "account: check BINDINGS_PROVIDER_API_KEY" in answer.err
    assert "wrong" not in answer.out


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
def test_a_refused_account_is_red_and_says_why(shell: Shell, simulator: Simulator, status: str, hint: str) -> None:
    simulator.script(f"refuse:{status}", times=1)
    found = checks_of(shell, code=1)
    assert found["account"]["level"] == "red"
    assert f"status {status}" in found["account"]["seen"]
    assert hint in found["account"]["todo"]
    assert found["provider"]["level"] == "ok"


def test_a_wrong_key_is_red(shell: Shell) -> None:
    shell.set(provider_api_key="other")
    assert "status -1" in checks_of(shell, code=1)["account"]["seen"]


@pytest.mark.parametrize(
    ("offset_s", "level"), [(0, "ok"), (45, "warn"), (-45, "warn"), (120, "red"), (900, "red")]
)
def test_the_providers_clock_is_compared(shell: Shell, simulator: Simulator, offset_s: float, level: str) -> None:
    simulator.change(clock_offset_s=offset_s)
    found = checks_of(shell, code=1 if level == "red" else 0)
    assert found["provider_clock"]["level"] == level
    assert found["account"]["level"] == "ok"  # once the stamp is corrected
    if offset_s == 900:
        assert "status -16" in found["provider_clock"]["seen"]
        assert "900 s apart" in found["provider_clock"]["seen"]


def test_a_missing_schema_is_red_and_names_the_command(shell: Shell, tmp_path: Path) -> None:
    shell.set(database_url=f"sqlite:///{tmp_path / 'new.db'}")
    found = checks_of(shell, code=1)
    assert (found["schema"]["level"], found["schema"]["todo"]) == ("red", "run `bindings db upgrade`")
    assert found["sweep"]["seen"] == "not looked at"
    assert found["account"]["level"] == "ok"


@pytest.mark.parametrize(
    "url",
    ["postgresql://u:hunter2@127.0.0.1:9/none", "sqlite:////nowhere/at/all.db"],
    ids=["postgresql", "sqlite"],
)
def test_an_unreachable_database_is_red_and_the_provider_is_still_asked(shell: Shell, url: str) -> None:
    shell.set(database_url=url)
    found = checks_of(shell, code=1)
    assert found["database"]["level"] == "red"
    assert "BINDINGS_DATABASE_URL" in found["database"]["todo"]
    assert found["account"]["level"] == "ok"
    assert "hunter2" not in shell.seen[-1].out


def test_a_file_that_is_no_database_is_red(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "text.db"
    file.write_text("not a database at all, but long enough to be looked at\n" * 40)
    shell.set(database_url=f"sqlite:///{file}")
    assert checks_of(shell, code=1)["database"]["level"] == "red"


def test_an_unreachable_provider_is_red_and_the_database_is_still_asked(shell: Shell) -> None:
    shell.set(provider_url="http://127.0.0.1:9")
    found = checks_of(shell, code=1)
    assert "refused" in found["provider"]["seen"]
    assert found["schema"]["level"] == "ok"


def test_a_provider_that_answers_nonsense_is_red(shell: Shell, simulator: Simulator) -> None:
    simulator.script("bad_gateway", times=1)
    assert checks_of(shell, code=1)["provider"]["level"] == "red"


def test_missing_credentials_are_a_warning_that_names_the_variables(shell: Shell) -> None:
    shell.set(provider_api_key=None, provider_api_secret=None, provider_app_id=None)
    found = checks_of(shell, code=0)
    assert found["provider"]["level"] == "warn"
    for name in ("API_KEY", "API_SECRET", "APP_ID"):
        assert f"BINDINGS_PROVIDER_{name}" in found["provider"]["seen"]


def test_wrong_settings_come_first_all_at_once_and_without_their_values(shell: Shell) -> None:
    shell.set(bind_limit="lots", provider_zone="Mars", colour="blue")
    found = checks_of(shell, code=1)
    for name in ("BIND_LIMIT", "PROVIDER_ZONE", "COLOUR"):
        assert f"BINDINGS_{name}" in found["settings"]["seen"]
    assert found["settings"]["level"] == "red"
    for value in ("lots", "Mars", "blue"):
        assert value not in shell.seen[-1].out


def test_another_accounts_database_is_red(shell: Shell) -> None:
    shell.bind()
    shell.set(scope="other")
    assert checks_of(shell, code=1)["scope"]["level"] == "red"
    answer = shell.run("list", "--json")
    assert (answer.code, answer.fields) == (2, ["BINDINGS_SCOPE"])


def test_open_doubts_are_counted_and_the_oldest_is_told(shell: Shell, simulator: Simulator) -> None:
    simulator.script("lost_reply", times=1)
    shell.bind()
    found = checks_of(shell, code=0)
    assert found["doubts"]["level"] == "warn"
    assert found["doubts"]["seen"].startswith("1 open, the oldest from ")
