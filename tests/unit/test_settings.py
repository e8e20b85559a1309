"""The settings: their sources, defaults and errors; no value occurs in an error."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import TYPE_CHECKING, cast

import pytest

from bindings.settings import Settings, SettingsError, SettingsValues, load

if TYPE_CHECKING:
    from pathlib import Path


def named(name: str, value: str | None) -> SettingsValues:
    """Return a setting whose name is a parameter of the test; its value may be wrong."""
    return cast("SettingsValues", {name: value})


def test_defaults_are_the_documented_ones() -> None:
    settings = load({})
    assert settings.database_url.get_secret_value() == "sqlite:///bindings.db"
    assert settings.provider_url == "https://api.laaffic.com"
    assert (settings.provider_api_key, settings.provider_api_secret, settings.provider_app_id) == (None,) * 3
    assert settings.provider_timeout_s == 10
    assert settings.provider_zone == timezone(timedelta(hours=8))
    assert settings.timestamp_tolerance_s == 300
    assert (settings.conflict_policy, settings.scope) == ("literal", "default")
    assert (settings.sweep_interval_s, settings.reconcile_interval_s) == (1, 300)
    assert (settings.scan_calls_per_s, settings.bind_limit) == (5, 32)


def test_guard_is_one_percent_from_5_s_to_60_s_unless_it_is_set() -> None:
    assert [load({}).guard_for(s) for s in (1, 500, 600, 6_000, 6_001, 259_200)] == [5, 5, 6, 60, 60, 60]
    assert load({"BINDINGS_GUARD_S": "2592"}).guard_for(259_200) == 2_592
    assert load({"BINDINGS_GUARD_S": "0"}).guard_for(259_200) == 0


def test_all_errors_are_reported_together_by_variable_and_without_values() -> None:
    environment = {
        "BINDINGS_DATABASE_URL": "mysql://root:hunter2@db/x",
        "BINDINGS_PROVIDER_URL": "ftp://hunter2",
        "BINDINGS_PROVIDER_TIMEOUT_S": "hunter2",
        "BINDINGS_PROVIDER_ZONE": "Asia/hunter2",
        "BINDINGS_TIMESTAMP_TOLERANCE_S": "-1",
        "BINDINGS_GUARD_S": "nan",
        "BINDINGS_CONFLICT_POLICY": "hunter2",
        "BINDINGS_SCOPE": "hunter2 hunter2",
        "BINDINGS_SWEEP_INTERVAL_S": "0",
        "BINDINGS_BIND_LIMIT": "1.5",
        "BINDINGS_PROVIDER_APPID": "hunter2",
    }
    with pytest.raises(SettingsError) as refused:
        load(environment)
    assert {variable for variable, _ in refused.value.errors} == set(environment)
    assert "hunter2" not in str(refused.value)
    assert "hunter2" not in repr(refused.value)


def test_more_idle_connections_than_the_pool_has_are_refused() -> None:
    assert load({"BINDINGS_POOL_SIZE": "4", "BINDINGS_POOL_IDLE": "4"}).pool_idle == 4
    with pytest.raises(SettingsError, match="BINDINGS_POOL_IDLE: must not be more than BINDINGS_POOL_SIZE"):
        load({"BINDINGS_POOL_SIZE": "4", "BINDINGS_POOL_IDLE": "5"})


def test_unknown_variable_is_refused_unless_it_is_the_tests() -> None:
    with pytest.raises(SettingsError, match="BINDINGS_GARD_S"):
        load({"BINDINGS_GARD_S": "1"})
    load({"BINDINGS_TEST_POSTGRES_URL": "x", "HOME": "/root", "XBINDINGS_A": "1"})


@pytest.mark.parametrize("service", ["BINDINGS", "BINDINGS_DB", "BINDINGS_POOL_2"])
def test_variables_of_a_kubernetes_service_are_ignored(service: str) -> None:
    load(
        {
            f"{service}_SERVICE_HOST": "10.0.0.5",
            f"{service}_SERVICE_PORT": "8000",
            f"{service}_SERVICE_PORT_HTTP_ALT": "8000",
            f"{service}_PORT": "tcp://10.0.0.5:8000",
            f"{service}_PORT_8000_TCP": "tcp://10.0.0.5:8000",
            f"{service}_PORT_8000_TCP_PROTO": "tcp",
            f"{service}_PORT_8000_TCP_PORT": "8000",
            f"{service}_PORT_8000_TCP_ADDR": "10.0.0.5",
            f"{service}_PORT_53_UDP": "udp://[fd00::5]:53",
            f"{service}_PORT_53_UDP_PROTO": "udp",
            f"{service}_PORT_53_UDP_ADDR": "fd00::5",
        }
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BINDINGS_PORT", "8000"),
        ("BINDINGS_PORT", "http://10.0.0.5:8000"),
        ("BINDINGS_HOST", "10.0.0.5"),
        ("BINDINGS_DATABASE_PORT", "5432"),
        ("BINDINGS_SERVICE_HOST", "db.internal"),
        ("BINDINGS_SERVICE_PORT", "http"),
        ("BINDINGS_PORT_8000", "tcp://10.0.0.5:8000"),
        ("BINDINGS_PORT_8000_TCP_PROTO", "http"),
        ("BINDINGS_PORT_8000_TCP_ADR", "10.0.0.5"),
    ],
)
def test_variable_that_only_resembles_a_kubernetes_service_is_refused(variable: str, value: str) -> None:
    with pytest.raises(SettingsError, match=variable):
        load({variable: value})


def test_argument_overrides_the_environment_unless_it_is_none() -> None:
    environment = {"BINDINGS_SCOPE": "from-environment"}
    assert load(environment, scope="given").scope == "given"
    assert load(environment, **named("scope", None)).scope == "from-environment"


def test_secret_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("7bz1lzh9\n")
    settings = load({"BINDINGS_PROVIDER_API_SECRET_FILE": str(file)})
    assert settings.provider_api_secret is not None
    assert settings.provider_api_secret.get_secret_value() == "7bz1lzh9"


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf7bz1lzh9", b"7bz1lzh9\r\n\r\n", b"\xef\xbb\xbf 7bz1lzh9\r\n"])
def test_what_an_editor_adds_to_the_file_of_a_secret_is_no_part_of_it(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    settings = load({"BINDINGS_PROVIDER_API_SECRET_FILE": f"{file}\n"})
    assert settings.provider_api_secret is not None
    assert settings.provider_api_secret.get_secret_value() == "7bz1lzh9"


def test_file_of_a_secret_that_never_ends_is_an_error() -> None:
    with pytest.raises(SettingsError, match="that cannot be read: the file has more than 65536 bytes"):
        load({"BINDINGS_PROVIDER_API_KEY_FILE": "/dev/zero"})


def test_white_space_around_the_value_of_a_variable_is_no_part_of_it() -> None:
    settings = load(
        {
            "BINDINGS_DATABASE_URL": "sqlite:///a.db\n",
            "BINDINGS_PROVIDER_URL": " https://api.laaffic.com\r\n",
            "BINDINGS_PROVIDER_API_KEY": "bDqJFiq9\n",
            "BINDINGS_PROVIDER_APP_ID": "4luaKsL2 ",
        }
    )
    assert settings.database_url.get_secret_value() == "sqlite:///a.db"
    assert settings.provider_url == "https://api.laaffic.com"
    assert settings.provider_api_key is not None
    assert settings.provider_api_key.get_secret_value() == "bDqJFiq9"
    assert settings.provider_app_id == "4luaKsL2"


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quotes_around_a_value_are_refused_except_around_a_command(tmp_path: Path, quote: str) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{quote}hunter2{quote}\n")
    environment = {
        "BINDINGS_PROVIDER_APP_ID": f"{quote}4luaKsL2{quote}",
        "BINDINGS_PROVIDER_API_SECRET_FILE": str(file),
        "BINDINGS_SCOPE": f"{quote}{quote}",
        "BINDINGS_ANCHOR_COMMAND": f"{quote}/opt/my programs/anchor{quote}",
    }
    with pytest.raises(SettingsError) as refused:
        load(environment)
    quoted = "is in quotes, which would be a part of the value: leave them out"
    names = "BINDINGS_PROVIDER_API_SECRET", "BINDINGS_PROVIDER_APP_ID", "BINDINGS_SCOPE"
    assert refused.value.errors == tuple((name, quoted) for name in names)
    assert load(provider_app_id=f"{quote}x{quote}").provider_app_id == f"{quote}x{quote}"


@pytest.mark.parametrize(
    "value", ["", "hunter2\n", "hun\nter2", "hun ter2", "hun\tter2", "hunter2\x00", "húnter2", "\ufeffhunter2"]
)
@pytest.mark.parametrize("name", ["provider_api_key", "provider_api_secret"])
def test_secret_that_no_header_can_carry_is_refused(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"BINDINGS_{name.upper()}: must be visible ASCII") as refused:
        load({}, **named(name, value))
    assert "ter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("database_url", "sqlite:///hunter2.db\n"),
        ("database_url", "sqlite:///a?hunter2.db"),
        ("database_url", "sqlite:///a.db?mode=ro"),
        ("database_url", "postgresql://u:hunter2\x00@h/x"),
        ("provider_app_id", "hunter2\n"),
        ("provider_url", "http://hunter2\n"),
        ("provider_url", "http://[::1"),
        ("provider_url", "http://[::1]x"),
        ("provider_url", "http://[hunter2]"),
        ("provider_url", "http://h:99999"),
        ("provider_url", "http://h:0"),
        ("provider_url", "http://h:hunter2"),
        ("provider_url", "http://1.1.1.1:80:80"),
        ("provider_url", "http://hunter2..com"),
        ("provider_url", "http://" + "a" * 64),
        ("provider_url", "https://hünter2.example"),
        ("provider_url", "http://h/\x00"),
    ],
)
def test_value_that_no_call_could_use_is_refused_at_the_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"BINDINGS_{name.upper()}: ") as refused:
        load({}, **named(name, value))
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        "http://[::1]:8080",
        "http://10.0.0.1:80",
        "https://a_b.example.",
        "http://h:",
        "https://xn--mller-kva.example/a-b",
    ],
)
def test_provider_url_with_every_kind_of_host_is_accepted(address: str) -> None:
    assert load({"BINDINGS_PROVIDER_URL": address}).provider_url == address


def test_missing_file_and_value_together_with_its_file_are_errors(tmp_path: Path) -> None:
    missing = str(tmp_path / "hunter2")
    with pytest.raises(SettingsError, match="that cannot be read: No such file or directory") as refused:
        load({"BINDINGS_PROVIDER_API_KEY_FILE": missing})
    assert "hunter2" not in str(refused.value)
    file = tmp_path / "url"
    file.write_text("sqlite:///x.db")
    with pytest.raises(SettingsError, match="BINDINGS_DATABASE_URL_FILE: is set together with"):
        load({"BINDINGS_DATABASE_URL_FILE": str(file), "BINDINGS_DATABASE_URL": "sqlite:///y.db"})


def test_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "binary"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="names a file that cannot be read: it is not text in UTF-8"):
        load({"BINDINGS_PROVIDER_API_KEY_FILE": str(file)})


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://tmp/x.db", "sqlite://x.db"),
        *("oracle://x", "bindings.db", ""),
    ],
)
def test_in_memory_or_unsupported_database_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="BINDINGS_DATABASE_URL"):
        load({"BINDINGS_DATABASE_URL": url})


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///a.db",
        "sqlite:////var/a.db",
        "postgresql://u:p@a,b:5433/x?target_session_attrs=read-write",
        "postgres://u@h/x",
        "postgresql+psycopg://u@h/x",
    ],
)
def test_supported_database_is_accepted(url: str) -> None:
    assert load({"BINDINGS_DATABASE_URL": url}).database_url.get_secret_value() == url


@pytest.mark.parametrize(
    ("text", "hours"), [("+08:00", 8), ("-03:30", -3.5), ("+00:00", 0), ("-00:00", 0), ("+14:00", 14)]
)
def test_zone_is_a_fixed_offset(text: str, hours: float) -> None:
    assert load({"BINDINGS_PROVIDER_ZONE": text}).provider_zone.utcoffset(None) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["8", "08:00", "+8:00", "+08:60", "+15:00", "UTC", "Asia/Shanghai", ""])
def test_zone_that_is_not_a_fixed_offset_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="BINDINGS_PROVIDER_ZONE"):
        load({"BINDINGS_PROVIDER_ZONE": text})


@pytest.mark.parametrize(
    "url", ["", "x", "http://", "https://user:secret@host", "https://host/?q=1", "https://host/#a", "http://a b"]
)
def test_provider_url_with_user_query_or_fragment_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="BINDINGS_PROVIDER_URL"):
        load({"BINDINGS_PROVIDER_URL": url})


def test_effective_settings_contain_no_secret() -> None:
    settings = load(
        {
            "BINDINGS_DATABASE_URL": "postgresql://u:hunter2@h/x?password=hunter2&application_name=y",
            "BINDINGS_PROVIDER_API_KEY": "hunter2",
            "BINDINGS_PROVIDER_API_SECRET": "hunter2",
        }
    )
    texts = settings.effective()
    assert "hunter2" not in str(texts)
    assert "hunter2" not in repr(settings)
    assert set(texts) == {"BINDINGS_" + name.upper() for name in Settings.model_fields}
    assert texts["BINDINGS_PROVIDER_ZONE"] == "+08:00"


@pytest.mark.parametrize("password", ["hunter2", "hun@ter2", "hunt/er2", "hu:nter2"])
def test_no_part_of_a_password_is_shown(password: str) -> None:
    texts = load({}, database_url=f"postgresql://u:{password}@h/x").effective()["BINDINGS_DATABASE_URL"]
    assert not any(part in texts for part in ("hunter2", "ter2", "er2", "nter2"))


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load({}).scope = "other"


def test_open_takes_every_setting_by_name() -> None:
    assert SettingsValues.__annotations__.keys() == Settings.model_fields.keys()


ADDRESS = "https://api.laaffic.com"


@pytest.mark.parametrize(
    "path",
    [
        "/v3",
        "/v3/",
        "/V3",
        "//v3",
        "/v3/number",
        "/v3/number/pns/bind",
        "/v3/number/queryNumberPool/",
        "/number/pns",
    ],
)
def test_base_address_with_the_path_of_the_api_is_refused_with_the_right_one(path: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({"BINDINGS_PROVIDER_URL": ADDRESS + path})
    ((variable, message),) = refused.value.errors
    assert variable == "BINDINGS_PROVIDER_URL"
    assert message.endswith(f"it must be {ADDRESS}")


@pytest.mark.parametrize(
    "address",
    [ADDRESS, f"{ADDRESS}/", f"{ADDRESS}/gateway", f"{ADDRESS}/api-v3", f"{ADDRESS}/v3/eu", "http://number:8080"],
)
def test_base_address_with_another_path_is_accepted(address: str) -> None:
    assert load({"BINDINGS_PROVIDER_URL": address}).provider_url == address.rstrip("/")


@pytest.mark.parametrize(
    "address",
    [
        "https://user:hunter2@api.laaffic.com",
        "https://api.laaffic.com?key=hunter2",
        "https://api.laaffic.com#hunter2",
        "https://api.laaffic.com/hunter2/v3",
        "https://hunter2@api.laaffic.com/v3",
    ],
)
def test_refused_base_address_is_not_repeated_where_it_may_carry_a_secret(address: str) -> None:
    with pytest.raises(SettingsError, match="BINDINGS_PROVIDER_URL") as refused:
        load({"BINDINGS_PROVIDER_URL": address})
    assert "hunter2" not in str(refused.value)


def test_path_prefix_is_checked_and_belongs_to_the_path_of_the_api() -> None:
    assert load({}).provider_path_prefix == "/v3"
    no_prefix = {"BINDINGS_PROVIDER_PATH_PREFIX": "", "BINDINGS_PROVIDER_URL": f"{ADDRESS}/v3"}
    assert load(no_prefix).provider_path_prefix == ""
    with pytest.raises(SettingsError, match=f"it must be {ADDRESS}"):
        load({"BINDINGS_PROVIDER_PATH_PREFIX": "/api", "BINDINGS_PROVIDER_URL": f"{ADDRESS}/api"})
    for prefix in ("v3", "/v3/", "/", "/v 3", "/v3?", "https://x/v3"):
        with pytest.raises(SettingsError, match="BINDINGS_PROVIDER_PATH_PREFIX"):
            load({"BINDINGS_PROVIDER_PATH_PREFIX": prefix})


@pytest.mark.parametrize(
    ("name", "hint"), [("databse_url", "did you mean database_url?"), ("colour", "is not a setting")]
)
def test_unknown_argument_is_named_as_it_was_written(name: str, hint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load({}, **named(name, "hunter2"))
    assert refused.value.errors[0][0] == name
    assert hint in str(refused.value)
    assert "BINDINGS" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


PROXY = {
    "BINDINGS_TRUSTED_PROXIES": "10.0.0.1",
    "BINDINGS_IDENTITY_HEADER": "X-Bindings-User",
    "BINDINGS_ROLES_HEADER": "X-Bindings-Groups",
    "BINDINGS_ROLE_OF": "cn=ops=admin, support=auditor",
}


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"BINDINGS_TRUSTED_PROXIES": None}, "BINDINGS_IDENTITY_HEADER"),
        ({"BINDINGS_TRUSTED_PROXIES": "10.0.0.1,0.0.0.0/0"}, "BINDINGS_IDENTITY_HEADER"),
        ({"BINDINGS_TRUSTED_PROXIES": "::/0"}, "BINDINGS_IDENTITY_HEADER"),
        ({"BINDINGS_IDENTITY_HEADER": None}, "BINDINGS_ROLES_HEADER"),
        ({"BINDINGS_IDENTITY_HEADER": "X_Bindings_User"}, "BINDINGS_IDENTITY_HEADER"),
        ({"BINDINGS_IDENTITY_HEADER": "Authorization"}, "BINDINGS_IDENTITY_HEADER"),
        ({"BINDINGS_IDENTITY_HEADER": "x-forwarded-for"}, "BINDINGS_IDENTITY_HEADER"),
        ({"BINDINGS_IDENTITY_HEADER": "Sec-User"}, "BINDINGS_IDENTITY_HEADER"),
        ({"BINDINGS_ROLES_HEADER": None}, "BINDINGS_ROLES_HEADER"),
        ({"BINDINGS_ROLES_HEADER": "x-bindings-user"}, "BINDINGS_ROLES_HEADER"),
        ({"BINDINGS_ROLES_HEADER": "Cookie"}, "BINDINGS_ROLES_HEADER"),
        ({"BINDINGS_ROLE_OF": None}, "BINDINGS_ROLE_OF"),
        ({"BINDINGS_ROLE_OF": "ops"}, "BINDINGS_ROLE_OF"),
        ({"BINDINGS_ROLE_OF": "=admin"}, "BINDINGS_ROLE_OF"),
        ({"BINDINGS_ROLE_OF": "ops=app"}, "BINDINGS_ROLE_OF"),
        ({"BINDINGS_ROLE_OF": "ops=router"}, "BINDINGS_ROLE_OF"),
        ({"BINDINGS_ROLE_OF": "ops=owner"}, "BINDINGS_ROLE_OF"),
        ({"BINDINGS_ROLE_OF": "ops=admin,ops=auditor"}, "BINDINGS_ROLE_OF"),
    ],
)
def test_settings_of_the_sign_in_by_a_proxy_are_complete_and_trust_no_client(
    changes: dict[str, str | None], variable: str
) -> None:
    environment = {name: value for name, value in (PROXY | changes).items() if value is not None}
    with pytest.raises(SettingsError) as refused:
        load(environment)
    assert variable in {name for name, _ in refused.value.errors}


def test_groups_are_mapped_to_roles_as_written() -> None:
    settings = load(PROXY)
    assert settings.role_of == ("cn=ops=admin", "support=auditor")
    assert settings.effective()["BINDINGS_ROLE_OF"] == "cn=ops=admin,support=auditor"
    assert load({}).role_of == ()
