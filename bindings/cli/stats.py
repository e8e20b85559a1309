"""stats: how many bindings in which state, from which pool, with which answer; and what happened how often."""

from __future__ import annotations

import click

from bindings.cli import context, options, output


@click.command()
@options.as_json
def stats(*, as_json: bool) -> None:
    """Count bindings by state, pool and provider status, and events by kind.

    "refused" events are conflicts stopped here, before the provider was called. What the provider refused
    although it was free here is told by what met, and by what that suggests for BINDINGS_CONFLICT_POLICY.
    """
    with context.open_service(as_json=as_json) as service:
        counts = service.stats()
    from bindings.provider.statuses import meaning

    meanings = {status: meaning(status) for status in counts["by_provider_status"]}
    if as_json:
        output.emit(counts | {"provider_status_meanings": meanings})
        return
    if not counts["by_event"]:
        output.message("Nothing has happened yet. Make a binding: bindings bind --help")
        return
    rows = [["state", state, str(number)] for state, number in counts["by_state"].items()]
    rows += [["pool", output.escape_unprintable(pool), str(number)] for pool, number in counts["by_pool"].items()]
    rows += [
        ["provider status", output.escape_unprintable(f"{status} {meanings[status]}"), str(number)]
        for status, number in counts["by_provider_status"].items()
    ]
    rows += [["event", _event(kind), str(number)] for kind, number in counts["by_event"].items()]
    rows += [["phone in use at the provider", met, str(number)] for met, number in counts["by_met"].items()]
    output.table(["OF", "WHICH", "COUNT"], rows)
    if (advice := _advice(counts["by_met"])) is not None:
        output.message(advice)


def _event(kind: str) -> str:
    return "refused (conflicts stopped before the call)" if kind == "refused" else kind


def _advice(met: dict[str, int]) -> str | None:
    """What the refusals that surprised us suggest for the policy; None where there are none."""
    if not met:
        return None
    if any(" met AXXB active" in pair for pair in met):
        return "The provider refuses beside an active AXXB of yours: BINDINGS_CONFLICT_POLICY=strict fits it."
    return "Only strangers were met: `bindings reconcile` names them; the policy has no part in it."
