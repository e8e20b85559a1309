"""webhooks: who is told of events, what was sent to them, and a message to try it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bindings.cli import context as session
from bindings.cli import options, output
from bindings.domain import serialization

if TYPE_CHECKING:
    from bindings.webhooks.endpoints import Delivery, Webhook, WebhookWithSecret

NOT_TAKEN = 5  # as for any call that the other side did not answer well

webhook_id = click.argument("webhook_id", metavar="ID")


@click.group(no_args_is_help=False)
def webhooks() -> None:
    """Send events to receivers: add them, try them, and send again what they did not take."""


@webhooks.command()
@click.option("--url", metavar="URL", help="Where events are sent, http or https.")
@click.option("--kind", "kinds", metavar="KIND", multiple=True, help="Only this kind; may be repeated.")
@options.as_json
def add(*, url: str | None, kinds: tuple[str, ...], as_json: bool) -> None:
    """Add a receiver of events from now on; its secret is shown this once."""
    asked: dict[str, Any] = {"url": url, "kinds": kinds or None}
    with options.report_missing({"url": url}), options.rename_fields(kinds="kind"):
        options.validation().webhook(**asked)
    with session.open_service(as_json=as_json) as service:
        added = service.webhooks.add(**asked)
    _show_secret(added, as_json=as_json)


@webhooks.command("list")
@options.as_json
def list_(*, as_json: bool) -> None:
    """List the receivers, without their secrets."""
    with session.open_service(as_json=as_json) as service:
        found = service.webhooks.list()
    if as_json:
        output.emit_list(found)
    elif not found:
        output.message("No webhook yet: bindings webhooks add --help")
    else:
        output.table(
            ["ID", "URL", "KINDS", "STATE", "ADDED", "BY"],
            [
                [
                    each.id,
                    output.escape_unprintable(each.url),
                    "all" if each.kinds is None else " ".join(each.kinds),
                    _state(each),
                    output.format_instant(each.created_at),
                    output.escape_unprintable(each.created_by),
                ]
                for each in found
            ],
        )


@webhooks.command("test")
@webhook_id
@options.as_json
@click.pass_context
def test_(context: click.Context, webhook_id: str, *, as_json: bool) -> None:
    """Send a signed test message now; exits with 5 where the receiver did not take it."""
    options.validation().identifier(webhook_id, "webhook")
    _sending()
    from bindings.webhooks import sender

    with session.open_service(as_json=as_json) as service, output.spinner("sending ...", as_json=as_json):
        answer = sender.send_test(service, webhook_id)
    if as_json:
        output.emit(
            {
                "delivered": answer.error is None,
                "status": answer.status,
                "error": answer.error,
                "elapsed_s": round(answer.elapsed_s, 3),
            }
        )
    else:
        said = f"answered {answer.status}" if answer.error is None else f"failed: {answer.error}"
        click.echo(f"{said} in {answer.elapsed_s:.3f} s")
    if answer.error is not None:
        context.exit(NOT_TAKEN)


@webhooks.command()
@webhook_id
@click.option("--state", help="pending, delivered or dead.")
@click.option("--cursor", help="Go on where an earlier list ended.")
@click.option("--limit", type=options.WholeNumber(), default=50, show_default=True, help="1 to 200.")
@options.as_json
def deliveries(webhook_id: str, *, as_json: bool, **asked: Any) -> None:
    """List what was sent or waits for a receiver, the newest event first."""
    options.validation().identifier(webhook_id, "webhook")
    options.validation().deliveries(**asked)
    with session.open_service(as_json=as_json) as service:
        page = service.webhooks.deliveries(webhook_id, **asked)
    if as_json:
        output.emit(page)
        return
    if not page.data:
        output.message("No delivery.")
        return
    output.table(
        ["ID", "EVENT", "BINDING", "STATE", "TRIES", "NEXT OR DONE", "LAST ERROR"],
        [_row(each) for each in page.data],
    )
    if page.next_cursor is not None:
        output.message(f"There are more: add --cursor {page.next_cursor}")


@webhooks.command()
@click.argument("delivery_id", metavar="[DELIVERY_ID]", required=False)
@click.option("--dead", is_flag=True, help="Every dead delivery of a receiver; goes with --webhook.")
@click.option("--webhook", metavar="ID", help="Of which receiver; goes with --dead.")
@options.as_json
def redeliver(delivery_id: str | None, *, dead: bool, webhook: str | None, as_json: bool) -> None:
    """Send a delivery again that is dead or was delivered, or every dead one of a receiver.

    `bindings scheduler` sends it.
    """
    _check_choice(delivery_id, dead=dead, webhook=webhook)
    with session.open_service(as_json=as_json) as service:
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
    """Make another secret; for 24 h deliveries are signed with the old one too."""
    with session.open_service(as_json=as_json) as service:
        rotated = service.webhooks.rotate(webhook_id)
    _show_secret(rotated, as_json=as_json)


@webhooks.command()
@webhook_id
@options.as_json
def disable(webhook_id: str, *, as_json: bool) -> None:
    """Send nothing to a receiver from now on; what happens meanwhile waits for it."""
    with session.open_service(as_json=as_json) as service:
        _show(service.webhooks.disable(webhook_id), as_json=as_json)


@webhooks.command()
@webhook_id
@options.as_json
def enable(webhook_id: str, *, as_json: bool) -> None:
    """Send to a receiver again, and first what has waited."""
    with session.open_service(as_json=as_json) as service:
        _show(service.webhooks.enable(webhook_id), as_json=as_json)


@webhooks.command()
@webhook_id
@options.as_json
def remove(webhook_id: str, *, as_json: bool) -> None:
    """Forget a receiver and all its deliveries, also those that wait."""
    with session.open_service(as_json=as_json) as service:
        service.webhooks.remove(webhook_id)
    if as_json:
        output.emit({"removed": webhook_id})
    else:
        click.echo("removed")


def _sending() -> None:
    """Say in plain words that this installation cannot send."""
    from importlib.util import find_spec

    from bindings.errors import FieldError, InvalidRequest

    if find_spec("standardwebhooks") is None:
        raise InvalidRequest(
            [FieldError("webhooks", "are signed by the extra `server`: install bindings[server]")]
        )


def _check_choice(delivery_id: str | None, *, dead: bool, webhook: str | None) -> None:
    checks = options.validation().Checks()
    if (delivery_id is None) != dead:
        checks.fault("delivery_id", "or --dead is needed, and not both")
    if dead != (webhook is not None):
        checks.fault("webhook", "goes with --dead: give both or neither")
    checks.raise_all()


def _show_secret(made: WebhookWithSecret, *, as_json: bool) -> None:
    if as_json:
        output.emit(serialization.fields(made.webhook) | {"secret": made.secret})
        return
    output.details(made.webhook)
    click.echo(f"secret        {made.secret}")
    output.message("The receiver checks signatures with this secret. It is not shown again.")


def _show(webhook: Webhook, *, as_json: bool) -> None:
    show = output.emit if as_json else output.details
    show(webhook)


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
