"""The ends of a binding on its page: the promised one, the provider's own and that of the hold; and its forms."""

from __future__ import annotations

import html
import re
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from bindings.domain.binding import State
from bindings.errors import BindingsError, OutcomeUnknown
from bindings.store import replicas
from tests.service.harness import POOL, A, B, C, D
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
ACTIVE = "It is active until its promised end. That is TIME."
EXPIRED = "It ended because its lifetime was over."
IN_DOUBT = "It is not known whether the binding exists: the provider gave no clear answer."
NO_NUMBER = "the provider's pool had no middle number available"
PENDING = "The call is in progress, or its process ended; the binding will soon be settled or in doubt."
WAITING = "It has not been sent: it waits until the provider has ended the binding that it replaces."
OVERDUE = (
    "It has not been sent and will not be: it has waited too long for the end of the binding that it replaces, and"
    " the next recover job records that."
)
TO_BE_UNBOUND = "An unbind was requested; it is made as soon as the binding is known to exist."
UNBINDING = "An unbind was requested; the provider has not confirmed it yet, and will be asked until it does."
OWED = (
    "The provider may still connect calls until TIME at the latest: the job recover is to release the binding"
    " there."
)
PROMISED, OWN, HELD = "Promised end", "Provider's own end (earliest)", "Phones held until (latest)"
WAS_HELD, AS_PLANNED = "Phones were held until", "Provider's own end as planned (earliest)"
OF_ACTIVE = {PROMISED: "expires_at", OWN: "provider_end", HELD: "held_until"}
OF_OVERDUE = {PROMISED: "expires_at", OWN: "provider_end", WAS_HELD: "held_until"}
OF_EXPIRED = {"Ended": "ended_at"} | OF_ACTIVE
OF_RELEASED = {"Ended": "ended_at", PROMISED: "expires_at", OWN: "provider_end", WAS_HELD: "held_until"}
OF_UNBOUND = {"Ended": "ended_at", PROMISED: "expires_at", AS_PLANNED: "provider_end", WAS_HELD: "held_until"}
OF_FAILED = {"Ended": "ended_at", WAS_HELD: "held_until"}
SUCCESSOR = "Requested as a successor; it is not sent before the binding that it replaces has ended"
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
    "waiting": (WAITING, OF_ACTIVE, SUCCESSOR),
    "waiting too long": (OVERDUE, OF_OVERDUE, SUCCESSOR),
    "waiting, to be unbound": (
        f"{WAITING} An unbind was requested, so it will not be sent.",
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

    def waiting(self) -> None:
        predecessor = self.harness.bind(C, D)
        with dies_at("replace.after_begin"), suppress(DiedError):
            self.harness.service.replace(predecessor.id)
        successor_id = self.harness.service.get(predecessor.id).replaced_by
        waiting = self.harness.service.get(str(successor_id))
        self.show("waiting", waiting)
        overdue_at = self.harness.clock.at
        self.harness.clock.at = waiting.settle_by
        self.show("waiting too long", waiting)
        self.harness.clock.at = overdue_at
        self.unbind(waiting)
        self.show("waiting, to be unbound", waiting)

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
    for step in (conditions.waiting, conditions.unsettled, conditions.active, conditions.expired):
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


EXTEND, UNBIND = "/bindings/{id}/extend", "/bindings/{id}/unbind"
REASON = {"reason": "order cancelled", "when": "now"}
LATER = REASON | {"when": "later", "amount": "10", "unit": "minutes"}


def bind(harness: ServiceHarness, phone_a: str = A, phone_b: str = B, **values: Any) -> Binding:
    caller = harness.service.as_caller(actor="key:rides")
    options: dict[str, Any] = {"pool_number": POOL, "expire_s": HOUR, "max_expire_s": 4 * HOUR, "mode": "AXB"}
    return caller.bind(phone_a=phone_a, phone_b=phone_b, **options | values)


def test_form_extends_shortens_and_ends_and_the_page_shows_it(harness: ServiceHarness, console: Running) -> None:
    binding = bind(harness)
    browser = Browser(console).sign_in("admin", "ops")
    page = browser.get(f"/bindings/{binding.id}").text
    assert "Latest possible:" in page
    assert "disabled" not in page
    for path, form, seconds in (
        (EXTEND, {"amount": "2", "unit": "hours"}, 2 * HOUR),
        (UNBIND, LATER, 600),
        (EXTEND, {"amount": "90", "unit": "minutes"}, 5_400),
    ):
        answer = browser.post(path.format(id=binding.id), form)
        assert (answer.status_code, answer.headers["Location"]) == (303, f"/bindings/{binding.id}")
        expires_at = harness.service.get(binding.id).expires_at
        assert expires_at == harness.clock() + timedelta(seconds=seconds)
        assert to_text(expires_at) == rows_of(browser.get(answer.headers["Location"]).text)[PROMISED]
    assert harness.received("unbind") == 0
    assert browser.post(f"/bindings/{binding.id}/unbind", REASON).status_code == 303
    page = browser.get(f"/bindings/{binding.id}").text
    assert "It cannot be extended now. It has ended." in page
    assert 'action="/bindings/' not in page.partition("<h2>Lifetime")[2].partition("<h2>History")[0]
    history = harness.service.history(binding.id)[2:]
    kinds = ["extended", "shortened", "extended", "unbind_requested", "unbound"]
    assert [event.kind for event in history] == kinds
    assert {event.actor for event in history} == {"key:ops"}
    assert [history[index].detail["reason"] for index in (1, 3)] == ["order cancelled"] * 2


SECONDS, TIME = "Seconds from now</strong> ", "Time from now</strong> "
WRONG: tuple[tuple[str, dict[str, str], str], ...] = (
    (EXTEND, {"amount": "5", "unit": "hours"}, SECONDS + "must be at most 14"),
    (
        EXTEND,
        {"amount": "5", "unit": "minutes"},
        TIME + "must be longer: the promised end is 2026",
    ),
    (
        EXTEND,
        {"amount": "4", "unit": "days"},
        SECONDS + "must be a whole number of seconds from 1",
    ),
    (
        EXTEND,
        {"amount": "0", "unit": "days"},
        SECONDS + "must be a whole number of seconds from 1",
    ),
    (EXTEND, {"amount": "-1", "unit": "hours"}, TIME + "must be a whole number, with a unit"),
    (EXTEND, {"amount": "1", "unit": "weeks"}, TIME + "must be a whole number, with a unit"),
    (UNBIND, LATER | {"amount": "3", "unit": "hours"}, TIME + "must be shorter: the promised end"),
    (UNBIND, LATER | {"amount": "soon"}, TIME + "must be a whole number, with a unit"),
    (UNBIND, LATER | {"reason": " "}, "Reason</strong>"),
    (UNBIND, REASON | {"when": ""}, "When</strong> must be now or later"),
)


def test_wrong_input_changes_nothing_and_is_kept(harness: ServiceHarness, console: Running) -> None:
    binding = bind(harness)
    browser = Browser(console).sign_in("admin")
    for path, form, message in WRONG:
        page = browser.post(path.format(id=binding.id), form)
        assert (page.status_code, message in page.text) == (422, True), (form, page.text)
        for name in ("amount", "reason"):
            assert f'value="{form.get(name, "").strip()}"' in page.text, form
        if form.get("unit", "weeks") != "weeks":
            assert f'value="{form["unit"]}" selected' in page.text
        assert ('value="later" checked' in page.text) == (form.get("when") == "later")
    assert harness.service.get(binding.id) == binding


def test_form_says_why_it_cannot_be_sent_and_an_error_what_to_do(
    harness: ServiceHarness, console: Running
) -> None:
    fixed, gone = bind(harness, max_expire_s=None), bind(harness, C, D)
    browser = Browser(console).sign_in("admin")
    page = browser.get(f"/bindings/{fixed.id}").text
    assert "It cannot be extended now. Its promised end is the provider&#39;s own end." in page
    assert page.count(" disabled") == 1
    harness.service.unbind(gone.id)
    refused = browser.post(f"/bindings/{gone.id}/extend", {"amount": "17", "unit": "hours"})
    assert (refused.status_code, 'value="17"' in refused.text) == (409, True)
    assert "The binding is unbound; nothing was changed." in refused.text
    harness.database.write(replicas.record)
    older = text("UPDATE replicas SET schema_revision = NULL, name = 'old-host:7'")
    harness.database.write(lambda tx: tx.connection.execute(older))
    console.service.runtime.older_versions._absent_until.clear()
    for path, form in ((EXTEND, {"amount": "17", "unit": "seconds"}), (UNBIND, LATER | {"amount": "17"})):
        busy = browser.post(path.format(id=fixed.id), form)
        assert (busy.status_code, 'value="17"' in busy.text) == (503, True)
        assert "Stop the processes of the older version, and wait for three minutes; try again" in busy.text
        assert int(busy.headers["Retry-After"]) == 180
    page = browser.get(f"/bindings/{fixed.id}").text
    assert "It can be ended now only, not after a time. Processes of an older version use the database" in page
    assert browser.post(f"/bindings/{fixed.id}/unbind", REASON).status_code == 303, "it is ended all the same"
    assert harness.service.get(fixed.id).state is State.UNBOUND


def test_unclear_unbind_is_recorded_and_the_page_says_so(harness: ServiceHarness, console: Running) -> None:
    binding = bind(harness)
    browser = Browser(console).sign_in("admin")
    harness.simulator.script("lost_reply", times=1, on="unbind")
    page = browser.submit(f"/bindings/{binding.id}/unbind", REASON)
    assert (page.status_code, UNBINDING in page.text) == (200, True)
    assert "It cannot be ended now. An unbind was requested, and nothing takes that back." in page.text
    harness.simulator.script("lost_reply", times=1, on="bind")
    with pytest.raises(OutcomeUnknown) as unknown:
        bind(harness, C, D)
    doubt = unknown.value.binding
    page = browser.submit(f"/bindings/{doubt.id}/unbind", REASON)
    assert (page.status_code, TO_BE_UNBOUND in page.text) == (200, True)


def test_form_needs_the_permission_to_unbind_the_binding_and_a_csrf_token(
    harness: ServiceHarness, console: Running
) -> None:
    binding = bind(harness)
    forms = ((EXTEND, {"amount": "2", "unit": "hours"}), (UNBIND, LATER))
    expected = {"auditor": (403, False), "investigator": (403, False), "app": (404, False), "admin": (303, True)}
    for role, (status, has_forms) in expected.items():
        browser = Browser(console).sign_in(role)
        page = browser.get(f"/bindings/{binding.id}").text
        assert (f'action="/bindings/{binding.id}/extend"' in page) == has_forms, role
        for path, form in forms:
            forged = browser.post(path.format(id=binding.id), form | {"csrf": "0" * 64})
            foreign = browser.post(path.format(id=binding.id), form, {"Origin": "https://example.com"})
            assert (forged.status_code, foreign.status_code) == (403, 403)
            if role != "admin":
                assert browser.post(path.format(id=binding.id), form).status_code == status, role
    assert harness.service.get(binding.id) == binding
    owner = Browser(console).sign_in("app", "rides")
    for path, form in forms:
        assert owner.post(path.format(id=binding.id), form).status_code == 303
    assert len(harness.service.history(binding.id)) == 4
