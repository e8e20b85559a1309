"""get, list, lookup, history, trace, check and doubts. Nothing here changes a binding."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click

from bindings import telemetry
from bindings.cli import context, options, output
from bindings.domain import serialization
from bindings.domain.phone import Phone
from bindings.domain.search_filters import FLAGS, HELP, INSTANTS, REFUSAL_HELP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from bindings.cli.options import RawValue
    from bindings.domain.binding import Binding, Holder, NearMiss, Trace, TraceHolder
    from bindings.domain.hold import PhoneHold
    from bindings.service import BindingService
    from bindings.settings import Settings

SHORT_ID = 8  # characters of the end of a key's id: two keys may have one name
INSTANT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?\+00:00")


def _filter_options(help_texts: Mapping[str, str]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds an option for each filter."""

    def add_options(command: Callable[..., None]) -> Callable[..., None]:
        for name, help_text in reversed(list(help_texts.items())):
            command = _filter_option(name, help_text)(command)
        return command

    return add_options


def _filter_option(name: str, help_text: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    flag = f"--{name.replace('_', '-')}"
    if name == "phone":
        return options.phone_option(flag, help_text=help_text)
    if name in INSTANTS:
        return options.time_option(flag, INSTANTS[name], help_text=help_text)
    if name in FLAGS:
        return click.option(flag, help=help_text, is_flag=True, flag_value=True, default=None)
    return click.option(flag, help=help_text)


@click.command()
@options.binding_id
@options.reveal_options
@options.as_json
def get(binding_id: str, *, reveal_reason: str | None, as_json: bool) -> None:
    """Show one binding as recorded."""
    with context.open_service(as_json=as_json) as service:
        binding = service.get(binding_id)
        context.record_reveal(service, [binding.id], reveal_reason)
    output.record(binding, as_json=as_json, revealed=reveal_reason is not None)


@click.command("list")
@_filter_options(HELP)
@options.cursor
@options.limit()
@options.reveal_options
@options.as_json
def list_(
    *, cursor: str | None, limit: RawValue, reveal_reason: str | None, as_json: bool, **filters: RawValue
) -> None:
    """List the bindings that match all given filters, newest first.

    With --phone or --middle-number also the holds of the number: what else the provider holds it for. TIME is a
    time with a zone, such as 2026-11-23T14:32:00Z, or how long ago it was: 90min, 24h or 7d. REASON has the
    provider's status, if there is one, and the reason of the state.
    """
    with context.open_service(as_json=as_json) as service:
        page = service.search(cursor=cursor, limit=limit, **filters)
        holds = _holds_of(service, filters["phone"], filters["middle_number"])
        context.record_search(service, "list", filters["phone"], has_match=bool(page.data or holds))
        context.record_reveal(service, (binding.id for binding in page.data), reveal_reason)
    empty = "No binding recorded here matches. `bindings refusals` lists binds that were refused before the call."
    _show(page.data, reveal_reason, as_json=as_json, empty=empty, next_cursor=page.next_cursor, phone_holds=holds)


@click.command()
@_filter_options(REFUSAL_HELP)
@options.cursor
@options.limit()
@options.as_json
def refusals(*, cursor: str | None, limit: RawValue, as_json: bool, **filters: RawValue) -> None:
    """List binds that were refused before the provider was called, newest first.

    A phone was held, or the provider refuses the account. A bind that was refused because the service was busy is
    not recorded. Phones are masked.
    """
    with context.open_service(as_json=as_json) as service:
        page = service.search_refusals(cursor=cursor, limit=limit, **filters)
        context.record_search(service, "refusals", filters["phone"], has_match=bool(page.data))
    if as_json:
        output.emit_list(page.data, next_cursor=page.next_cursor)
        return
    if not page.data:
        output.message(_nothing_refused(filters))
        return
    rows = [
        [
            output.format_instant(refusal.at),
            refusal.code,
            f"{refusal.phone_a} {refusal.phone_b}",
            refusal.mode,
            _holder_id(refusal.holder),
            output.format_instant(None if refusal.holder is None else refusal.holder.held_until),
            output.escape_unprintable(refusal.actor),
            output.escape_unprintable(refusal.reference or "-"),
        ]
        for refusal in page.data
    ]
    output.table(["AT", "ERROR", "PHONES", "MODE", "HELD BY", "HELD UNTIL", "BY", "REFERENCE"], rows)
    output.next_page(page.next_cursor)


def _nothing_refused(filters: Mapping[str, RawValue]) -> str:
    """Return a message that names the filters, but not their values: one is a phone."""
    names = [f"--{name.replace('_', '-')}" for name in REFUSAL_HELP if filters[name] is not None]
    matching = f" matches {' and '.join(names)}" if names else " is recorded"
    return f"No bind that was refused before the call{matching}. `bindings list` lists bindings, failed ones too."


def _holder_id(holder: Holder | None) -> str:
    if holder is None:
        return "-"
    return holder.id or f"not in this database ({holder.why})"


@click.command()
@options.phone_option("--phone", help_text="List the active bindings of this real phone.")
@click.option("--middle-number", metavar="DIGITS", help="List the active bindings of this middle number.")
@options.phone_option("--party", help_text="The phone that calls the middle number. Requires --middle-number.")
@click.option("--reference", metavar="TEXT", help="List the active bindings of this order id.")
@options.reveal_options
@options.as_json
def lookup(
    *,
    phone: str | None,
    middle_number: str | None,
    party: str | None,
    reference: str | None,
    reveal_reason: str | None,
    as_json: bool,
) -> None:
    """Show the bindings that are active now, newest first, and the holds of the number.

    Requires --phone, --middle-number or --reference.
    """
    with context.open_service(as_json=as_json) as service:
        active = service.lookup(phone=phone, middle_number=middle_number, party=party, reference=reference)
        holds = _holds_of(service, phone if party is None else party, middle_number)
        context.record_search(service, "lookup", phone or party, has_match=bool(active or holds))
        context.record_reveal(service, (binding.id for binding in active), reveal_reason)
    empty = (
        "No active binding is recorded here. `bindings list` shows ended ones, `bindings trace` those of a time."
    )
    _show(active, reveal_reason, as_json=as_json, empty=empty, phone_holds=holds)


@click.command()
@options.binding_id
@options.as_json
def history(binding_id: str, *, as_json: bool) -> None:
    """Show every event of a binding, in order."""
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
                output.escape_unprintable(event.actor)
                + (f" (key ...{event.key_id[-SHORT_ID:]})" if event.key_id else ""),
                _format_detail(event.detail),
            ]
            for event in events
        ],
    )


