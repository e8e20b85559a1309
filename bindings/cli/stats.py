"""stats: counts of bindings by state, pool and provider status, and counts of events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bindings.cli import context, options, output

if TYPE_CHECKING:
    from bindings.cli.options import RawValue


@click.command()
@options.time_option(
    "--since", help_text="Only bindings requested, and events that happened, at this time or later."
)
@options.as_json
def stats(*, since: RawValue, as_json: bool) -> None:
    """Count bindings by state, pool and provider status, and events by kind.

    TIME is a time with a zone, such as 2026-11-23T14:32:00Z, or how long ago it was: 90min, 24h or 7d.

    "refused" events are conflicts that were refused here, before the provider was called. Binds that the provider
    refused although the phone was free here are counted by the modes involved, with the BINDINGS_CONFLICT_POLICY
    that this suggests.
    """
    with context.open_service(as_json=as_json) as service:
        counts = service.stats(since=since)
    from bindings.provider.statuses import meaning

    meanings = {status: meaning(status) for status in counts["by_provider_status"]}
    if as_json:
        output.emit(counts | {"provider_status_meanings": meanings})
        return
    if not any(counts.values()):
        nothing = "Nothing is recorded yet. To bind: bindings bind --help"
        output.message(nothing if since is None else "Nothing is recorded since then.")
        return
    rows = [["state", state, str(number)] for state, number in counts["by_state"].items()]
    rows += [["pool", output.escape_unprintable(pool), str(number)] for pool, number in counts["by_pool"].items()]
    rows += [
        ["provider status", output.escape_unprintable(f"{status} {meanings[status]}"), str(number)]
        for status, number in counts["by_provider_status"].items()
    ]
    rows += [["event", _event(kind), str(number)] for kind, number in counts["by_event"].items()]
    rows += [["phone in use at the provider", modes, str(number)] for modes, number in counts["by_met"].items()]
    output.table(["OF", "WHICH", "COUNT"], rows)
    if (advice := _advice(counts["by_met"])) is not None:
        output.message(advice)


def _event(kind: str) -> str:
    return "refused (conflicts, before the provider was called)" if kind == "refused" else kind


def _advice(conflict_counts: dict[str, int]) -> str | None:
    """Return what unexpected conflicts at the provider suggest for the conflict policy, or None without any."""
    if not conflict_counts:
        return None
    if any(" met AXXB active" in modes for modes in conflict_counts):
        return "The provider refuses a phone that is in an active AXXB: set BINDINGS_CONFLICT_POLICY=strict."
    return "The holders are not in this database: `bindings reconcile` finds them. The policy is not the cause."
