"""keys: create, list and revoke the API keys of the HTTP service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from bindings.cli.options import RawValue


@click.group(no_args_is_help=False)
def keys() -> None:
    """Create, list and revoke the API keys of the HTTP service."""


@keys.command()
@click.option("--name", metavar="TEXT", help="Name of the client; recorded in the history as key:NAME.")
@click.option("--role", metavar="ROLE", help="app, auditor, investigator, admin or router.")
@click.option("--rate-limit", type=options.WholeNumber(), help="Requests per second per replica.")
@click.option("--expires-at", metavar="TIME", help="Expiry time, such as 2027-01-31T00:00:00Z.")
@options.as_json
def create(*, name: RawValue, role: RawValue, rate_limit: RawValue, expires_at: str | None, as_json: bool) -> None:
    """Create an API key and print it. Only its hash is stored: it cannot be shown again.

    Role app binds, looks up, and sees its own bindings; auditor reads everything, with phones masked;
    investigator also reveals phones, for a recorded reason; admin does everything; router looks up the active
    bindings of all applications with full phones, and nothing else. To rotate a key, create a second one with the
    same name, distribute it, and revoke the first.
    """
    with context.open_service(as_json=as_json) as service, options.report_missing(name=name, role=role):
        created = service.api_keys.create(name=name, role=role, rate_limit=rate_limit, expires_at=expires_at)
    record = created.record
    if as_json:
        output.emit({"id": record.id, "name": record.name, "role": record.role, "key": created.key})
        return
    click.echo(created.key)
    output.message(
        f"{record.role} key {record.id} for {output.escape_unprintable(record.name)}; it is not shown again."
    )


@keys.command()
@options.as_json
def generate(*, as_json: bool) -> None:
    """Print a new random key, for the file of BINDINGS_BOOTSTRAP_KEY_FILE. Records nothing; needs no database.

    `bindings db upgrade` and `bindings serve` record the key in that file as an admin key, if it is not recorded
    yet. The file must not be open to other users: (umask 077; bindings keys generate > FILE)
    """
    from bindings.access import api_keys

    context.configure_logging(as_json=as_json)
    key = api_keys.generate()
    if as_json:
        output.emit({"key": key})
    else:
        click.echo(key)


@keys.command("list")
@options.as_json
def list_(*, as_json: bool) -> None:
    """List all keys, including revoked ones. The secret part of a key is not shown."""
    with context.open_service(as_json=as_json) as service:
        records = service.api_keys.list()
    if as_json:
        output.emit_list(records)
        return
    if not records:
        output.message(
            "No key exists. Create one: bindings keys create. Until then `bindings serve` prints a sign-in link."
        )
        return
    output.table(
        ["ID", "KEY", "NAME", "ROLE", "CREATED", "LAST USED", "VALID UNTIL"],
        [
            [
                key.id,
                f"{key.prefix}...",
                output.escape_unprintable(key.name),
                key.role,
                output.format_instant(key.created_at),
                output.format_instant(key.last_used_at),
                f"revoked {output.format_instant(key.revoked_at)}"
                if key.revoked_at
                else output.format_instant(key.expires_at),
            ]
            for key in records
        ],
    )


@keys.command()
@click.argument("key_id", metavar="ID")
@options.as_json
def revoke(key_id: str, *, as_json: bool) -> None:
    """Revoke a key. All replicas refuse it within seconds. Safe to repeat."""
    with context.open_service(as_json=as_json) as service:
        revoked = service.api_keys.revoke(key_id)
    if as_json:
        output.emit(revoked)
    else:
        click.echo(f"revoked {revoked.id} ({revoked.role}, {output.escape_unprintable(revoked.name)})")