@click.command()
@click.argument("middle_number")
@click.option(
    "--at", metavar="TIME", help="The time, not later than now, with a zone, such as 2026-11-23T14:32:00Z."
)
@options.phone_option("--party", help_text="Only bindings of this real phone.")
@click.option(
    "--window-s",
    type=options.Number(),
    default=300,
    show_default=True,
    help="Report bindings that ended or began within this many seconds as near misses.",
)
@options.reveal_options
@options.as_json
def trace(
    middle_number: str,
    *,
    at: RawValue,
    party: str | None,
    window_s: RawValue,
    reveal_reason: str | None,
    as_json: bool,
) -> None:
    """Show who had a middle number at a given time, and how certain this is.

    "certain": the provider had confirmed the binding and it had not ended. "possible": the bind had been
    requested, or the binding had ended here while the provider may still have held it. A hold is a phone that the
    provider holds for something other than a binding in force here.
    """
    with context.open_service(as_json=as_json) as service:
        with options.report_missing(at=at):
            result = service.trace(middle_number=middle_number, at=at, party=party, window_s=window_s)
        if party is not None:
            context.record_search(service, "trace", party, has_match=result.has_match(Phone(party)))
        binding_ids = [binding.id for binding in result.bindings]
        context.record_reveal(service, binding_ids, reveal_reason)
        traceparents = service.traceparents(binding_ids)
    if as_json:
        output.emit(_trace_to_dict(result) | {"traceparents": traceparents}, revealed=reveal_reason is not None)
    else:
        _show_trace(result, revealed=reveal_reason is not None, with_party=party is not None)
        for binding_id, traceparent in traceparents.items():
            click.echo(f"{binding_id} was requested in trace {telemetry.trace_id(traceparent)}")


