"""keys: make, list and revoke the keys of the HTTP service."""

from __future__ import annotations

from typing import Any

import click

from bindings.cli import context, options, output


@click.group(no_args_is_help=False)
def keys() -> None:
    """Make, list and revoke the keys that callers of the HTTP service present."""


@keys.command()
@click.option("--name", metavar="TEXT", help="Who uses it; goes into the history as key:NAME.")
@click.option("--role", metavar="ROLE", help="app, auditor, investigator or admin.")
@click.option("--rate-limit", type=options.WholeNumber(), help="Requests per second and replica.")
@click.option("--expires-at", metavar="TIME", help="Good until then, such as 2027-01-31T00:00:00Z.")
@options.as_json
def create(*, as_json: bool, **given: Any) -> None:
    """Make a key and print it, this once: it is stored nowhere.

    app binds, looks up, and sees its own bindings; auditor reads everything, phones masked; investigator also
    reveals phones, for a recorded reason; admin does everything. To rotate, make a second key of the same name,
    hand it out, and revoke the first.
    """
    with options.report_missing(given):
        options.validation().key(**given)
    with context.open_service(as_json=as_json) as service:
        made = service.keys.create(**given)
    record = made.record
    if as_json:
        output.emit({"id": record.id, "name": record.name, "role": record.role, "key": made.key})
        return
    click.echo(made.key)
    output.message(
        f"{record.role} key {record.id} for {output.escape_unprintable(record.name)}; it is shown this once."
    )


@keys.command("list")
@options.as_json
def list_(*, as_json: bool) -> None:
    """List every key, also those that are revoked; never the keys themselves."""
    with context.open_service(as_json=as_json) as service:
        found = service.keys.list()
    if as_json:
        output.emit_list(found)
        return
    if not found:
        output.message(
            "No key: `bindings serve` lets callers of this host in as admin. Make one: bindings keys create"
        )
        return
    output.table(
        ["ID", "KEY", "NAME", "ROLE", "CREATED", "LAST USED", "GOOD UNTIL"],
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
            for key in found
        ],
    )


@keys.command()
@click.argument("key_id", metavar="ID")
@options.as_json
def revoke(key_id: str, *, as_json: bool) -> None:
    """Make a key useless, within seconds on every replica. Safe to repeat."""
    options.validation().identifier(key_id, "key")
    with context.open_service(as_json=as_json) as service:
        revoked = service.keys.revoke(key_id)
    if as_json:
        output.emit(revoked)
    else:
        click.echo(f"revoked {revoked.id} ({revoked.role}, {output.escape_unprintable(revoked.name)})")
