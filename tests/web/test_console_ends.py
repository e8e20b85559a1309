"""The ends of a binding on its page, in every state: promised, the provider's own, and that of the hold."""

from __future__ import annotations

import html
import re
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.binding import State
from bindings.errors import BindingsError
from tests.service.harness import A, B
from tests.web.browser import Browser
from tests.web.conftest import run
from tests.web.seed_states import DiedError, dies_at
from tests.web.test_console_sentences import texts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness
    from tests.web.conftest import Running

HOUR = 3_600
ROW = re.compile(r'<dt>([^<]+)</dt><dd>(?:<time datetime="([^"]+)|\N{EN DASH}</dd>)')
ROWS_OF_ENDS = re.compile("Ended|Promised end|Provider's own end.*|Phones .*held until.*")
ACTIVE = "It is active until its promised end."
EXPIRED = "It ended because its lifetime was over."
IN_DOUBT = "It is not known whether the binding exists: the provider gave no clear answer."
NO_NUMBER = "the provider's pool had no middle number available"
PENDING = "The call is in progress, or its process ended; the binding will soon be settled or in doubt."
TO_BE_UNBOUND = "An unbind was requested; it is made as soon as the binding is known to exist."
UNBINDING = "An unbind was requested; the provider has not confirmed it yet, and will be asked until it does."
OWED = (
    "The provider may still connect calls until TIME at the latest: the job recover is to release the binding"
    " there."
)
PROMISED, OWN, HELD = "Promised end", "Provider's own end (earliest)", "Phones held until (latest)"
WAS_HELD, AS_PLANNED = "Phones were held until", "Provider's own end as planned (earliest)"
OF_ACTIVE = {PROMISED: "expires_at", OWN: "provider_end", HELD: "held_until"}
OF_EXPIRED = {"Ended": "ended_at"} | OF_ACTIVE
OF_RELEASED = {"Ended": "ended_at", PROMISED: "expires_at", OWN: "provider_end", WAS_HELD: "held_until"}
OF_UNBOUND = {"Ended": "ended_at", PROMISED: "expires_at", AS_PLANNED: "provider_end", WAS_HELD: "held_until"}
OF_FAILED = {"Ended": "ended_at", WAS_HELD: "held_until"}
EXTENDED = "Extended: its promised end was moved to a later time"
SHORTENED = "Shortened: its promised end was moved to an earlier time"

# Of each condition: the sentence, the rows of its ends with their fields, and the last sentence of its history.
CONDITIONS: dict[str, tuple[str, dict[str, str], str]] = {
    "pending": (PENDING, OF_ACTIVE, "Requested; the intent was recorded before the call to the provider"),
    "pending, to be unbound": (
        f"{PENDING} {TO_BE_UNBOUND}",
        OF_ACTIVE,
        "Unbind requested; from then on it was not offered as active",
    ),
    "in doubt": (IN_DOUBT, OF_ACTIVE, "In doubt: the provider gave no clear answer"),
    "in doubt, to be unbound": (
        f"{IN_DOUBT} {TO_BE_UNBOUND}",
        OF_ACTIVE,
        "Unbind requested; from then on it was not offered as active",
    ),
    "failed": (
        f"No binding was created: {NO_NUMBER} (status -41, no middle number available in the pool).",
        OF_FAILED,
        f"Failed: {NO_NUMBER}",
    ),
    "active": (ACTIVE, OF_ACTIVE, "The provider created the binding"),
    "extended": (ACTIVE, OF_ACTIVE, EXTENDED),
    "shortened": (ACTIVE, OF_ACTIVE, SHORTENED),
    "unbinding": (UNBINDING, OF_ACTIVE, "Unbind requested; from then on it was not offered as active"),
    "past its promised end": (
        "Its lifetime is over; the next expire job records the end.",
        OF_ACTIVE,
        "The provider created the binding",
    ),
    "expired": (EXPIRED, OF_EXPIRED, "Expired: its lifetime was over"),
    "expired, past the hold": (EXPIRED, OF_RELEASED, "Expired: its lifetime was over"),
    "release owed": (f"{EXPIRED} {OWED}", OF_EXPIRED, "Expired: its lifetime was over"),
    "released": (EXPIRED, OF_RELEASED, "The provider confirmed the unbind after the binding had ended here"),
    "gone at release": (
        EXPIRED,
        OF_EXPIRED,
        "The provider no longer had the binding, which had ended here before",
    ),
    "unbound": (
        "It ended early: unbind requested, and confirmed by the provider.",
        OF_UNBOUND,
        "Ended early: unbind requested, and confirmed by the provider",
    ),
    "lapsed": (
        "It stayed in doubt until its longest possible lifetime was over.",
        OF_FAILED,
        "Lapsed: it was in doubt until its longest possible lifetime was over",
    ),
}


