"""Every sentence of the pages Find, its results, Access log and unbind all, with the conditions of each.

Each condition is rendered once. A sentence must be on the pages of its conditions and on no other page, and each
page must have no sentence that is not in the table: so a new one is added here, with its conditions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import timedelta
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import delete, insert

from bindings import errors
from bindings.domain.conflict import Policy
from bindings.store.schema import refusals, seals
from tests.service.harness import POOL, A, B, C, D, E, F
from tests.web.browser import Browser
from tests.web.conftest import run
from tests.web.pages import Page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from bindings.domain.binding import Binding
    from tests.service.harness import ServiceHarness
    from tests.web.conftest import Running

pytestmark = pytest.mark.usefixtures("database_kind")

G, HELD = "9188067771", "9188067791"
NEVER_USED = "9188067779"
REFUSED_PHONE = "9188067784"

FIND = {"find: nothing stored", "find: bindings", "find: of an application", "find: wrong input"}
MATCHES = {
    "name: two bindings",
    "name: too many bindings",
    "name: refused",
    "name: refused by an earlier version",
    "name: beginning",
    "name: nothing",
    "name: of an application",
}
HELD_AT = {"at: certain", "at: two holders", "at: too many holders", "at: possible"}
PARTY_AT = {"at: other party", "at: party before"}
NOT_HELD_AT = {"at: ended before", "at: begins later", "at: never used", "at: hold only"} | PARTY_AT
AT = HELD_AT | NOT_HELD_AT
LINKED = HELD_AT | {"at: ended before", "at: begins later", "at: party before", "at: reference"}
PAIRS = {"number: allowed overlap", "number: forbidden overlap", "number: quick re-use"}
LISTED = {
    "number: masked phone",
    "number: middle number",
    "number: allowed overlap",
    "number: forbidden overlap",
    "number: quick re-use",
    "number: first page",
    "number: revealed",
    "number: of an application",
}
NUMBER = LISTED | {"number: never used", "number: hold only", "number: refused only"}
REFUSED = {"name: refused", "number: refused only"}
NO_NAME = {"name: nothing", "name: of an application"}
REFERENCE = {"at: reference", "number: reference"}
BOUNDED = {"access: bounded", "access: no match, bounded"}
FILTERED = {"access: filtered", "access: no match"}
ACCESS = {"access: nothing", "access: entries", "access: sealed", "access: wrong input"} | FILTERED | BOUNDED
RESULTS = MATCHES | AT | NUMBER | REFERENCE
FORM = {"unbind all: form", "unbind all: nothing", "unbind all: wrong input", "unbind all: of an application"}
LISTED_TO_END = {"unbind all: listed", "unbind all: more", "unbind all: grown"}
UNBIND_ALL = FORM | LISTED_TO_END | {"unbind all: no account"}
OPEN_UNBINDS = {"unbinds: not done", "unbinds: not done, of an application"}
UNBINDS = OPEN_UNBINDS | {"unbinds: done", "unbinds: none"}
OF_APPLICATION = {"name: of an application", "number: of an application"}
OWN_ONLY = OF_APPLICATION | {"unbind all: of an application", "unbinds: not done, of an application"}
WITH_FORM = FIND | MATCHES | AT | {"at: reference"}
MASKED_EXPORT = {"number: revealed"}


@dataclass(eq=False)
class Sentence:
    """A sentence as a regular expression, and the conditions under which it is shown."""

    text: str
    conditions: set[str]


SENTENCES = (
    # The form of a search.
    Sentence("Find a binding", FIND),
    Sentence(
        r"Number or name is required: an id, a reference or a number, of at most 255 characters",
        {"find: wrong input"},
    ),
    Sentence(
        r"Middle number, phone, binding id, the provider.s bindId, reference, or request id\. Press /"
        r" to get here\.",
        WITH_FORM,
    ),
    Sentence(r"14:32, 2026-11-23 14:32, or now\. Empty: any time\.", WITH_FORM),
    Sentence(r"Phone of the complainant: one middle number serves many pairs\.", WITH_FORM),
    Sentence("Latest bindings", {"find: bindings"}),
    Sentence("No bindings yet", {"find: nothing stored"}),
    Sentence(
        r"Bindings appear here after an application has bound two phones, through the library or POST"
        r" /v1/bindings\."
        r" To try the product first, run bindings demo\.",
        {"find: nothing stored"},
    ),
    # Results.
    Sentence("Find", RESULTS | UNBIND_ALL | UNBINDS),
    Sentence(r"Only bindings that key:\w+ requested are searched\.", OWN_ONLY),
    # ... for a name.
    Sentence("order(-\\d+)?|req-\\d", MATCHES),
    Sentence(
        r"\d+ bindings? with this reference, idempotency key, bindId or request id, newest first\.",
        {"name: two bindings"},
    ),
    Sentence(
        r"The newest \d+ bindings with this reference, idempotency key, bindId or request id; there may be more\.",
        {"name: too many bindings"},
    ),
    Sentence(
        r"Nothing has exactly this name\. These references begin with it, at most 50 of bindings and of refused"
        r" binds\.",
        {"name: beginning"},
    ),
    Sentence("Refused before the call", REFUSED | {"name: refused by an earlier version"}),
    Sentence(
        r"Binds that created no binding: the provider was not called\. Newest first, at most 50\.",
        REFUSED,
    ),
    Sentence(
        r"This request created no binding: the phone was in use, and the provider was not called\. An earlier"
        r" version recorded it, without its phones\.",
        {"name: refused by an earlier version"},
    ),
    Sentence("No matches", NO_NAME),
    Sentence(
        r"No binding has the id, bindId, idempotency key or request id “order-6” or a reference that begins so,"
        r" and no recorded refused bind has it as its request id or as the beginning of its reference\.",
        {"name: nothing"},
    ),
    Sentence(
        r"No binding of yours has the id, bindId, idempotency key or request id “order-5” or a reference that"
        r" begins so, and no recorded refused bind of yours has it as its request id or as the"
        r" beginning of its reference\.",
        {"name: of an application"},
    ),
    Sentence(
        r"Binds that were refused because the service was busy are not recorded\. Write a phone or a middle number"
        r" in digits, with its country code\.",
        NO_NAME,
    ),
    Sentence("New search", MATCHES),
    # ... for a number at a time.
    Sentence("One binding had this number", {"at: certain", "at: possible", "at: reference"}),
    Sentence(r"\d+ bindings had this number", {"at: two holders", "at: too many holders"}),
    Sentence("No binding recorded here with this party at this time", PARTY_AT),
    Sentence("No binding recorded here at this time", NOT_HELD_AT - PARTY_AT),
    Sentence(r"(Middle number|Number) \S+ at TIME( with the party \S+)?\.", AT | {"at: reference"}),
    Sentence(
        r"\d+ bindings? with other parties had this number at that time\. Check the party \(digits"
        r" with country code\)\.",
        {"at: other party"},
    ),
    Sentence(r"The last one ended at TIME\.", {"at: ended before", "at: party before"}),
    Sentence(r"No earlier binding is recorded\.", {"at: begins later", "at: never used", "at: hold only"}),
    Sentence(
        r"\d+ more are not shown\. One middle number serves many pairs: enter the phone of the complainant\.",
        {"at: too many holders"},
    ),
    Sentence(r"Reference \S+ · requested by \S+ · \S+", HELD_AT | {"at: reference"}),
    Sentence(
        r"Possible: the time is outside the observed lifetime \(provider.s response to earliest"
        r" end\), but the provider"
        r" may have held the binding then\.",
        {"at: possible"},
    ),
    Sentence("Near misses", {"at: ended before", "at: begins later", "at: party before"}),
    Sentence("No bindings before or after", {"at: other party", "at: never used", "at: hold only"}),
    Sentence(
        r"No binding of this number( with that party)? is recorded before or after that time, and no"
        r" hold around it\."
        r" Check the digits \(with country code\) and the time zone: the time was read as TIME\.",
        {"at: other party", "at: never used"},
    ),
    Sentence(
        r"No binding of this number is recorded before or after that time\. Check the digits \(with"
        r" country code\) and the"
        r" time zone: the time was read as TIME\.",
        {"at: hold only"},
    ),
    Sentence(
        r"The provider confirmed it at TIME \(bindId \d+\), and nothing recorded ends it before TIME\.",
        (HELD_AT - {"at: possible"}) | {"at: reference"},
    ),
    Sentence(r"It may have ended from TIME on; the provider may have held it until TIME\.", {"at: possible"}),
    Sentence("Keep this answer", LINKED),
    Sentence(
        r"Permanent link, which contains no phone: /bindings/\S+/numbers/\w+/at\?time=\S+Z(&party=phone_b)?",
        LINKED,
    ),
    Sentence(
        r"The statement says who asked, when and why, and has the events of each holder and the head of the sealed"
        r" history\.",
        LINKED,
    ),
    Sentence("Show them", {"at: other party"}),
    Sentence("All bindings of this number on one time axis, and its holds", AT | {"at: reference"}),
    Sentence("Refine the search", AT | {"at: reference"}),
    # ... for a number without a time.
    Sentence(r"(Middle number|Phone) [0-9*]+", NUMBER | {"number: reference"}),
    Sentence(r"The number is also a reference, a bindId or a request id: show what has this name\.", REFERENCE),
    Sentence(
        "No binding recorded here has this number",
        {"number: never used", "number: hold only", "number: refused only"},
    ),
    Sentence(
        r"No binding has it as a phone or as a middle number, but a refused bind has it: see below\.",
        {"number: refused only"},
    ),
    Sentence(
        r"No binding and no refused bind recorded here and no hold has this number\. Check the digits: with"
        r" country code, without a leading zero\.",
        {"number: never used"},
    ),
    Sentence(
        r"No binding has it as a phone or as a middle number, but a hold has it: see below\.",
        {"number: hold only"},
    ),
    Sentence("Holds", {"number: hold only", "at: hold only"}),
    Sentence(
        r"Phones that the provider holds, or held, for something other than a binding in force here\."
        r" A bind of such a"
        r" phone is refused\.",
        {"number: hold only", "at: hold only"},
    ),
    Sentence(
        r"(\d+ bindings? may hold it now|No binding recorded here holds it now)\.", LISTED | {"number: reference"}
    ),
    Sentence(
        r"(1 binding has|\d+ bindings have) this number, \d+ of them on this page, newest start first\.",
        LISTED | {"number: reference"},
    ),
    Sentence(r"The pages are in the order of “held until”\.", {"number: first page"}),
    Sentence(
        r"One middle number serves many pairs at the same time\.",
        {"number: middle number", "number: quick re-use", "number: reference"},
    ),
    Sentence(
        r"Quick re-use, 1 on this page\. A middle number passed to another pair within ten minutes of a binding's"
        r" end; the earlier pair may call it\.",
        {"number: quick re-use"},
    ),
    Sentence(
        r"Overlap, 1 on this page\. The conflict policy in force does not allow it: the policy strict allows a"
        r" phone one binding at a time\.",
        {"number: forbidden overlap"},
    ),
    Sentence(
        r"Allowed overlap, 1 on this page\. The policy literal allows another pair beside an AXXB binding; an AXB"
        r" one only once that is confirmed\.",
        {"number: allowed overlap"},
    ),
    Sentence("The two bindings, newest first", PAIRS),
    Sentence(r"\S+ and [^ :]+(: \d+, .+ after the end)?", PAIRS),
    Sentence(
        r"(lifetime )?(failed, or outcome never known )?may still be held by the provider",
        LISTED | {"number: reference"},
    ),
    Sentence("Reveals", (LISTED | {"number: reference"}) - OF_APPLICATION),
    Sentence(
        r"An application sees the phones of its own bindings in full, which is not recorded\.",
        (LISTED | {"number: reference"}) - OF_APPLICATION,
    ),
    Sentence(
        r"No reveal and no export in full of these bindings is recorded\.",
        (LISTED | {"number: reference"}) - OF_APPLICATION - {"number: revealed"},
    ),
    # The pages that end all bindings.
    Sentence(r"End all bindings of this phone…", {"number: of an application"}),
    Sentence(r"End all bindings of the (phone|middle number|reference) \S+", UNBIND_ALL),
    Sentence(r"Reason must be text of 1 to 255 characters", {"unbind all: wrong input"}),
    Sentence(
        r"Lists every binding of the \w+ that is active, pending or in doubt; none is ended until you confirm\."
        r" The actor, the time and the reason are then recorded in the history of each\.",
        FORM,
    ),
    Sentence(
        r"Nothing to end: no binding of the reference is active, pending or in doubt\.", {"unbind all: nothing"}
    ),
    Sentence(
        r"Nothing to end: no binding of the reference is active, pending or in doubt that key:\w+ requested\.",
        {"unbind all: of an application"},
    ),
    Sentence(
        r"No binding can be ended now\. This process has no provider account: set BINDINGS_PROVIDER_API_KEY and"
        r" BINDINGS_PROVIDER_API_SECRET\.",
        {"unbind all: no account"},
    ),
    Sentence(
        r"Bindings were added since the dry run, so nothing was changed\. This is the list as it is now\.",
        {"unbind all: grown"},
    ),
    Sentence("What would be ended", LISTED_TO_END),
    Sentence(r"\d bindings?\.", {"unbind all: listed", "unbind all: grown"}),
    Sentence(
        r"1 binding, and there are more: one call ends at most 1\. Repeat it for the others\.",
        {"unbind all: more"},
    ),
    Sentence(r"For \d of them the unbind was requested before, and is not confirmed yet\.", {"unbind all: grown"}),
    Sentence(r"This was a dry run; nothing has changed yet\.", LISTED_TO_END),
    Sentence(
        r"The request to unbind and the reason “order cancelled” are recorded for all of them at the same time\."
        r" From then on no lookup returns them, and nothing takes that back\. Then the provider is called for up"
        r" to 20 seconds; the job recover makes the other calls\.",
        LISTED_TO_END,
    ),
    Sentence(r"\d unbinds? requested, \d done", UNBINDS),
    Sentence(
        r"No binding of this request is left to be ended: each has ended, or was never created\.",
        {"unbinds: done"},
    ),
    Sentence(
        r"The request \S+ has requested no unbind of a binding that is recorded here: each of its bindings had"
        r" ended, or its unbind was requested before\.",
        {"unbinds: none"},
    ),
    Sentence(
        r"\d of \d (has|have) not ended yet; no lookup returns (it|them) any more\. The job recover calls the"
        r" provider until it confirms\. A binding that is pending or in doubt is ended as soon as it is known to"
        r" exist\.",
        OPEN_UNBINDS,
    ),
    Sentence(
        r"Reload this page to see what is done by then; Doubts has the next step of each\.", {"unbinds: not done"}
    ),
    Sentence(r"Reload this page to see what is done by then\.", {"unbinds: not done, of an application"}),
    Sentence(r"Request id \S+", UNBINDS),
    # The access log.
    Sentence("Access log", ACCESS),
    Sentence(r"Reveals, searches by a phone, exports and administrative acts, newest first\.", ACCESS),
    Sentence("No reveals, searches by a phone, exports or administrative acts yet", {"access: nothing"}),
    Sentence(
        r"Each reveal of full phones, each search by a full phone, each export and each administrative act is"
        r" listed here with actor and time; entries cannot be changed\. Phones are revealed on the page of a"
        r" binding, with a key of the role investigator or admin\.",
        {"access: nothing"},
    ),
    Sentence("All time Last hour Last 24 hours Last 7 days Last 30 days", ACCESS),
    Sentence("Filter", ACCESS),
    Sentence(r"Times are in UTC\. A date alone is its start, 00:00\.", ACCESS),
    Sentence("Sealed history", ACCESS - {"access: wrong input"}),
    Sentence(
        r"The history is not sealed: no seal is recorded\.", ACCESS - {"access: wrong input", "access: sealed"}
    ),
    Sentence(
        r"Keep the head apart from the database\. bindings audit verify --public-key FILE --head 1:[0-9a-f]{64}"
        r" compares the history with its seals; the public key comes from who made the key, not from the"
        r" database\.",
        {"access: sealed"},
    ),
    Sentence("No entry matches", {"access: no match"}),
    Sentence(r"Nothing of this kind is recorded\.", {"access: no match"}),
    Sentence("No entry matches so far", {"access: no match, bounded"}),
    Sentence(r"Older entries may match: look further below\.", {"access: no match, bounded"}),
    Sentence(
        r"With these filters one page looks at a limited number of entries: here at those back to .+\. Older"
        r" ones are not looked at yet\.",
        BOUNDED,
    ),
    Sentence("Look further", BOUNDED),
    Sentence(
        r"Counted in the newest \S+ reveals and acts, searches, and exports of the period; with \+ there may be"
        r" more\.",
        BOUNDED,
    ),
    Sentence(
        r"Reason begins with has a number of 7 digits or more, which may be a phone and must not stand in an"
        r" address\. Use the command bindings access-log, or POST /v1/access-log/search",
        {"access: wrong input"},
    ),
    # On every page that can be exported, and on those that continue.
    Sentence("Older", {"number: first page"}),
    Sentence(
        r"Empty: phones are masked\. The export and the reason are recorded in the access log\.", MASKED_EXPORT
    ),
)


class _Texts(HTMLParser):
    """Collects the texts of headings, paragraphs, list items and summaries in the main part of a page."""

    ELEMENTS = ("h1", "h2", "p", "li", "summary")

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._in_main = False
        self._open: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 -- of the parser
        self._in_main |= tag == "main"
        if self._in_main and tag in self.ELEMENTS:
            self._open = []
        if tag == "time" and self._open is not None:
            self._open.append("TIME\0")

    def handle_endtag(self, tag: str) -> None:
        if tag == "time" and self._open is not None:
            self._open = [*self._open[: self._open.index("TIME\0")], "TIME"]
        if tag in self.ELEMENTS and self._open is not None:
            self.texts.append(" ".join("".join(self._open).split()))
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self._open.append(data)


def texts_of(page: str) -> list[str]:
    parser = _Texts()
    parser.feed(page)
    return [text for text in parser.texts if text not in ("", "Export this list")]


@pytest.fixture
def console(harness: ServiceHarness) -> Iterator[Running]:
    """A running service on the clock of the test harness."""
    yield from run(harness.service)


@dataclass
class Pages:
    """The page of each condition; the methods render them in the order of time."""

    harness: ServiceHarness
    console: Running
    monkeypatch: pytest.MonkeyPatch
    pages: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pages["access: nothing"] = Browser(self.console).get("/access").text  # the first key is an entry
        self.auditor = Browser(self.console).sign_in("auditor")

    def a_day_later(self) -> datetime:
        """Advance the clock, and sign in again: sessions have ended by then."""
        now = self.harness.clock.advance(86_400)
        self.auditor = Browser(self.console).sign_in("auditor")
        return now

    def find(self, query: str, *, at: datetime | None = None, party: str = "") -> str:
        form = {"q": query, "time": "" if at is None else at.isoformat(), "party": party}
        return self.auditor.submit("/find", form).text

    def empty(self) -> None:
        self.pages["find: nothing stored"] = self.auditor.get("/").text
        self.pages["number: never used"] = self.find(NEVER_USED)
        self.pages["at: never used"] = self.find(NEVER_USED, at=self.harness.clock())

    def one_holder(self) -> Binding:
        before = self.harness.clock()
        self.a_day_later()
        first = self.harness.bind(A, B, "AXXB", reference="order-1")
        now, number = self.harness.clock.advance(10), str(first.middle_number_a)
        self.pages["at: certain"] = self.find(number, at=now)
        self.pages["at: other party"] = self.find(number, at=now, party=D)
        self.pages["at: begins later"] = self.find(A, at=before)
        self.pages["number: masked phone"] = self.find(B)
        self.pages["number: middle number"] = self.find(number)
        self.harness.simulator.add_foreign_binding(app_id=first.app_id, phone_a=HELD, phone_b=G)
        self.harness.service.reconcile()
        with pytest.raises(errors.PhoneInUse):
            self.harness.service.as_caller(actor="key:food", request_id="req-2").bind(
                phone_a=HELD, phone_b=REFUSED_PHONE, pool_number=POOL, expire_s=60, mode="AXB"
            )
        self.pages["name: refused"] = self.find("req-2")
        self.pages["number: refused only"] = self.find(REFUSED_PHONE)
        self.harness.database.write(lambda tx: tx.connection.execute(delete(refusals)))
        self.pages["name: refused by an earlier version"] = self.find("req-2")
        self.pages["number: hold only"] = self.find(HELD)
        self.pages["at: hold only"] = self.find(HELD, at=self.harness.clock())
        return first

    def two_holders(self, first: Binding) -> None:
        second = self.harness.bind(A, C, "AXXB", reference="order-2")
        now = self.harness.clock.advance(10)
        self.pages["at: two holders"] = self.find(A, at=now)
        with self.monkeypatch.context() as patch:
            patch.setattr("bindings.web.console.number_at.MAX_HOLDERS", 1)
            self.pages["at: too many holders"] = self.find(A, at=now)
        self.pages["number: allowed overlap"] = self.find(A)
        with self.monkeypatch.context() as patch:
            patch.setattr("bindings.web.console.number.PER_PAGE", 1)
            self.pages["number: first page"] = self.find(A)
        with self.monkeypatch.context() as patch:
            patch.setattr("bindings.web.console.number.Policy", lambda _name: Policy.STRICT)
            self.pages["number: forbidden overlap"] = self.find(A)
        assert first.expires_at is not None
        self.harness.service.unbind(second.id)
        self.harness.clock.at = first.expires_at + timedelta(seconds=5)
        self.auditor = Browser(self.console).sign_in("auditor")
        self.pages["at: possible"] = self.find(B, at=self.harness.clock())
        later = self.a_day_later()
        self.pages["at: ended before"] = self.find(A, at=later)
        self.pages["at: party before"] = self.find(A, at=later, party=B)

    def shared_names(self, first: Binding) -> None:
        number = str(first.middle_number_a)
        self.harness.bind(C, D, reference=number)
        self.pages["number: reference"] = self.find(number)
        self.pages["at: reference"] = self.find(number, at=first.requested_at + timedelta(seconds=5))
        self.harness.bind(E, F, "AXXB", reference="order-5")
        self.harness.bind(E, "9188067797", "AXXB", reference="order-5")
        self.pages["name: two bindings"] = self.find("order-5")
        self.harness.bind(E, "9188067798", "AXXB", reference="order-5")
        with self.monkeypatch.context() as patch:
            patch.setattr("bindings.access.investigation.MAX_NAME_MATCHES", 2)
            patch.setattr("bindings.web.console.search.MAX_NAME_MATCHES", 2)
            self.pages["name: too many bindings"] = self.find("order-5")
        self.pages["name: beginning"] = self.find("order")
        self.pages["name: nothing"] = self.find("order-6")
        self.pages["find: bindings"] = self.auditor.get("/").text
        self.pages["find: wrong input"] = self.find("")

    def re_used_number(self) -> None:
        self.harness.simulator.change(pool_size=1)
        pair = self.harness.bind("9188067793", "9188067794", pool_number="918807", reference="order-3")
        self.harness.service.unbind(pair.id)
        self.harness.clock.advance(60)
        self.harness.bind("9188067795", "9188067796", pool_number="918807", reference="order-4")
        self.pages["number: quick re-use"] = self.find(str(pair.middle_number_a))
        self.harness.simulator.change(pool_size=20)

    def other_roles(self, first: Binding) -> None:
        app = Browser(self.console).sign_in("app", "rides")
        self.harness.service.as_caller(actor="key:rides").bind(
            phone_a="9188067781", phone_b="9188067782", pool_number=POOL, expire_s=60, mode="AXXB"
        )
        self.pages["find: of an application"] = app.get("/").text
        self.pages["name: of an application"] = app.submit("/find", {"q": "order-5"}).text
        self.pages["number: of an application"] = app.submit("/find", {"q": "9188067781"}).text
        investigator = Browser(self.console).sign_in("investigator")
        investigator.post(f"/bindings/{first.id}/reveal", {"reason": "complaint 118"})
        self.pages["number: revealed"] = investigator.submit("/find", {"q": B}).text
        self.pages["access: entries"] = self.auditor.get("/access").text
        self.pages["access: filtered"] = self.auditor.get("/access?kind=reveal&actor=key:investigator").text
        self.pages["access: no match"] = self.auditor.get("/access?actor=key:unknown").text
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("bindings.store.access_log.STRETCH", 1)
            self.pages["access: bounded"] = self.auditor.get("/access?kind=reveal").text
            self.pages["access: no match, bounded"] = self.auditor.get("/access?actor=key:unknown").text
        self.pages["access: wrong input"] = self.auditor.post("/access", {"reason_prefix": A}).text
        seal = {"number": 1, "to_tx": 0, "to_position": 1, "body": "{}", "signature": "x"}
        created_at = self.harness.clock()
        self.harness.database.write(
            lambda tx: tx.connection.execute(insert(seals).values(seal | {"created_at": created_at}))
        )
        self.pages["access: sealed"] = self.auditor.get("/access").text

    def unbind_all(self, first: Binding) -> None:
        """End the bindings of an order; the forms are those of the page of its reference."""
        service = self.harness.service
        admin, app = (Browser(self.console).sign_in(role, f"{role}_2") for role in ("admin", "app"))
        form = {"reason": "order cancelled"}

        def bind(phone_a: str, phone_b: str) -> None:
            caller = service.as_caller(actor="key:app_2")
            values: dict[str, Any] = {"pool_number": POOL, "expire_s": 3_600, "mode": "AXXB"}
            caller.bind(phone_a=phone_a, phone_b=phone_b, reference="order-8", **values)

        bind("9188067761", "9188067762")
        bind("9188067763", "9188067764")
        path = admin.post("/find", {"q": "order-8"}).headers["Location"] + "/unbind"
        own_path = app.post("/find", {"q": "order-8"}).headers["Location"] + "/unbind"
        self.pages["unbind all: form"] = admin.get(f"/bindings/{first.id}/numbers/phone_a/unbind").text
        self.pages["unbind all: wrong input"] = admin.post(path).text
        self.pages["unbind all: listed"] = listed = admin.post(path, form).text
        with self.monkeypatch.context() as patch:
            patch.setattr("bindings.lifecycle.unbind_all.MAX_BINDINGS", 1)
            patch.setattr("bindings.web.console.unbind_all.MAX_BINDINGS", 1)
            self.pages["unbind all: more"] = admin.post(path, form).text
        with self.monkeypatch.context() as patch:
            patch.setattr(service, "runtime", replace(service.runtime, client=None))
            self.pages["unbind all: no account"] = admin.get(path).text
        self.harness.simulator.script("reset_before", times=2, on="unbind")
        ended = self.confirm(admin, path, listed)
        self.pages["unbinds: not done"] = admin.get(ended).text
        self.pages["unbinds: not done, of an application"] = app.get(ended).text
        bind("9188067765", "9188067766")
        self.pages["unbind all: grown"] = self.confirm(admin, path, listed)
        service.recover()
        self.pages["unbinds: done"] = admin.get(ended).text
        self.pages["unbinds: none"] = admin.get("/unbinds/unknown").text
        service.unbind_all(reference="order-8", reason="order cancelled")
        self.pages["unbind all: nothing"] = admin.post(path, form).text
        self.pages["unbind all: of an application"] = app.post(own_path, form).text

    def confirm(self, browser: Browser, path: str, listed: str) -> str:
        """Confirm a dry run; return the path of the result, or the page if it is refused."""
        (fields,) = (form.fields for form in Page(listed).forms if form.action == path)
        response = browser.post(path, fields | {"action": "run"})
        return response.headers.get("Location") or response.text

    def render(self) -> dict[str, str]:
        """Render every page and return them by condition."""
        self.empty()
        first = self.one_holder()
        self.two_holders(first)
        self.shared_names(first)
        self.re_used_number()
        self.other_roles(first)
        self.unbind_all(first)
        return self.pages


def sentences_in(text: str) -> tuple[set[Sentence], str]:
    """Return the sentences that a text consists of, and the rest that is none of them."""
    sentences: set[Sentence] = set()
    while text:
        matches = [(sentence, re.match(rf"{sentence.text}(?: |$)", text)) for sentence in SENTENCES]
        lengths = {sentence: match.end() for sentence, match in matches if match}
        if not lengths:
            break
        sentence = max(lengths, key=lambda each: lengths[each])
        sentences.add(sentence)
        text = text[lengths[sentence] :]
    return sentences, text


def test_each_sentence_is_shown_under_its_conditions_and_no_others(
    harness: ServiceHarness, console: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages = Pages(harness, console, monkeypatch).render()
    assert set(pages) == FIND | MATCHES | AT | NUMBER | REFERENCE | ACCESS | UNBIND_ALL | UNBINDS
    wrong = []
    for name, page in pages.items():
        shown: set[Sentence] = set()
        for text in texts_of(page):
            sentences, rest = sentences_in(text)
            shown |= sentences
            wrong += [f"{name}: not in the table: {rest}"] * bool(rest)
        for sentence in SENTENCES:
            if (sentence in shown) != (name in sentence.conditions):
                wrong.append(f"{name}: {'shown' if sentence in shown else 'missing'}: {sentence.text}")
    assert not wrong, "\n".join(wrong)
