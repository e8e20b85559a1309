"""The ring of keys: where it comes from, what is refused, and that what it seals opens in its own place only."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from typing import TYPE_CHECKING, Any, Unpack

import pytest
from sqlalchemy import text, update

from bindings.domain.phone import Phone
from bindings.errors import Busy, InvalidRequest
from bindings.service import BindingService
from bindings.settings import load
from bindings.store import phone_key_source, phones
from bindings.store import phone_keys as module
from bindings.store.phone_keys import BLIND, PLAIN, KeyNumbers, PhoneKeys, attach
from bindings.store.schema import account
from tests.service.harness import A, B, C
from tests.service.phone_keys import key, phone_keys, ring, write_ring, write_sealed

if TYPE_CHECKING:
    from pathlib import Path

    from bindings.settings import SettingsValues
    from tests.service.harness import ServiceHarness

ROW = "018f0000-0000-7000-8000-000000000000"
OTHER_ROW = "018f0000-0000-7000-8000-000000000001"
NUMBERS = KeyNumbers(1, 1)


def keys_of(**settings: Unpack[SettingsValues]) -> PhoneKeys | None:
    return phone_key_source.load(load({}, **settings))


def refusal(**settings: Unpack[SettingsValues]) -> str:
    with pytest.raises(InvalidRequest) as refused:
        keys_of(**settings)
    return str(refused.value)


def test_without_settings_there_are_no_keys() -> None:
    assert keys_of() is None


def test_keys_come_from_a_file_or_from_a_command(tmp_path: Path) -> None:
    file = write_ring(tmp_path / "keys", index=(1, 2), data=(1, 3))
    script = tmp_path / "print keys.py"
    script.write_text(f"print({json.dumps(json.dumps(ring(index=(1, 2), data=(1, 3))))})", encoding="utf-8")
    command = shlex.join([sys.executable, str(script)])
    for keys in (keys_of(phone_keys_file=str(file)), keys_of(phone_keys_command=command)):
        assert keys is not None
        assert list(keys.checks) == ["index:1", "index:2", "data:1", "data:3"]
        assert keys.newest == KeyNumbers(2, 3)
        assert keys.forms(Phone(A)) == phone_keys(index=(1, 2), data=(1, 3)).forms(Phone(A))


def test_new_file_has_keys_and_is_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    phone_key_source.write_new(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    keys = keys_of(phone_keys_file=str(file))
    assert keys is not None
    assert keys.newest == NUMBERS
    written = file.read_text(encoding="ascii")
    with pytest.raises(InvalidRequest, match="must name a new file"):
        phone_key_source.write_new(file)
    assert file.read_text(encoding="ascii") == written
    with pytest.raises(InvalidRequest, match="must be writable"):
        phone_key_source.write_new(tmp_path / "no folder" / "keys")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_file_that_others_may_open_is_refused_with_the_command_that_corrects_it(tmp_path: Path, mode: int) -> None:
    file = write_ring(tmp_path / "the keys")
    file.chmod(mode)
    assert f"chmod 600 {shlex.quote(str(file))}" in refusal(phone_keys_file=str(file))


def test_group_may_open_a_file_that_another_user_owns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_ring(tmp_path / "keys")
    owner = file.stat().st_uid
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    file.chmod(0o440)  # as a secret is mounted in a container
    assert keys_of(phone_keys_file=str(file)) is not None
    file.chmod(0o444)
    assert "other users may open" in refusal(phone_keys_file=str(file))


def test_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    file = write_ring(tmp_path / "keys")
    os.truncate(file, 2_000_000)
    assert "names a file that cannot be read" in refusal(phone_keys_file=str(file))


INDEX, DATA = ring()["index"]["1"], ring()["data"]
WRONG_RINGS: dict[str, Any] = {
    "no JSON": "{",
    "a list": [],
    "no data keys": {"index": ring()["index"]},
    "no key of a kind": {"index": {}, "data": ring()["data"]},
    "another kind": ring() | {"more": {}},
    "a number that is none": {"index": {"one": ring()["index"]["1"]}, "data": ring()["data"]},
    "number zero": {"index": {"0": ring()["index"]["1"]}, "data": ring()["data"]},
    "a number twice": {"index": {"1": INDEX, "01": INDEX}, "data": DATA},
    "the same key twice": {"index": {"1": INDEX, "2": INDEX}, "data": DATA},
    "a short key": {"index": {"1": "c2hvcnQ="}, "data": ring()["data"]},
    "no base64": {"index": {"1": "!"}, "data": ring()["data"]},
    "a key that is a number": {"index": {"1": 1}, "data": ring()["data"]},
}


@pytest.mark.parametrize("name", WRONG_RINGS)
def test_ring_that_is_none_is_refused_without_its_text(tmp_path: Path, name: str) -> None:
    content = WRONG_RINGS[name]
    file = tmp_path / "keys"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    file.chmod(0o600)
    message = refusal(phone_keys_file=str(file))
    assert message.startswith("BINDINGS_PHONE_KEYS_FILE must give")
    assert "c2hvcnQ" not in message
    assert ring()["index"]["1"] not in message


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("/nothing/here", "cannot be run"),
        ("'", "cannot be run"),
        (" ", "cannot be run"),
        ("false", "failed with exit code 1"),
        ("echo secret-text", "must give"),
    ],
)
def test_command_that_gives_no_ring_is_refused_without_its_output(command: str, words: str) -> None:
    message = refusal(phone_keys_command=command)
    assert message.startswith("BINDINGS_PHONE_KEYS_COMMAND")
    assert words in message
    assert "secret-text" not in message


def test_command_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phone_key_source, "COMMAND_TIMEOUT_S", 0.05)
    command = shlex.join([sys.executable, "-c", "import signal; signal.pause()"])
    assert "did not end" in refusal(phone_keys_command=command)


def test_file_and_command_together_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    file = write_ring(tmp_path / "keys")
    assert "only one" in refusal(phone_keys_file=str(file), phone_keys_command="true")
    assert "cannot be read" in refusal(phone_keys_file=str(tmp_path / "other"))


def test_no_text_of_the_ring_or_the_settings_has_a_key(tmp_path: Path) -> None:
    keys = phone_keys()
    texts = [repr(keys), str(keys), repr(keys.data_key(1)), *keys.checks.values()]
    config = load({}, phone_keys_command="vault read secret-token", phone_keys_file=str(tmp_path))
    texts += [repr(config), *config.effective().values()]
    secrets = {
        key("index", 1).hex(),
        key("data", 1).hex(),
        ring()["index"]["1"],
        ring()["data"]["1"],
        "secret-token",
    }
    assert not [text_ for text_ in texts for secret in secrets if secret in text_]


def test_blind_index_depends_on_the_key_the_scope_and_the_phone() -> None:
    blind = {
        keys.blind(number, Phone(phone))
        for keys, number in (
            (phone_keys(), 1),
            (phone_keys(index=(2,)), 2),
            (PhoneKeys("other", index={1: key("index", 1)}, data={1: key("data", 1)}), 1),
        )
        for phone in (A, B)
    }
    assert len(blind) == 6
    assert {len(text_) for text_ in blind} == {25}
    assert all(text_.startswith(BLIND) for text_ in blind)
    assert phone_keys().blind(1, Phone(A)) == phone_keys(index=(1, 2)).blind(1, Phone(A))


def test_ring_keeps_the_blind_indexes_of_the_last_phones_and_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CACHED_BLIND_INDEXES", 2)
    computed: list[str] = []
    compute = PhoneKeys._make_blind

    def count(keys: PhoneKeys, number: int, digits: str) -> str:
        computed.append(digits)
        return compute(keys, number, digits)

    monkeypatch.setattr(PhoneKeys, "_make_blind", count)
    keys, other = phone_keys(), PhoneKeys("other", index={1: key("index", 1)}, data={1: key("data", 1)})
    first = [keys.blind(1, Phone(phone)) for phone in (A, B, A, C, A, B)]
    assert computed == [A, B, C, B]
    assert first[0] == first[2] == first[4]
    assert keys.blind(1, Phone(A)) == first[0]
    assert other.blind(1, Phone(A)) != first[0]  # each ring has its own
    assert not [phone for phone in (A, B, C) if phone in f"{keys!r} {keys} {vars(keys)}"]


def test_what_is_sealed_opens_in_its_own_column_and_row_only() -> None:
    sealing = phone_keys(data=(1, 2))
    one = sealing.data_key(1)
    for digits in ("1", A, "9" * 20):
        sealed = one.seal("bindings.phone_a", ROW, Phone(digits))
        assert len(sealed) == 36
        assert one.open("bindings.phone_a", ROW, sealed) == digits
        changed = bytes([sealed[0] ^ 1]) + sealed[1:]
        for column, row, value, other in [
            ("bindings.phone_b", ROW, sealed, one),
            ("bindings.phone_a", OTHER_ROW, sealed, one),
            ("bindings.phone_a", ROW, changed, one),
            ("bindings.phone_a", ROW, sealed[:8], one),
            ("bindings.phone_a", ROW, None, one),
            ("bindings.phone_a", ROW, sealed, sealing.data_key(2)),
        ]:
            with pytest.raises(Busy, match="does not open") as refused:
                other.open(column, row, value)
            assert row in str(refused.value)
            assert refused.value.__cause__ is None
            assert len(digits) == 1 or digits not in str(refused.value)
        with pytest.raises(Busy, match="data key 7, which this process does not have"):
            sealing.data_key(7).open("bindings.phone_a", ROW, sealed)


def test_phone_is_written_in_the_form_of_the_account_and_never_without_the_key() -> None:
    class Dialect:
        name = "sqlite"

    both, without = Dialect(), Dialect()
    attach(both, phone_keys())  # type: ignore[arg-type]
    pair = {"phone_a": Phone(A), "phone_b": Phone(B)}
    assert phones.stored(both, PLAIN, "bindings", ROW, pair) == {"phone_a": A, "phone_b": B}  # type: ignore[arg-type]
    sealed = phones.stored(both, NUMBERS, "bindings", ROW, pair)  # type: ignore[arg-type]
    assert set(sealed) == {"phone_a", "phone_b", "phone_a_sealed", "phone_b_sealed", "phone_key"}
    assert A not in str(sealed)
    for dialect, numbers in ((without, NUMBERS), (both, KeyNumbers(2, 1)), (both, KeyNumbers(1, 2))):
        with pytest.raises(Busy, match="this process does not have"):
            phones.stored(dialect, numbers, "bindings", ROW, pair)  # type: ignore[arg-type]


def checks(harness: ServiceHarness, *names: str) -> None:
    """Record check values of these keys in the account, as a sealing does."""
    own = phone_keys(index=(1, 2), data=(1, 2)).checks
    write_sealed(harness.database)
    values = {"phone_key_checks": {name: own[name] for name in names}}
    harness.database.write(lambda tx: tx.connection.execute(update(account).values(values)))


@pytest.mark.parametrize(
    ("index", "data", "variant", "words"),
    [
        (None, None, "", "must have the keys data:1, index:1"),
        ((1,), (2,), "", "must have the keys data:1"),
        ((2,), (1,), "", "must have the keys index:1"),
        ((1,), (1,), "another", "has other keys as data:1, index:1"),
        ((1,), (1,), "", None),
        ((1, 2), (1, 2), "", None),
    ],
)
def test_process_with_a_missing_or_another_key_does_not_start(
    harness: ServiceHarness,
    tmp_path: Path,
    index: tuple[int, ...] | None,
    data: tuple[int, ...] | None,
    variant: str,
    words: str | None,
) -> None:
    checks(harness, "index:1", "data:1")
    settings: dict[str, Any] = {"environment": {}, "database_url": harness.url}
    if index is not None and data is not None:
        settings["phone_keys_file"] = str(write_ring(tmp_path / "ring", index=index, data=data, variant=variant))
    if words is None:
        BindingService.open(**settings).close()
        return
    with pytest.raises(InvalidRequest) as refused:
        BindingService.open(**settings)
    with BindingService.open(**settings, connect=False) as service, pytest.raises(InvalidRequest) as later:
        service.lookup(phone=A)
    assert str(refused.value) == str(later.value)
    assert "BINDINGS_PHONE_KEYS_FILE" in str(refused.value)
    assert words in str(refused.value)


def test_running_process_without_the_key_sends_nothing(harness: ServiceHarness) -> None:
    harness.bind()
    write_sealed(harness.database)
    calls = harness.received("bind")
    with pytest.raises(Busy, match="encrypted with index key 1 and data key 1, which this process does not have"):
        harness.bind("9188067702", "9188067703")
    assert harness.received("bind") == calls
    count = text("SELECT count(*) FROM bindings")
    assert harness.database.read(lambda connection: connection.execute(count).scalar_one()) == 1


def test_replica_records_the_ids_of_its_keys(harness: ServiceHarness, tmp_path: Path) -> None:
    file = write_ring(tmp_path / "ring", index=(1, 2))
    with BindingService.open(environment={}, database_url=harness.url, phone_keys_file=str(file)) as service:
        query = text("SELECT phone_key_ids FROM replicas")
        stored = service.runtime.database.read(lambda connection: connection.execute(query).scalar_one())
    ids = json.loads(stored) if isinstance(stored, str) else stored
    assert ids == [f"{name}:{check}" for name, check in phone_keys(index=(1, 2)).checks.items()]