@click.command()
@options.phone_option("--phone-a", help_text="First real phone.")
@options.phone_option("--phone-b", help_text="Second real phone.")
@click.option("--mode", metavar="AXB|AXXB", help="The mode of the bind to check.")
@click.option("--app-id", help="Application. Default: BINDINGS_PROVIDER_APP_ID.")
@options.as_json
def check(*, phone_a: RawValue, phone_b: RawValue, mode: RawValue, app_id: str | None, as_json: bool) -> None:
    """Show what would block a bind, without binding.

    Exits with 0 whether or not a phone is held, and reserves nothing.
    """
    required = options.report_missing(phone_a=phone_a, phone_b=phone_b, mode=mode)
    with context.open_service(as_json=as_json) as service, required:
        holders = service.check(phone_a=phone_a, phone_b=phone_b, mode=mode, app_id=app_id)
        context.record_search(service, "check", phone_a, has_match=bool(holders))
    if as_json:
        output.emit_list(holders)
        return
    if not holders:
        output.message("Nothing blocks this bind: it would be sent to the provider.")
        return
    rows = [
        [
            _holder_id(holder),
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
def doubts(*, reveal_reason: str | None, as_json: bool) -> None:
    """List operations without a known outcome, oldest first, with their age and what happens next.

    These are in-doubt bindings, unsettled binds, and unbinds without a clear response.
    """
    from bindings.lifecycle.resolution_times import next_scan

    with context.open_service(as_json=as_json) as service:
        open_doubts = service.doubts()
        context.record_reveal(service, (binding.id for binding in open_doubts), reveal_reason)
        now, scan_at = service.runtime.database.clock(), next_scan(service.runtime)
    if as_json:
        output.emit_list(open_doubts, revealed=reveal_reason is not None)
        return
    if not open_doubts:
        output.message("Nothing is in doubt.")
        return
    output.bindings(
        open_doubts,
        revealed=reveal_reason is not None,
        extra={
            "AGE": [serialization.duration((now - doubt.requested_at).total_seconds()) for doubt in open_doubts],
            "NEXT STEP": [_next_step(doubt, now, service.settings, scan_at) for doubt in open_doubts],
        },
    )
    output.message("`bindings reconcile` compares them with the provider's own list.")


def _next_step(doubt: Binding, now: datetime, settings: Settings, scan_at: datetime | None) -> str:
    """Return what happens next to an open binding, and when."""
    from bindings.lifecycle.doubts import next_steps

    steps = next_steps(doubt, now, settings, scan_at)
    if not steps:
        return "-"
    return steps[0].text if steps[0].at is None else f"{output.format_instant(steps[0].at)}: {steps[0].text}"


def _holds_of(service: BindingService, phone: RawValue, middle_number: RawValue) -> list[PhoneHold] | None:
    """Return the holds of the phone, or else of the middle number; None if neither was given."""
    if phone is not None:
        return service.holds(phone=str(phone))
    return None if middle_number is None else service.holds(middle_number=str(middle_number))


def _show(
    records: Sequence[Binding],
    reveal_reason: str | None,
    *,
    as_json: bool,
    empty: str,
    next_cursor: str | None = None,
    phone_holds: list[PhoneHold] | None = None,
) -> None:
    revealed = reveal_reason is not None
    if as_json:
        with_holds = {} if phone_holds is None else {"holds": serialization.to_plain(phone_holds)}
        output.emit({"data": list(records), "next_cursor": next_cursor} | with_holds, revealed=revealed)
        return
    if records:
        output.bindings(records, revealed=revealed)
    else:
        output.message(empty)
    output.next_page(next_cursor)
    if phone_holds is not None:
        _show_holds(phone_holds, empty="No hold of this number outside of an active binding is recorded.")


def _show_holds(holds: Sequence[PhoneHold], *, empty: str) -> None:
    if not holds:
        output.message(empty)
        return
    output.message("\nHolds:")
    output.holds(holds)


def _format_detail(detail: dict[str, Any]) -> str:
    """Return the detail of an event on one line; fields that are not set are left out."""
    pairs = ((key, value if isinstance(value, str) else json.dumps(value)) for key, value in detail.items())
    line = " ".join(f"{key}={value}" for key, value in pairs if value != "null")
    return output.escape_unprintable(INSTANT.sub(r"\1Z", line))


def _trace_to_dict(result: Trace) -> dict[str, Any]:
    return {
        "holders": _holders_to_dicts(result.holders),
        "near_misses": [
            serialization.fields(miss.binding)
            | {"relation": miss.relation, "at": miss.at, "offset_s": miss.offset_s}
            for miss in result.near_misses
        ],
        "other_holders": _holders_to_dicts(result.other_holders),
        "holds": serialization.to_plain(result.holds),
    }


def _holders_to_dicts(holders: Iterable[TraceHolder]) -> list[dict[str, Any]]:
    return [serialization.fields(holder.binding) | {"certainty": holder.certainty} for holder in holders]


def _show_trace(result: Trace, *, revealed: bool, with_party: bool) -> None:
    if result.holders:
        certainty = {"CERTAINTY": [holder.certainty.value for holder in result.holders]}
        output.bindings([holder.binding for holder in result.holders], revealed=revealed, extra=certainty)
    elif result.other_holders:
        count = len(result.other_holders)
        output.message(
            "No binding recorded here with that party had this middle number at that time."
            f" {count} with other parties had it: check the party (digits with country code), or omit --party."
        )
    else:
        output.message("No binding recorded here had this middle number at that time.")
    output.replacements([holder.binding for holder in result.holders])
    if result.near_misses:
        output.message("\nNear misses:" if result.holders else "Near misses:")
        offsets = {"MISSED BY": [_format_offset(miss) for miss in result.near_misses]}
        output.bindings([miss.binding for miss in result.near_misses], revealed=revealed, extra=offsets)
        output.replacements([miss.binding for miss in result.near_misses])
    searched = "this party or number" if with_party else "this number"
    empty = f"No hold of {searched} outside of an active binding is recorded around that time."
    _show_holds(result.holds, empty=empty)


def _format_offset(miss: NearMiss) -> str:
    return f"{miss.relation} {abs(miss.offset_s):.0f} s {'before' if miss.offset_s <= 0 else 'after'}"
