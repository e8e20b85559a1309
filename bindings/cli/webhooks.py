"""webhooks: the receivers of events, their deliveries, and a test message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output
from bindings.domain import serialization
from bindings.domain.addresses import sends_in_clear

if TYPE_CHECKING:
    from bindings.cli.options import RawValue
    from bindings.store.deliveries import Delivery
    from bindings.store.webhooks import Webhook
    from bindings.webhooks.endpoints import WebhookWithSecret

ALL_KINDS = "all but revealed, phone_searched, budget_used_up, exported, administered and sealed"
NOT_DELIVERED = 5  # exit code, as for other calls that the remote side refused or did not receive

webhook_id = click.argument("webhook_id", metavar="ID")


@click.group(no_args_is_help=False)
def webhooks() -> None:
    """Send events to webhooks: add and test receivers, and repeat deliveries."""


@webhooks.command()
@click.option("--url", metavar="URL", help="URL that events are sent to, http or https.")
@click.option(
    "--kind",
    "kinds",
    metavar="KIND",
    multiple=True,
    help=f"Send only this kind. May be repeated. Default: {ALL_KINDS}.",
)
@options.as_json
def add(*, url: RawValue, kinds: tuple[str, ...], as_json: bool) -> None:
    """Add a webhook. It receives events from now on. Its secret is shown only once."""
    with (
        context.open_service(as_json=as_json) as service,
        options.report_missing(url=url),
        options.rename_fields(kinds="kind"),
    ):
        added = service.webhooks.add(url=url, kinds=kinds or None)
    _show_secret(added, as_json=as_json)
    if sends_in_clear(added.webhook.url) and not as_json:
        output.message("Its events are sent to another host in clear: use an https: address.")


@webhooks.command("list")
@options.as_json
def list_(*, as_json: bool) -> None:
    """List the webhooks, without their secrets."""
    with context.open_service(as_json=as_json) as service:
        webhooks = service.webhooks.list()
    if as_json:
        output.emit_list(webhooks)
    elif not webhooks:
        output.message("No webhook yet: bindings webhooks add --help")
    else:
        output.table(
            ["ID", "URL", "KINDS", "STATE", "ADDED", "BY"],
            [
                [
                    webhook.id,
                    output.escape_unprintable(webhook.url),
                    ALL_KINDS if webhook.kinds is None else " ".join(webhook.kinds),
                    _state(webhook),
                    output.format_instant(webhook.created_at),
                    output.escape_unprintable(webhook.created_by),
                ]
                for webhook in webhooks
            ],
        )


@webhooks.command("test")
@webhook_id
@options.as_json
@click.pass_context
def test_(command: click.Context, webhook_id: str, *, as_json: bool) -> None:
    """Send a signed test message now. Exits with 5 if the receiver did not accept it."""
    from bindings.webhooks import sender

    with context.open_service(as_json=as_json) as service, output.spinner("sending ...", as_json=as_json):
        response = sender.send_test(service.runtime, webhook_id)
    if as_json:
        output.emit(
            {
                "delivered": response.error is None,
                "status": response.status,
                "error": response.error,
                "elapsed_s": round(response.elapsed_s, 3),
            }
        )
    else:
        result = f"answered {response.status}" if response.error is None else f"failed: {response.error}"
        click.echo(f"{result} in {response.elapsed_s:.3f} s")
    if response.error is not None:
        command.exit(NOT_DELIVERED)


@webhooks.command()
@webhook_id
@click.option("--state", help="pending, delivered or dead.")
@options.cursor
@options.limit()
@options.as_json
def deliveries(webhook_id: str, *, state: str | None, cursor: str | None, limit: RawValue, as_json: bool) -> None:
    """List the sent and pending deliveries of a webhook, newest event first."""
    with context.open_service(as_json=as_json) as service:
        page = service.webhooks.deliveries(webhook_id, state=state, cursor=cursor, limit=limit)
    if as_json:
        output.emit(page)
        return
    if not page.data:
        output.message("No deliveries.")
        return
    output.table(
        ["ID", "EVENT", "BINDING", "STATE", "ATTEMPTS", "NEXT OR FINISHED", "LAST ERROR"],
        [_row(delivery) for delivery in page.data],
    )
    output.next_page(page.next_cursor)


@webhooks.command()
@click.argument("delivery_id", metavar="[DELIVERY_ID]", required=False)
@click.option("--dead", is_flag=True, help="All dead deliveries of a webhook. Requires --webhook.")
@click.option("--webhook", metavar="ID", help="The webhook. Requires --dead.")
@options.as_json
def redeliver(delivery_id: str | None, *, dead: bool, webhook: str | None, as_json: bool) -> None:
    """Send a dead or delivered delivery again, or all dead deliveries of a webhook.

    `bindings scheduler` sends them.
    """
    _check_redeliver_options(delivery_id, dead=dead, webhook=webhook)
    with context.open_service(as_json=as_json) as service:
        if webhook is not None:
            count = service.webhooks.redeliver_dead(webhook)
        else:
            service.webhooks.redeliver(str(delivery_id))
            count = 1
    if as_json:
        output.emit({"pending": count})
    else:
        click.echo(f"pending again: {count}")


@webhooks.command()
@webhook_id
@options.as_json
def rotate(webhook_id: str, *, as_json: bool) -> None:
    """Create a new secret. For 24 h deliveries are signed with the old secret as well."""
    with context.open_service(as_json=as_json) as service:
        rotated = service.webhooks.rotate(webhook_id)
    _show_secret(rotated, as_json=as_json)


@webhooks.command()
@webhook_id
@options.as_json
def disable(webhook_id: str, *, as_json: bool) -> None:
    """Stop sending to a webhook. New events stay pending for it."""
    with context.open_service(as_json=as_json) as service:
        output.record(service.webhooks.disable(webhook_id), as_json=as_json)


@webhooks.command()
@webhook_id
@options.as_json
def enable(webhook_id: str, *, as_json: bool) -> None:
    """Resume sending to a webhook, starting with the pending events."""
    with context.open_service(as_json=as_json) as service:
        output.record(service.webhooks.enable(webhook_id), as_json=as_json)


@webhooks.command()
@webhook_id
@options.as_json
def remove(webhook_id: str, *, as_json: bool) -> None:
    """Delete a webhook and all its deliveries, including pending ones."""
    with context.open_service(as_json=as_json) as service:
        service.webhooks.remove(webhook_id)
    if as_json:
        output.emit({"removed": webhook_id})
    else:
        click.echo("removed")


def _check_redeliver_options(delivery_id: str | None, *, dead: bool, webhook: str | None) -> None:
    from bindings.validation.requests import FieldErrors

    errors = FieldErrors()
    if (delivery_id is None) != dead:
        errors.add("delivery_id", "or --dead is needed, and not both")
    if dead != (webhook is not None):
        errors.add("webhook", "is needed with --dead: pass both or neither")
    errors.raise_if_any()


def _show_secret(created: WebhookWithSecret, *, as_json: bool) -> None:
    output.record(serialization.fields(created.webhook) | {"secret": created.secret}, as_json=as_json)
    if not as_json:
        output.message("The receiver checks signatures with this secret. It is not shown again.")


def _state(webhook: Webhook) -> str:
    return (
        "enabled" if webhook.disabled_at is None else output.escape_unprintable(f"disabled {webhook.disabled_why}")
    )


def _row(delivery: Delivery) -> list[str]:
    return [
        delivery.id,
        delivery.event.kind,
        delivery.event.binding_id or "-",
        delivery.state,
        str(delivery.attempts),
        output.format_instant(delivery.finished_at or delivery.next_at),
        output.escape_unprintable(delivery.error or "-"),
    ]
