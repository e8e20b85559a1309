"""audit: create the key that seals the history, show the last seal, and verify."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output
from bindings.domain.serialization import to_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.monitoring.audit import Verification
    from bindings.sealing.findings import Finding
    from bindings.sealing.keys import PublicKeys

PUBLIC_KEY = "public-key"


@click.group(no_args_is_help=False)
def audit() -> None:
    """Seal the history with a key, and verify that it was not changed since."""


@audit.command(name="new-key")
@click.argument("file", type=options.FilePath())
@options.as_json
def new_key(*, file: str, as_json: bool) -> None:
    """Write a new private key to FILE, which must not exist, and print its public key.

    Set BINDINGS_SEAL_KEY_FILE to FILE where events are sealed, and nowhere else. Keep the public key apart from
    the database: with it a history is verified. Needs no database.
    """
    context.configure_logging(as_json=as_json)
    from bindings.sealing.keys import create_key_file

    key = create_key_file(file, "FILE")
    if as_json:
        output.emit({"file": file, "key_id": key.key_id, "public_key": key.public_pem})
        return
    click.echo(key.public_pem, nl=False)
    output.message(f"The private key {key.key_id} is in {output.escape_unprintable(file)}.")


@audit.command()
@options.as_json
@click.pass_context
def head(command: click.Context, *, as_json: bool) -> None:
    """Print the last seal, N:HASH, to keep elsewhere and to verify with. Exits with 1 if there is none."""
    from bindings.store import seals

    with context.open_service(as_json=as_json) as service:
        seal = service.runtime.database.read(seals.last)
    if as_json:
        values = {"head": seal.head, "created_at": seal.created_at} if seal else {"head": None, "created_at": None}
        output.emit(values)
    elif seal:
        click.echo(seal.head)
    else:
        output.message("The history is not sealed: no seal is recorded.")
    if seal is None:
        command.exit(1)


@audit.command()
@click.option(
    f"--{PUBLIC_KEY}",
    "public_keys",
    type=options.FilePath(),
    metavar="FILE",
    multiple=True,
    help="File with public keys, as PEM; repeatable. Default: that of BINDINGS_SEAL_KEY_FILE.",
)
@click.option(
    "--events",
    "events_path",
    type=options.FilePath(),
    metavar="FILE",
    help="File of `bindings export sealed-events`.",
)
@click.option(
    "--seals", "seals_path", type=options.FilePath(), metavar="FILE", help="File of `bindings export seals`."
)
@click.option("--head", "heads", metavar="N:HASH", multiple=True, help="A head that was kept; repeatable.")
@options.as_json
@click.pass_context
def verify(
    command: click.Context,
    *,
    public_keys: tuple[str, ...],
    events_path: str | None,
    seals_path: str | None,
    heads: tuple[str, ...],
    as_json: bool,
) -> None:
    """Compare the history with its seals. Exits with 1 if anything contradicts them.

    Reads every event in one snapshot, and changes nothing. It proves that what was sealed was not changed since;
    not that it was true, and nothing of events after the last seal. Give the public key and a head that were kept
    apart from the database: without them, what is signed by another key, or cut off at the end, may pass.

    With --events and --seals it compares exported files with each other and needs no database; then the rows of
    bindings, holds and keys are not compared.
    """
    from bindings.validation import requests as validation

    checked_heads = validation.heads(heads)
    if events_path is None and seals_path is None:
        result = _verify_database(public_keys, checked_heads, as_json=as_json)
    else:
        context.configure_logging(as_json=as_json)
        result = _verify_files(public_keys, events_path, seals_path, checked_heads, as_json=as_json)
    _show(result, as_json=as_json)
    if not result.is_sound:
        command.exit(1)


def _verify_database(files: Sequence[str], heads: dict[int, str], *, as_json: bool) -> Verification:
    from bindings.monitoring.audit import verify_database

    with context.open_service(as_json=as_json) as service:
        keys = _public_keys(files, service.settings.seal_key_file)
        with output.spinner("verifying ...", as_json=as_json):
            return verify_database(service.runtime.database, keys, heads)


def _verify_files(
    files: Sequence[str], events_path: str | None, seals_path: str | None, heads: dict[int, str], *, as_json: bool
) -> Verification:
    from bindings.errors import InvalidRequest
    from bindings.monitoring.audit import verify_files

    for option, path in (("events", events_path), ("seals", seals_path)):
        if path is None or not os.access(path, os.R_OK):
            raise InvalidRequest.of_field(option, "must name a file that can be read, beside the other one")
    keys = _public_keys(files, None)
    with (
        open(events_path or "", encoding="utf-8") as events,  # noqa: PTH123 -- a path of the caller
        open(seals_path or "", encoding="utf-8") as seals,  # noqa: PTH123
        output.spinner("verifying ...", as_json=as_json),
    ):
        return verify_files(events, seals, keys, heads)


def _public_keys(files: Sequence[str], key_file: str | None) -> PublicKeys:
    from bindings.errors import InvalidRequest
    from bindings.sealing.keys import PublicKeys, load_public_keys, load_signing_key

    if files:
        return load_public_keys(files, PUBLIC_KEY)
    if key_file is not None:
        return PublicKeys(load_signing_key(key_file, "BINDINGS_SEAL_KEY_FILE").public_pem, PUBLIC_KEY)
    raise InvalidRequest.of_field(PUBLIC_KEY, "is needed: `bindings audit new-key` printed it")


def _show(result: Verification, *, as_json: bool) -> None:
    if as_json:
        output.emit({"sound": result.is_sound, **to_plain(result)})
        return
    for finding in result.findings:
        click.echo(output.escape_unprintable(_line(finding)))
    if result.finding_count > len(result.findings):
        output.message(f"{result.finding_count - len(result.findings)} more findings are not shown.")
    click.echo(
        f"head: {result.head or '-'}  events: {result.events}  unsealed: {result.unsealed}"
        f"  findings: {result.finding_count}"
    )


def _line(finding: Finding) -> str:
    """Return a finding as one line: what it concerns, what is wrong, and the stretch."""
    number = finding.first_seal if finding.subject == "seal" and finding.first_seal == finding.last_seal else None
    subject = finding.subject if number is None else f"{finding.subject} {number}"
    if finding.id is not None:
        subject = f"{subject} {finding.id}"
    stretch = []
    if number is None and finding.first_seal is not None:
        last = "" if finding.last_seal in (None, finding.first_seal) else f" to {finding.last_seal}"
        stretch.append(f"seal {finding.first_seal}{last}")
    if finding.first is not None:
        stretch.append(f"events {finding.first} to {finding.last}")
    elif finding.last is not None:
        stretch.append(f"up to event {finding.last}")
    return f"{subject} {finding.message}" + (f" ({', '.join(stretch)})" if stretch else "")
