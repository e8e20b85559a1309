"""bind, extend, replace, unbind, and mark-absent, which ends an in-doubt binding on an operator's statement."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bindings.cli.options import RawValue
    from bindings.domain.binding import Binding
    from bindings.domain.takeover import Takeover
    from bindings.lifecycle.bind import BindResult
    from bindings.lifecycle.unbind_all import ReleaseResult

UNCLEAR = 6  # exit code, as for one unbind without a clear answer


@click.command()
@options.phone_option("--phone-a", help_text="First real phone, in international form.")
@options.phone_option("--phone-b", help_text="Second real phone, of the same country.")
@click.option("--pool-number", metavar="POOL", help="Pool that the middle number is taken from.")
@click.option("--expire-s", type=options.WholeNumber(), help="Lifetime in seconds, 1 to 259200 (72 h).")
@click.option(
    "--max-expire-s",
    type=options.WholeNumber(),
    help="Longest lifetime in seconds, to which `bindings extend` can extend it. Default: it cannot be extended.",
)
@click.option("--mode", metavar="AXB|AXXB", help="AXB: one middle number for both phones; AXXB: one for each.")
@click.option("--app-id", help="Application. Default: BINDINGS_PROVIDER_APP_ID.")
@click.option("--reference", help="Your order id.")
@click.option("--idempotency-key", metavar="KEY", help="Key that makes the bind safe to repeat.")
@click.option(
    "--warn-s",
    type=options.WholeNumber(),
    help="Write an expires_soon event this many seconds before the end. 0: none.",
)
@options.as_json
def bind(
    *,
    phone_a: RawValue,
    phone_b: RawValue,
    pool_number: RawValue,
    expire_s: RawValue,
    max_expire_s: RawValue,
    mode: RawValue,
    app_id: str | None,
    reference: str | None,
    idempotency_key: str | None,
    warn_s: RawValue,
    as_json: bool,
) -> None:
    """Bind a middle number to two phones.

    A phone that is - is read from standard input, one per line, so that it stands neither in the list of processes
    nor in the shell's history: bindings bind --phone-a - --phone-b - ... < phones.txt

    With --idempotency-key the command is safe to repeat: the same request returns the same binding. It exits
    with 3 if a phone is held (nothing is sent), and with 6 if the outcome is unknown. In that case it prints the
    recorded binding; do not bind again.
    """
    from bindings.validation import requests as validation

    required = options.report_missing(
        phone_a=phone_a, phone_b=phone_b, pool_number=pool_number, expire_s=expire_s, mode=mode
    )
    with context.open_service(as_json=as_json) as service, required, _show_if_unknown(as_json=as_json):
        request = validation.bind_request(
            phone_a=phone_a,
            phone_b=phone_b,
            pool_number=pool_number,
            expire_s=expire_s,
            mode=mode,
            app_id=service.runtime.app_id_or_default(app_id),
            reference=reference,
            idempotency_key=idempotency_key,
            warn_s=warn_s,
            max_expire_s=max_expire_s,
        )
        result = service.bind_request(request)
    _show_result(result, as_json=as_json)


@click.command()
@options.binding_id
@click.option("--expire-s", type=options.WholeNumber(), help="Seconds to live from now on, 1 to 259200 (72 h).")
@options.as_json
def extend(binding_id: str, *, expire_s: RawValue, as_json: bool) -> None:
    """Move the end of an active binding; it never moves to an earlier one.

    The provider is not called: the bind must have asked for the time with --max-expire-s. Safe to repeat. Exits
    with 3 if the binding is not active.
    """
    with context.open_service(as_json=as_json) as service, options.report_missing(expire_s=expire_s):
        binding = service.extend(binding_id, expire_s=expire_s)
    output.record(binding, as_json=as_json)


@click.command()
@options.binding_id
@options.phone_option("--phone-a", help_text="First real phone. Default for this and the others: as it was.")
@options.phone_option("--phone-b", help_text="Second real phone.")
@click.option("--pool-number", metavar="POOL", help="Pool that the middle number is taken from.")
@click.option(
    "--expire-s", type=options.WholeNumber(), help="Lifetime in seconds from now on, 1 to 259200 (72 h)."
)
@click.option(
    "--max-expire-s",
    type=options.WholeNumber(),
    help="Longest lifetime in seconds, to which `bindings extend` can extend it.",
)
@click.option("--mode", metavar="AXB|AXXB", help="AXB: one middle number for both phones; AXXB: one for each.")
@click.option("--reference", help="Your order id.")
@click.option(
    "--idempotency-key", metavar="KEY", help="Key that makes the replace safe to repeat. Never as it was."
)
@click.option(
    "--force",
    is_flag=True,
    help="End the binding also if the pool had no number left less than a minute ago.",
)
@options.as_json
def replace(
    binding_id: str,
    *,
    phone_a: RawValue,
    phone_b: RawValue,
    pool_number: RawValue,
    expire_s: RawValue,
    max_expire_s: RawValue,
    mode: RawValue,
    reference: str | None,
    idempotency_key: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """End a binding and let a new one take over; the phones are never free in between.

    What is left out is as in the binding that ends. Without a phone it is a renewal, with one another party takes
    part: bindings replace ID --phone-b - < phone.txt

    The old binding ends at the provider before the new one begins: in between no call is connected, and the middle
    numbers may change. The command prints the new binding, which belongs to the actor of the old one. An error
    says whether the old binding has ended.

    With --idempotency-key the command is safe to repeat. It exits with 3 if a phone is held, or if the binding
    cannot be replaced or was replaced already (nothing was changed), and with 6 if an outcome is unknown. In that
    case it prints the binding that this concerns.
    """
    from bindings.domain.takeover import find_takeover
    from bindings.validation import requests as validation

    with context.open_service(as_json=as_json) as service:
        with _show_if_unknown(as_json=as_json):
            changes = validation.replacement(
                phone_a=phone_a,
                phone_b=phone_b,
                pool_number=pool_number,
                expire_s=expire_s,
                max_expire_s=max_expire_s,
                mode=mode,
                reference=reference,
                idempotency_key=idempotency_key,
                force=force,
            )
            result = service.replace_request(binding_id, changes)
        takeover = None if as_json else find_takeover(service.history(result.binding.id))
    _show_result(result, as_json=as_json)
    if not as_json:
        _report_takeover(result.binding, takeover)


def _report_takeover(successor: Binding, takeover: Takeover | None) -> None:
    output.message(f"It replaces binding {successor.replaces}, which has ended.")
    if takeover is None:
        return
    if takeover.gap_s is not None:
        output.message(f"From the confirmed end of that one to the success of this one: {takeover.gap_s:.3f} s.")
    output.message(
        "A middle number has changed: show the parties the new one."
        if takeover.middle_number_changed
        else "No middle number has changed for a party of both."
    )


@click.command()
@click.argument("binding_id", metavar="[ID]", required=False)
@options.phone_option("--phone", help_text="End all bindings of this real phone instead of one by its id.")
@click.option("--middle-number", metavar="DIGITS", help="End all bindings of this middle number.")
@click.option("--reference", metavar="TEXT", help="End all bindings of this order id.")
@click.option("--reason", metavar="TEXT", help="Reason; recorded in the history. Without an ID it is required.")
@click.option(
    "--after-s",
    type=options.WholeNumber(),
    help="End it this many seconds from now, if that is sooner. Default: now. Only with an ID.",
)
@click.option("--dry-run", is_flag=True, help="Only list the bindings, and print a token. Not with an ID.")
@click.option("--token", help="Token of a dry run: end no binding that it did not list. Not with an ID.")
@options.as_json
@click.pass_context
def unbind(
    command: click.Context,
    binding_id: str | None,
    *,
    phone: RawValue,
    middle_number: str | None,
    reference: str | None,
    reason: str | None,
    after_s: RawValue,
    dry_run: bool,
    token: str | None,
    as_json: bool,
) -> None:
    """End one binding early, or all bindings of a phone, a middle number or an order id.

    Safe to repeat. Exits with 6 if the provider gave no clear response: the unbind request is recorded, the
    binding is no longer returned as active, and `bindings recover` repeats the call. A binding that has ended here
    is ended at the provider too, if it may live on there.

    Without an ID all bindings that are active, pending or in doubt are ended, at most 1000 by one command. Exits
    with 3 if there are others than those that the dry run of the token listed; then nothing is changed.
    """
    selection = {"phone": phone, "middle_number": middle_number, "reference": reference}
    for_all = selection | {"dry_run": dry_run or None, "token": token}
    _refuse_mixed(binding_id, for_one={"after_s": after_s}, for_all=for_all)
    if binding_id is not None:
        _unbind_one(binding_id, reason=reason, after_s=after_s, as_json=as_json)
        return
    with context.open_service(as_json=as_json) as service, options.report_missing(reason=reason):
        chosen: dict[str, Any] = selection | {"reason": reason or ""}
        if phone is not None:
            listed = service.unbind_all(**chosen, dry_run=True)
            context.record_search(service, "unbind", phone, has_match=bool(listed.bindings))
        result = service.unbind_all(**chosen, dry_run=dry_run, token=token)
    if as_json:
        output.emit(result)
    else:
        _show_all(result)
    if result.unclear:
        command.exit(UNCLEAR)


def _refuse_mixed(binding_id: str | None, *, for_one: dict[str, RawValue], for_all: dict[str, RawValue]) -> None:
    """Raise `InvalidRequest` unless the options go together: with the id of one binding, or without an id."""
    from bindings.errors import FieldError, InvalidRequest

    refused, rule = (for_one, "needs an ID") if binding_id is None else (for_all, "must not be used with an ID")
    errors = [FieldError(name, rule) for name, value in refused.items() if value is not None]
    if binding_id is None and all(value is None for value in for_all.values()):
        errors.append(FieldError("ID", "is needed, or --phone, --middle-number or --reference"))
    if errors:
        raise InvalidRequest(errors)


def _unbind_one(binding_id: str, *, reason: str | None, after_s: RawValue, as_json: bool) -> None:
    with context.open_service(as_json=as_json) as service, _show_if_unknown(as_json=as_json):
        binding = service.unbind(binding_id, reason=reason, after_s=after_s)
    output.record(binding, as_json=as_json)


def _show_all(result: ReleaseResult) -> None:
    if result.bindings:
        output.bindings(result.bindings)
    else:
        output.message("No binding of it is active, pending or in doubt.")
    if result.token is None:
        click.echo(f"requested: {result.requested}  confirmed: {result.confirmed}  unclear: {result.unclear}")
    else:
        output.message("Dry run: nothing was changed. To end these bindings and no others, pass the token:")
        click.echo(f"token: {result.token}")
    if result.unclear:
        output.message(
            "Unclear ones have not ended yet; the requests are recorded, and `bindings recover` goes on."
        )
    if result.more:
        output.message("There are more bindings than one command ends: run it again for the others.")


@click.command("mark-absent")
@options.binding_id
@click.option("--reason", metavar="TEXT", help="How you know; recorded in the history.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@options.as_json
def mark_absent(binding_id: str, *, reason: str | None, dry_run: bool, as_json: bool) -> None:
    """Mark an in-doubt binding as failed, on your statement that the provider did not create it.

    Its phones are free immediately. If the provider did create it, a phone that the provider still holds may be
    bound again. Check the provider's own console first, and prefer `bindings reconcile`, which proves absence.
    The command is refused while the provider may still accept the request (5 minutes by default).
    """
    with context.open_service(as_json=as_json) as service, options.report_missing(reason=reason):
        result = service.mark_absent(binding_id, reason=reason or "", dry_run=dry_run)
    output.record(result.after, as_json=as_json)
    if dry_run:
        output.message("Dry run: nothing was changed; the binding is shown as it would be.")


@contextmanager
def _show_if_unknown(*, as_json: bool) -> Iterator[None]:
    """Print the binding of an `OutcomeUnknown` before the error itself is reported."""
    from bindings.errors import OutcomeUnknown

    try:
        yield
    except OutcomeUnknown as unknown:
        output.record(unknown.binding, as_json=as_json)
        raise


def _show_result(result: BindResult, *, as_json: bool) -> None:
    output.record(result.binding, as_json=as_json)
    if result.replayed and not as_json:
        output.message("An earlier call with this idempotency key made it: nothing was sent now.")
