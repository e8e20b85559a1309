"""bind, unbind, and mark-absent, which ends a doubt on a person's word."""

from __future__ import annotations

from typing import Any

import click

from bindings.cli import context, options, output


@click.command()
@click.option("--phone-a", metavar="DIGITS", help="First real phone, international form.")
@click.option("--phone-b", metavar="DIGITS", help="Second real phone, of the same country.")
@click.option("--pool-number", metavar="POOL", help="Pool that the middle number is picked from.")
@click.option("--expire-s", type=options.WholeNumber(), help="Seconds to live, 1 to 259200 (72 h).")
@click.option("--mode", metavar="AXB|AXXB", help="AXB: one middle number for both; AXXB: one each.")
@click.option("--app-id", help="Application; default BINDINGS_PROVIDER_APP_ID.")
@click.option("--reference", help="Your order id.")
@click.option("--idempotency-key", metavar="KEY", help="The same key never binds twice.")
@click.option(
    "--warn-s", type=options.WholeNumber(), help="Seconds before the end for an expires_soon event; 0: none."
)
@options.as_json
def bind(*, as_json: bool, **asked: Any) -> None:
    """Lend a middle number to two phones.

    With --idempotency-key it is safe to repeat: the same request gives the same binding. Exits with 3 where a
    phone is held (nothing is sent), and with 6 where the outcome is unknown: the binding is then printed as
    recorded, and must not be bound again.
    """
    _check_values(asked)
    from bindings.errors import OutcomeUnknown

    with context.open_service(as_json=as_json) as service:
        try:
            binding = service.bind(**asked)
        except OutcomeUnknown as unknown:
            _show(unknown.binding, as_json=as_json)
            raise
    _show(binding, as_json=as_json)


@click.command()
@options.binding_id
@click.option("--reason", metavar="TEXT", help="Why; it goes into the history.")
@options.as_json
def unbind(binding_id: str, *, reason: str | None, as_json: bool) -> None:
    """End a binding early.

    Safe to repeat. Exits with 6 where the provider gave no clear answer: the wish is recorded, the binding is
    offered to nobody, and `bindings recover` asks again.
    """
    from bindings.errors import OutcomeUnknown

    options.validation().binding_id(binding_id)
    options.validation().optional_reason(reason)
    with context.open_service(as_json=as_json) as service:
        try:
            binding = service.unbind(binding_id, reason=reason)
        except OutcomeUnknown as unknown:
            _show(unknown.binding, as_json=as_json)
            raise
    _show(binding, as_json=as_json)


@click.command("mark-absent")
@options.binding_id
@click.option("--reason", metavar="TEXT", help="How you know; it goes into the history.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@options.as_json
def mark_absent(binding_id: str, *, reason: str | None, dry_run: bool, as_json: bool) -> None:
    """End a doubt on your word that the provider made nothing of it.

    Its phones are free at once. If the provider made it after all, somebody else may be given a phone that it
    still holds: look in the provider's own console first, and prefer `bindings reconcile`, which proves absence.
    Refused while the provider may still accept the request (5 minutes by default).
    """
    options.validation().binding_id(binding_id)
    with options.report_missing({"reason": reason}):
        options.validation().reason(reason)
    with context.open_service(as_json=as_json) as service:
        marked = service.mark_absent(binding_id, reason=reason or "", dry_run=dry_run)
    _show(marked.after, as_json=as_json)
    if dry_run:
        output.message("Dry run: nothing was changed; the binding is shown as it would be.")


def _show(binding: Any, *, as_json: bool) -> None:
    if as_json:
        output.emit(binding)
    else:
        output.details(binding)


def _check_values(asked: dict[str, Any]) -> None:
    """Find what is wrong before the database is opened; the app_id may yet come from the settings."""
    from bindings.validation import requests as validation

    with options.report_missing(asked):
        validation.bind_request(**asked | {"app_id": asked["app_id"] if asked["app_id"] is not None else "any"})
