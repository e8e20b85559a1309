"""Compares a service with the ledger of the simulated provider: what lives here, and what lives there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bindings.domain.binding import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Entry, Simulator
    from bindings.service import BindingService


def list_differences(service: BindingService, simulator: Simulator, at: datetime) -> list[str]:
    """Return a sentence, without phones, for each thing in which service and provider disagree at an instant.

    Entries that were added as foreign are left out. A doubt explains an entry of its pair. Also returned is every
    overlap: two entries at the same time although the provider's rule forbids it.
    """
    bindings = list(service.export_bindings())
    live = [entry for entry in simulator.ledger.live(at.timestamp()) if not entry.foreign]
    return [
        *_unknown_entries(bindings, live, at),
        *_missing_entries(bindings, live, at),
        *(
            f"the provider had {overlap.earlier.bind_id} and {overlap.later.bind_id} at the same time"
            for overlap in simulator.ledger.overlaps(simulator.behaviour.policy)
        ),
    ]


def _unknown_entries(bindings: list[Binding], live: list[Entry], at: datetime) -> Iterator[str]:
    doubts = [binding for binding in bindings if binding.state in (State.PENDING, State.IN_DOUBT)]
    for entry in live:
        bind_id = str(entry.bind_id)
        expects = any(_expects(binding, at) for binding in bindings if binding.bind_id == bind_id)
        if not expects and not any(_may_be(doubt, entry) for doubt in doubts):
            yield f"{bind_id} lives at the provider and is not active here"


def _missing_entries(bindings: list[Binding], live: list[Entry], at: datetime) -> Iterator[str]:
    live_ids = {str(entry.bind_id) for entry in live}
    for binding in bindings:
        if binding.is_active(at) and binding.bind_id not in live_ids:
            yield f"{binding.id} is active here and does not live at the provider"


def _expects(binding: Binding, at: datetime) -> bool:
    """Return whether the provider may have a binding: it is active, is being ended there, or is to be released."""
    return binding.state is State.ACTIVE or binding.is_release_owed(at)


def _may_be(doubt: Binding, entry: Entry) -> bool:
    """Return whether an entry may be what the provider made for a binding in doubt."""
    return (
        entry.app_id == doubt.app_id
        and entry.mode is doubt.mode
        and {entry.phone_a, entry.phone_b} == {doubt.phone_a.digits, doubt.phone_b.digits}
    )