@pytest.fixture
def console(harness: ServiceHarness) -> Iterator[Running]:
    """A running service on the clock of the test harness."""
    yield from run(harness.service)


@dataclass
class Conditions:
    """Creates a binding in each condition; keeps it, whether a release is owed then, and its page."""

    harness: ServiceHarness
    console: Running
    shown: dict[str, tuple[Binding, bool, str]] = field(default_factory=dict)

    def show(self, condition: str, binding: Binding) -> None:
        browser = Browser(self.console).sign_in("auditor", condition)  # a session ends after an hour
        page = browser.get(f"/bindings/{binding.id}")
        assert page.status_code == 200
        current = self.harness.service.get(binding.id)
        text = html.unescape(page.text).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
        self.shown[condition] = current, current.is_release_owed(self.harness.clock()), text

    def bind(self, **values: Any) -> Binding:
        """Bind; if that fails, return the binding that is recorded. The pair is free again before the next."""
        try:
            return self.harness.bind(A, B, **{"expire_s": HOUR, "max_expire_s": 4 * HOUR} | values)
        except (BindingsError, DiedError):
            return self.harness.service.search(limit=1).data[0]

    def unbind(self, binding: Binding) -> None:
        with suppress(BindingsError):
            self.harness.service.unbind(binding.id, reason="order closed")

    def unsettled(self) -> None:
        with dies_at("bind.after_reserve"):
            pending = self.bind()
        self.show("pending", pending)
        self.unbind(pending)
        self.show("pending, to be unbound", pending)
        self.harness.clock.advance(5 * HOUR)
        self.harness.service.recover()
        self.harness.service.recover()
        self.show("lapsed", pending)
        self.harness.simulator.script("lost_reply", times=1, on="bind")
        doubt = self.bind()
        self.show("in doubt", doubt)
        self.unbind(doubt)
        self.show("in doubt, to be unbound", doubt)
        self.harness.clock.advance(5 * HOUR)
        self.harness.service.recover()
        self.harness.simulator.script("refuse:-41", times=1, on="bind")
        self.show("failed", self.bind())

    def active(self) -> None:
        binding, service = self.bind(), self.harness.service
        self.show("active", binding)
        service.extend(binding.id, expire_s=2 * HOUR)
        self.show("extended", binding)
        service.unbind(binding.id, after_s=60, reason="arrived")
        self.show("shortened", binding)
        self.harness.simulator.script("reset_before", times=1, on="unbind")
        self.unbind(binding)
        self.show("unbinding", binding)
        self.unbind(binding)
        self.show("unbound", binding)

    def expired(self) -> None:
        fixed = self.bind(max_expire_s=None)
        self.harness.clock.advance(HOUR + 1)
        self.show("past its promised end", fixed)
        self.harness.service.expire_due()
        self.show("expired", fixed)
        self.harness.clock.advance(120)
        self.show("expired, past the hold", fixed)
        for condition in ("released", "gone at release"):
            binding = self.bind()
            self.harness.clock.advance(HOUR + 1)
            self.harness.service.expire_due()
            self.show("release owed", binding)
            if condition == "gone at release":
                self.harness.simulator.remove_binding(str(binding.bind_id))
            self.harness.service.recover()
            self.show(condition, binding)


def rows_of(page: str) -> dict[str, str]:
    """Return the rows of the ends with their instants; an empty text stands for none."""
    return {label: at for label, at in ROW.findall(page) if ROWS_OF_ENDS.fullmatch(label)}


def to_text(at: datetime | None) -> str:
    return "" if at is None else at.isoformat()


def test_each_end_has_a_row_and_the_sentence_is_true_in_every_state(
    harness: ServiceHarness, console: Running
) -> None:
    conditions = Conditions(harness, console)
    for step in (conditions.unsettled, conditions.active, conditions.expired):
        step()
    assert set(conditions.shown) == set(CONDITIONS)
    assert {binding.state for binding, *_ in conditions.shown.values()} == set(State)
    for condition, (binding, is_release_owed, page) in conditions.shown.items():
        sentence, rows, event = CONDITIONS[condition]
        _find, _heading, shown, *_ = texts_of(page)
        assert shown.removesuffix(" Cause, remedy and frequency") == sentence, condition
        assert (OWED in shown) == is_release_owed, condition
        assert rows_of(page) == {label: to_text(getattr(binding, name)) for label, name in rows.items()}, condition
        assert re.findall(r"<p><strong>([^<]+)</strong> <code", page)[-1] == event, condition
    assert "reason arrived" in conditions.shown["shortened"][2]
