"""The settings, from arguments and from `BINDINGS_...` environment variables.

The names, defaults and bounds of all settings belong here. Nothing is read at import: `load()` reads the
environment once, and reports all errors together, under the names of the variables and without their values.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shlex
import sys
from datetime import timedelta, timezone
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, TypedDict, Unpack
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
)

from bindings import secret_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

PREFIX = "BINDINGS_"
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
# Loopback and RFC 1918, RFC 4193; not the link-local addresses, at which clouds serve credentials to each machine.
PRIVATE_NETWORKS: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
IGNORED_PREFIX = "BINDINGS_TEST_"  # variables of the test suite
FROM_FILE = ("DATABASE_URL", "PROVIDER_API_KEY", "PROVIDER_API_SECRET")
# Kubernetes sets these in every pod for a Service named `bindings` or `bindings-...`. The values count too: a
# misspelt setting that has only the name of one is refused.
_SERVICE_LINK = re.compile(
    r"""BINDINGS(_[A-Z0-9_]+)?(
        _SERVICE_HOST=[0-9A-Fa-f.:]+
      | _SERVICE_PORT(_[A-Z0-9_]+)?=[0-9]+
      | _PORT(_[0-9]+_(TCP|UDP|SCTP))?=(tcp|udp|sctp)://[^\s/]+:[0-9]+
      | _PORT_[0-9]+_(TCP|UDP|SCTP)(_PROTO=(tcp|udp|sctp)|_PORT=[0-9]+|_ADDR=[0-9A-Fa-f.:]+)
    )""",
    re.VERBOSE,
)
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_CONTROL_CHARACTER = re.compile(r"[\x00-\x1f\x7f]")
# `docker --env-file` passes the quotes of a line on. A command may need them.
_QUOTED = re.compile(r"([\"']).*\1", re.DOTALL)
_COMMANDS = "anchor_command", "phone_keys_command"
_MAX_FILE = 65_536  # bytes of a file with a value


class SettingsError(ValueError):
    """The settings are not valid; `errors` has a (variable, message) pair for each."""

    def __init__(self, errors: tuple[tuple[str, str], ...]) -> None:
        super().__init__("; ".join(f"{variable}: {message}" for variable, message in errors))
        self.errors = errors


def _zone(value: Any) -> Any:
    """Parse `+08:00` as a fixed offset. Named time zones are refused: their offset changes twice a year."""
    if isinstance(value, timezone):
        return value
    match = re.fullmatch(r"([+-])(\d{2}):([0-5]\d)", str(value))
    if match is None or int(match[2]) > 14:  # noqa: PLR2004 -- the widest offset in use is +14:00
        raise ValueError("must be an offset such as +08:00")
    sign = 1 if match[1] == "+" else -1
    return timezone(sign * timedelta(hours=int(match[2]), minutes=int(match[3])))


def _supported_database(value: SecretStr) -> SecretStr:
    url = value.get_secret_value()
    if not re.match(r"(sqlite|postgresql|postgresql\+psycopg|postgres)://", url):
        raise ValueError("must begin with sqlite:// or postgresql://")
    if re.fullmatch(r"sqlite://(/(:memory:)?)?", url):
        raise ValueError("must name a file: an SQLite database in memory is lost with its connection")
    if re.match(r"sqlite://[^/]", url):
        raise ValueError("must have three slashes before the path of an SQLite file, and four if it is absolute")
    _without_control_characters(url)
    if url.startswith("sqlite") and "?" in url:
        raise ValueError("takes no options after the name of an SQLite file; write a ? in its name as %3F")
    return value


def _visible_ascii(value: SecretStr) -> SecretStr:
    """Refuse what no header can carry, and what is no secret of the provider: each call would fail."""
    if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
        raise ValueError("must be visible ASCII characters, without spaces and line ends")
    return value


def _without_control_characters(value: str) -> str:
    if _CONTROL_CHARACTER.search(value):
        raise ValueError("must not contain a line end or another control character")
    return value


def _path_prefix(value: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", value):
        raise ValueError("must be empty, or a path such as /v3 without a slash at its end")
    return value


def _command(value: str) -> str:
    try:
        words = shlex.split(value)
    except ValueError:
        raise ValueError("must be a command, with quotes in pairs") from None
    if not words:
        raise ValueError("must be a command")
    return value


def _names_server(address: str) -> bool:
    """Return whether the address can be called: its host is a name or an IP address, and its port exists."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
        if parts.netloc.startswith("["):
            ipaddress.IPv6Address(host)
            return port != 0 and re.fullmatch(r"\[[^]]+\](:[0-9]*)?", parts.netloc) is not None
    except ValueError:
        return False
    labels = host.removesuffix(".").split(".")
    return port != 0 and address.isascii() and address.isprintable() and all(map(_HOST_LABEL.fullmatch, labels))


