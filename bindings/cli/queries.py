"""The questions: get, list, lookup, history, trace, check, doubts. Nothing here changes a binding."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from bindings.cli import context, options, output
from bindings.domain import serialization as rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.domain.binding import Binding, NearMiss, Trace

INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?\+00:00")
SEARCH_FILTERS = {
    "--state": "pending, active, in_doubt, failed, expired, unbound or lapsed.",
    "--mode": "AXB or AXXB.",
    "--phone": "A real phone, as A or as B.",
    "--middle-number": "A middle number, of either party.",
    "--reference": "Your order id.",
    "--bind-id": "The provider's id.",
    "--pool-number": "The pool.",
    "--app-id": "The application.",
    "--requested-from": "Requested at or after this time, such as 2026-11-23T14:32:00Z.",
    "--requested-to": "Requested before this time.",
}


def _filters(command: Any) -> Any:
    for name, told in reversed(SEARCH_FILTERS.items()):
        command = click.option(name, help=told)(command)
    return command


@click.command()
@options.binding_id
@options.reveal_options
@options.as_json
def get(binding_id: str, *, why: str | None, as_json: bool) -> None:
    """Show one binding as recorded."""
    options.validation().binding_id(binding_id)
    with context.open_service(as_json=as_json) as service:
        binding = service.get(binding_id)
        context.record_reveal(service, [binding.id], why)
    show = output.emit if as_json else output.details
    show(binding, revealed=why is not None)


@click.command("list")
@_filters
@click.option("--cursor", help="Go on where an earlier list ended.")
@click.option("--limit", type=options.WholeNumber(), default=50, show_default=True, help="1 to 200.")
@options.reveal_options
@options.as_json
def list_(*, why: str | None, as_json: bool, **filters: Any) -> None:
    """List bindings, newest first, that match every filter given."""
    options.validation().filters(**filters)
    with context.open_service(as_json=as_json) as service:
        page = service.search(**filters)
        context.record_reveal(service, (binding.id for binding in page.data), why)
    empty = "No binding matches. Leave out a filter to see more, or make one: bindings bind --help"
    _show(page.data, why, as_json=as_json, empty=empty, next_cursor=page.next_cursor)


@click.command()
@click.option("--phone", metavar="DIGITS", help="A real phone: its active bindings.")
@click.option("--middle-number", metavar="DIGITS", help="A middle number: the active bindings behind it.")
@click.option("--party", metavar="DIGITS", help="Who calls it; goes with --middle-number.")
@options.reveal_options
@options.as_json
def lookup(*, why: str | None, as_json: bool, **asked: Any) -> None:
    """Show the bindings that are active now, newest first."""
    options.validation().lookup(**asked)
    with context.open_service(as_json=as_json) as service:
        found = service.lookup(**asked)
        context.record_reveal(service, (binding.id for binding in found), why)
    empty = "No active binding. What has ended is found with `bindings list`, or `bindings trace` for a time."
    _show(found, why, as_json=as_json, empty=empty)


@click.command()
@options.binding_id
@options.as_json
def history(binding_id: str, *, as_json: bool) -> None:
    """Show every event of a binding, in order."""
    options.validation().binding_id(binding_id)
    with context.open_service(as_json=as_json) as service:
        events = service.history(binding_id)
    if as_json:
        output.emit_list(events)
        return
    output.table(
        ["#", "AT", "EVENT", "BY", "DETAIL"],
        [
            [
                str(event.sequence),
                output.format_instant(event.at),
                event.kind,
                output.escape_unprintable(event.actor),
                _format_detail(event.detail),
            ]
            for event in events
        ],
    )


@click.command()
@click.argument("middle_number")
@click.option("--at", metavar="TIME", help="The instant, with its zone, such as 2026-11-23T14:32:00Z.")
@click.option("--party", metavar="DIGITS", help="Only bindings of this real phone.")
@click.option(
    "--window-s",
    type=options.Number(),
    default=300,
    show_default=True,
    help="Near misses ended or began within this many seconds.",
)
@options.reveal_options
@options.as_json
def trace(*, why: str | None, as_json: bool, **asked: Any) -> None:
    """Tell who had a middle number at an instant, and how sure that is.

    "certain": the provider had confirmed it and it was not over. "possible": it had been asked for, or was
    over here while the provider may still have held it.
    """
    with options.report_missing(asked):
        options.validation().trace(**asked)
    with context.open_service(as_json=as_json) as service:
        found = service.trace(**asked)
        ids = [held.id for held in found.holders] + [miss.id for miss in found.near_misses]
        context.record_reveal(service, ids, why)
    if as_json:
        output.emit(_trace(found), revealed=why is not None)
    else:
        _show_trace(found, revealed=why is not None)


@click.command()
@click.option("--phone-a", metavar="DIGITS", help="First real phone.")
@click.option("--phone-b", metavar="DIGITS", help="Second real phone.")
@click.option("--mode", metavar="AXB|AXXB", help="What would be bound.")
@click.option("--app-id", help="Application; default BINDINGS_PROVIDER_APP_ID.")
@options.as_json
def check(*, as_json: bool, **asked: Any) -> None:
    """Tell who would stand in the way of a bind, without binding.

    A question, not a try: it exits with 0 whether somebody holds a phone or nobody does, and reserves nothing.
    """
    with options.report_missing(asked):
        options.validation().check_request(**asked | {"app_id": asked["app_id"] or "any"})
    with context.open_service(as_json=as_json) as service:
        holders = service.check(**asked)
    if as_json:
        output.emit_list(holders)
        return
    if not holders:
        output.message("Nobody stands in the way: such a bind would be sent.")
        return
    rows = [
        [
            holder.id or f"not ours ({holder.why})",
            holder.state or "-",
            holder.mode or "-",
            output.format_instant(holder.held_until),
            str(holder.retry_after_s),
            output.escape_unprintable(holder.reference or "-"),
        ]
        for holder in holders
    ]
    output.table(["HELD BY", "STATE", "MODE", "HELD UNTIL", "SECONDS", "REFERENCE"], rows)


@click.command()
@options.reveal_options
@options.as_json
def doubts(*, why: str | None, as_json: bool) -> None:
    """List what waits for an answer: doubts, unsettled intents, unclear unbinds; oldest first."""
    with context.open_service(as_json=as_json) as service:
        found = service.doubts()
        context.record_reveal(service, (binding.id for binding in found), why)
    _show(found, why, as_json=as_json, empty="No open doubts.")
    if found and not as_json:
        output.message("`bindings reconcile` compares them with the provider's own list.")


def _show(
    found: Sequence[Binding], why: str | None, *, as_json: bool, empty: str, next_cursor: str | None = None
) -> None:
    revealed = why is not None
    if as_json:
        output.emit_list(found, next_cursor=next_cursor, revealed=revealed)
        return
    if not found:
        output.message(empty)
        return
    output.bindings(found, revealed=revealed)
    if next_cursor is not None:
        output.message(f"There are more: add --cursor {next_cursor}")


def _format_detail(detail: dict[str, Any]) -> str:
    """An event's detail on one line; what is not set is left out."""
    pairs = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in detail.items())
    told = " ".join(f"{key}={value}" for key, value in pairs if value != "null")
    return output.escape_unprintable(INSTANT.sub(r"\1Z", told))


def _trace(found: Trace) -> dict[str, Any]:
    return {
        "holders": [rows.fields(held.binding) | {"certainty": held.certainty} for held in found.holders],
        "near_misses": [
            rows.fields(miss.binding) | {"relation": miss.relation, "at": miss.at, "offset_s": miss.offset_s}
            for miss in found.near_misses
        ],
    }


def _show_trace(found: Trace, *, revealed: bool) -> None:
    if found.holders:
        certainty = {"CERTAINTY": [held.certainty.value for held in found.holders]}
        output.bindings([held.binding for held in found.holders], revealed=revealed, extra=certainty)
    else:
        output.message("Nobody had this middle number at that instant.")
    if not found.near_misses:
        return
    output.message("\nNear misses:" if found.holders else "Near misses:")
    offsets = {"MISSED": [_offset(miss) for miss in found.near_misses]}
    output.bindings([miss.binding for miss in found.near_misses], revealed=revealed, extra=offsets)


def _offset(miss: NearMiss) -> str:
    return f"{miss.relation} {abs(miss.offset_s):.0f} s {'before' if miss.offset_s <= 0 else 'after'}"