def _base_url(value: str, info: ValidationInfo) -> str:
    """Refuse an address that has the path of the API in it: each call would go to a path with both."""
    if not re.fullmatch(r"https?://[^/?#@\s]+[^?#@\s]*", value):
        raise ValueError("must be an http:// or https:// address without user, query or fragment")
    if not _names_server(value):
        raise ValueError("must name a host, and a port from 1 to 65535 if any, in printable ASCII characters")
    address = value.rstrip("/")
    prefix = re.escape(info.data.get("provider_path_prefix", ""))
    api_path = rf"(?P<path>{prefix}(/number(/.*)?)?|/number(/.*)?)"
    match = re.fullmatch(rf"(?P<host>https?://[^/]+)(?P<base>.*?)/*{api_path}", address, re.IGNORECASE)
    if match is not None and match["path"]:
        # The rest of a path may be a secret of a gateway, so only the host is repeated.
        remedy = "leave that out" if match["base"] else f"it must be {match['host']}"
        raise ValueError(f"ends in {match['path']}, which is part of the path of each call: {remedy}")
    return address


_ROLE_OF_GROUP = re.compile(r"[^\x00-\x1f]*[^\x00-\x20]=(auditor|investigator|admin)")
# A client may send these by itself, and a proxy may pass them on or set them for another purpose.
_OTHER_HEADERS = re.compile(
    r"(accept|access-control|content|if|sec|proxy)(-.*)?|authorization|cookie|set-cookie|host|origin|referer|te|trailer"
    r"|connection|keep-alive|upgrade.*|transfer-encoding|expect|user-agent|date|via|forwarded|x-forwarded-(for|proto|host)"
    r"|x-request-id|idempotency-key",
    re.IGNORECASE,
)


def _header_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", value):
        raise ValueError("must be the name of a header, of letters, digits and hyphens")
    if _OTHER_HEADERS.fullmatch(value):
        raise ValueError("is a header with another meaning: choose a name such as X-Bindings-User")
    return value


def _identity_header(value: str | None, info: ValidationInfo) -> str | None:
    """Refuse the header if any client could write it."""
    networks = info.data.get("trusted_proxies")
    if value is not None and networks == ():
        raise ValueError("needs BINDINGS_TRUSTED_PROXIES, the addresses of the proxy that sets it")
    if value is not None and any(network.prefixlen == 0 for network in networks or ()):
        raise ValueError("needs BINDINGS_TRUSTED_PROXIES without a network of all addresses")
    return value


def _roles_header(value: str | None, info: ValidationInfo) -> str | None:
    identity_header = info.data.get("identity_header")
    if "identity_header" in info.data and (value is None) != (identity_header is None):
        raise ValueError("and BINDINGS_IDENTITY_HEADER are set together or not at all")
    if value is not None and identity_header is not None and value.lower() == identity_header.lower():
        raise ValueError("must be another header than BINDINGS_IDENTITY_HEADER")
    return value


def _role_of(value: Any, info: ValidationInfo) -> Any:
    """Parse `group=role` pairs, separated by commas."""
    pairs = value if isinstance(value, tuple) else tuple(str(value).split(","))
    entries = tuple(pair.strip() for pair in pairs if pair.strip())
    if not all(_ROLE_OF_GROUP.fullmatch(entry) for entry in entries):
        raise ValueError("must be GROUP=ROLE, separated by commas; the role is auditor, investigator or admin")
    groups = [entry.rpartition("=")[0] for entry in entries]
    if len(groups) != len(set(groups)):
        raise ValueError("must name each group once")
    if "identity_header" in info.data and bool(entries) != (info.data["identity_header"] is not None):
        raise ValueError("and BINDINGS_IDENTITY_HEADER are set together or not at all")
    return entries


def _networks(value: Any) -> Any:
    """Parse addresses and networks, separated by commas, or `none`."""
    if isinstance(value, tuple):
        return value
    if value == "none":
        return ()
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in str(value).split(",") if part.strip())
    except ValueError:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8, separated by commas") from None


def _lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _pool_idle(value: int | None, info: ValidationInfo) -> int | None:
    if value is not None and value > info.data.get("pool_size", value):
        raise ValueError("must not be more than BINDINGS_POOL_SIZE")
    return value


HeaderName: TypeAlias = Annotated[str, AfterValidator(_header_name)]


class Settings(BaseModel):
    """All settings; frozen. The variable of a setting is `BINDINGS_` and its name in capitals."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        validate_default=True,
        arbitrary_types_allowed=True,  # datetime.timezone
    )

    database_url: Annotated[SecretStr, AfterValidator(_supported_database)] = SecretStr("sqlite:///bindings.db")
    provider_path_prefix: Annotated[str, AfterValidator(_path_prefix)] = "/v3"
    provider_url: Annotated[str, AfterValidator(_base_url)] = "https://api.laaffic.com"  # checked with the prefix
    provider_api_key: Annotated[SecretStr, AfterValidator(_visible_ascii)] | None = None
    provider_api_secret: Annotated[SecretStr, AfterValidator(_visible_ascii)] | None = None
    provider_app_id: (
        Annotated[str, Field(min_length=1, max_length=64), AfterValidator(_without_control_characters)] | None
    ) = None
    provider_timeout_s: Annotated[float, Field(ge=0.1, le=120)] = 10.0
    provider_zone: Annotated[timezone, BeforeValidator(_zone)] = timezone(timedelta(hours=8))
    ignore_provider_date: bool = False
    timestamp_tolerance_s: Annotated[float, Field(ge=0, le=86_400)] = 300.0
    guard_s: Annotated[float, Field(ge=0, le=86_400)] | None = None
    conflict_policy: Literal["literal", "strict"] = "literal"
    scope: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] = "default"
    sweep_interval_s: Annotated[float, Field(ge=0.1, le=3_600)] = 1.0
    reconcile_interval_s: Annotated[float, Field(ge=1, le=86_400)] = 300.0
    scan_calls_per_s: Annotated[float, Field(gt=0, le=1_000)] = 5.0
    scan_scope: Literal["apps", "account"] = "apps"
    on_doubt: Literal["adopt", "observe"] = "adopt"
    on_ghost: Literal["end", "observe"] = "end"
    on_orphan: Literal["hold", "release", "observe"] = "hold"
    on_drift: Literal["narrow", "observe"] = "narrow"
    bind_limit: Annotated[int, Field(ge=1, le=10_000)] = 32
    pool_size: Annotated[int, Field(ge=1, le=1_000)] = 32
    # After `pool_size`: checked with it.
    pool_idle: Annotated[int | None, Field(ge=1, le=1_000), AfterValidator(_pool_idle)] = None
    database_timeout_s: Annotated[float, Field(ge=0.5, le=4)] = 4.0
    erasure_journal: Annotated[str, Field(min_length=1)] | None = None
    retention_days: Annotated[int, Field(ge=7, le=36_500)] | None = None
    rate_limit: Annotated[int, Field(ge=1, le=100_000)] = 1_000
    phone_search_budget: Annotated[int, Field(ge=1, le=10_000)] = 60
    check_budget: Annotated[int, Field(ge=1, le=1_000_000)] = 600
    pool_low_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    warn_s: Annotated[int, Field(ge=1, le=259_199)] | None = None
    trusted_proxies: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = ()
    webhook_networks: Annotated[tuple[Network, ...], BeforeValidator(_networks)] = PRIVATE_NETWORKS
    # After `trusted_proxies`, and in this order: each is checked with those before it.
    identity_header: Annotated[HeaderName | None, AfterValidator(_identity_header)] = None
    roles_header: Annotated[HeaderName | None, AfterValidator(_roles_header)] = None
    role_of: Annotated[tuple[str, ...], BeforeValidator(_role_of)] = ()
    bootstrap_key_file: Annotated[str, Field(min_length=1)] | None = None  # read by `db upgrade` and `serve`
    seal_key_file: Annotated[str, Field(min_length=1)] | None = None
    anchor_command: Annotated[str, AfterValidator(_command)] | None = None
    phone_keys_file: Annotated[str, Field(min_length=1)] | None = None
    phone_keys_command: Annotated[SecretStr, Field(min_length=1)] | None = None
    # Used by the commands (`logs`): a host program configures its log itself.
    log_level: Annotated[Literal["debug", "info", "warning", "error"] | None, BeforeValidator(_lower_case)] = None
    log_format: Annotated[Literal["text", "json"] | None, BeforeValidator(_lower_case)] = None

    def guard_for(self, expire_s: int) -> float:
        """Return for how many seconds a phone stays held after the end of a binding of `expire_s` seconds."""
        return min(60.0, max(5.0, 0.01 * expire_s)) if self.guard_s is None else self.guard_s

    @property
    def recover_interval_s(self) -> float:
        """Return how often the scheduler runs recover, in seconds."""
        return 10.0

    @property
    def look_interval_s(self) -> float:
        """Return how often the scheduler looks for young doubts, in seconds.

        A job without progress for three intervals counts as stalled, and one call of the provider may take long.
        """
        return max(5.0, self.provider_timeout_s / 2)

    def effective(self) -> dict[str, str]:
        """Return the value of each variable as text, with secrets and the database password masked."""
        return {_variable(name): _masked_text(name, getattr(self, name)) for name in type(self).model_fields}


class SettingsValues(TypedDict, total=False):
    """The settings that `load` and `BindingService.open` take by name; each as in `Settings`, or as its text."""

    database_url: str
    provider_path_prefix: str
    provider_url: str
    provider_api_key: str | None
    provider_api_secret: str | None
    provider_app_id: str | None
    provider_timeout_s: float
    provider_zone: timezone | str
    ignore_provider_date: bool | str
    timestamp_tolerance_s: float
    guard_s: float | None
    conflict_policy: str
    scope: str
    sweep_interval_s: float
    reconcile_interval_s: float
    scan_calls_per_s: float
    scan_scope: str
    on_doubt: str
    on_ghost: str
    on_orphan: str
    on_drift: str
    bind_limit: int
    pool_size: int
    pool_idle: int | None
    database_timeout_s: float
    erasure_journal: str | None
    retention_days: int | None
    rate_limit: int
    phone_search_budget: int
    check_budget: int
    pool_low_share: float
    warn_s: int | None
    trusted_proxies: Sequence[Network] | str
    webhook_networks: Sequence[Network] | str
    identity_header: str | None
    roles_header: str | None
    role_of: Sequence[str] | str
    bootstrap_key_file: str | None
    seal_key_file: str | None
    anchor_command: str | None
    phone_keys_file: str | None
    phone_keys_command: str | None
    log_level: str | None
    log_format: str | None


def load(environment: Mapping[str, str] | None = None, **overrides: Unpack[SettingsValues]) -> Settings:
    """Return the settings of `overrides` (those that are not None), then of the environment, then the defaults.

    A secret may be in a file that `BINDINGS_<NAME>_FILE` names. Raises `SettingsError` with all errors. Reads the
    environment and files; safe to repeat.
    """
    source = os.environ if environment is None else environment
    values, errors = _from_environment(source)
    values |= {name: value for name, value in overrides.items() if value is not None}
    settings: Settings | None = None
    try:
        settings = Settings(**values)
    except ValidationError as invalid:
        errors += [_error(detail) for detail in invalid.errors()]
    if settings is None or errors:
        raise SettingsError(tuple(sorted(set(errors))))
    return settings


def _from_environment(source: Mapping[str, str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the values by setting, and the errors by variable."""
    values: dict[str, Any] = {}
    errors: list[tuple[str, str]] = []
    fields = {_variable(name): name for name in Settings.model_fields}
    file_fields = {f"{PREFIX}{name}_FILE": name.lower() for name in FROM_FILE}
    for variable, value in source.items():
        if not variable.startswith(PREFIX) or variable.startswith(IGNORED_PREFIX):
            continue
        if variable in fields and any(map(_is_surrogate, value)):
            encoding = sys.getfilesystemencoding()
            errors.append((variable, f"is not text in {encoding}: set PYTHONUTF8=1 for values in UTF-8"))
        elif variable in fields:
            values[fields[variable]] = value.strip()
        elif variable in file_fields:
            field = file_fields[variable]
            if _variable(field) in source:
                errors.append((variable, f"is set together with {_variable(field)}; set only one of them"))
            try:
                values[field] = _file_text(value.strip())
            except (OSError, ValueError) as error:
                errors.append((variable, f"names a file that cannot be read: {secret_files.cause(error)}"))
        elif not _SERVICE_LINK.fullmatch(f"{variable}={value}"):
            errors.append((variable, "is not a setting of bindings; `bindings config` lists them"))
    for field in [field for field, value in values.items() if field not in _COMMANDS and _QUOTED.fullmatch(value)]:
        errors.append((_variable(field), "is in quotes, which would be a part of the value: leave them out"))
        del values[field]
    return values, errors


def _is_surrogate(character: str) -> bool:
    """Return whether the character stands for a byte that is not text in the encoding of this process."""
    return "\ud800" <= character <= "\udfff"


def _file_text(path: str) -> str:
    """Return the text of a file, without a byte order mark and the white space around it."""
    content, _ = secret_files.read(path, max_bytes=_MAX_FILE)
    return content.decode("utf-8-sig").strip()


def _error(detail: ErrorDetails) -> tuple[str, str]:
    """Return the name to report, and what is wrong with it; an unknown name is that of an argument."""
    name = str(detail["loc"][0])
    if detail["type"] != "extra_forbidden":
        return _variable(name), detail["msg"].removeprefix("Value error, ")
    similar = get_close_matches(name, Settings.model_fields, n=1)
    return name, "is not a setting" + (f"; did you mean {similar[0]}?" if similar else "")


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _masked_text(name: str, value: Any) -> str:
    if name == "database_url":
        # Everything up to the last "@" may be a password, with any characters, and so may a query parameter.
        masked = re.sub(r"://.*@", "://***@", value.get_secret_value())
        return re.sub(r"(?i)((?:pass|sslkey|sslpass)[^=&]*=)[^&]*", r"\1***", masked)
    if isinstance(value, SecretStr):
        return "***"
    if isinstance(value, timezone):
        return str(value).removeprefix("UTC") or "+00:00"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
