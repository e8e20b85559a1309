"""A crawler of the running service: follows every link, submits every form, and checks each response.

What is checked of each response is in `Crawl.check`: no failure of the service, no text of an exception, no phone
that the role may not see, no phone in an address, and HTML that is well-formed.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests

from bindings.access.api_keys import digest
from tests.web.browser import HTML
from tests.web.pages import Form, Page
from tests.web.seed_states import NUMBER_AS_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from tests.web.conftest import Running

ID = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?<=/find/)[A-Za-z0-9_-]{20,}|(?<=/numbers/)\w+|(?<=/static/)[^?]+"
)
TRACES = ("Traceback (most recent", "site-packages", "sqlalchemy", "psycopg", "sqlite3.", "jinja2")
PER_TEMPLATE, WITH_QUERY = 3, 9  # addresses that differ by an id only, or by their query too
PER_FAILURE = 3  # with a query: each reason of a failure has the same page
LONG = "9" * 300
WRONG_VALUES = (
    "",
    "<script>alert(1)</script>",
    LONG,
    "a\x00b\r\nc",
    "2026-13-45 25:61",
    "0001-01-01 00:00",
    "9999-12-31T23:59:59-12:00",
    "9" * 30,
    "\N{RIGHT-TO-LEFT OVERRIDE}\N{ARABIC-INDIC DIGIT NINE}" * 8,
    "917700000001",
    "0012345",
)
FEW_WRONG_VALUES = WRONG_VALUES[:3]


def template(address: str) -> str:
    """Return the address with its ids replaced and without its query."""
    return ID.sub("{id}", address.partition("?")[0])


@lru_cache(maxsize=1)
def parsed(text: str) -> Page:
    """Return the page, parsed once for the checks of a response and for what follows from it."""
    return Page(text)


@dataclass(kw_only=True)
class Crawl:
    """What one role has visited. `hidden_phones` may not stand in any response, except after a reveal."""

    running: Running
    role: str
    hidden_phones: frozenset[str]
    all_phones: frozenset[str]
    tried: set[tuple[str, ...]]  # forms that a crawl has sent with wrong values; shared by all roles
    is_thorough: bool  # try every wrong value, not a few
    sees_no_page: bool = False
    headers: dict[str, str] = field(default_factory=dict)  # of calls under /v1
    session: requests.Session = field(default_factory=requests.Session)
    statuses: Counter[int] = field(default_factory=Counter)
    succeeded: set[tuple[str, str]] = field(default_factory=set)  # method and template
    problems: list[str] = field(default_factory=list)
    _visited: set[str] = field(default_factory=set)
    _templates: Counter[str] = field(default_factory=Counter)
    _submitted: set[tuple[str, ...]] = field(default_factory=set)
    _queue: deque[str] = field(default_factory=deque)
    _forms: deque[tuple[tuple[str, ...], Form, str]] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.session.trust_env = False

    def send(self, method: str, address: str, *, reveals: bool = False, **options: Any) -> requests.Response:
        """Send one request, without redirects, and check the response."""
        headers = HTML | options.pop("headers", {})
        response = self.session.request(
            method, self.running.url + address, headers=headers, allow_redirects=False, timeout=300, **options
        )
        self.check(response, reveals=reveals)
        return response

    def check(self, response: requests.Response, *, reveals: bool = False) -> None:
        """Record what must not be in a response."""
        place = (
            f"{self.role}: {response.request.method} {response.request.path_url[:200]} ({response.status_code})"
        )
        self.statuses[response.status_code] += 1
        text = response.text
        addresses = [response.request.path_url, response.headers.get("Location", "")]
        if response.status_code >= 500 and '"not-ready"' not in text:  # /readyz, if no job has run for a while
            self.problems.append(f"{place}: {text[:300]}")
        self.problems += [f"{place}: has {trace!r}" for trace in TRACES if trace in text]
        if not reveals:
            self.problems += [f"{place}: shows the phone {phone}" for phone in _in(text, self.hidden_phones)]
        if text and response.headers.get("Content-Type", "").startswith("text/html"):
            page = parsed(text)
            self.problems += [f"{place}: {error}" for error in page.errors]
            addresses += page.links + page.loaded + [form.action for form in page.forms]
        self.problems += [
            f"{place}: a phone in {address}" for address in addresses for _ in _in(address, self.all_phones)
        ]
        if response.status_code < 400 and not response.headers.get("Location", "").startswith("/sign-in?"):
            self.succeeded.add((str(response.request.method), template(response.request.path_url)))

    def follow(self, start: Iterable[str], *, others: Iterable[str] = ()) -> None:
        """Follow all links from `start` and submit all forms; then from `others`, which may be refused."""
        for address in start:
            self._found(address)
        self._empty_queue()
        for address in others:
            if address not in self._visited:
                self._visited.add(address)
                self._read(self.send("GET", address), address)
        self._empty_queue()

    @property
    def may_reveal(self) -> bool:
        return self.role in ("investigator", "admin")

    def call_api(self, document: dict[str, Any], *, ids: Sequence[str]) -> None:
        """Make every call of the document with right, missing and wrong values; the first id is its own.

        All wrong values are tried by the roles that may make most calls, and with the first id only.
        """
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                for binding_id in ids if "{binding_id}" in path else ids[:1]:
                    makes_most_calls = self.role in ("app", "admin") and binding_id == ids[0]
                    all_values = self.is_thorough and makes_most_calls
                    wrong_values = WRONG_VALUES if all_values else FEW_WRONG_VALUES[:1]
                    address = path.replace("{binding_id}", binding_id)
                    self._call(method.upper(), address, operation, wrong_values)

    def _call(self, method: str, address: str, operation: dict[str, Any], wrong_values: tuple[str, ...]) -> None:
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "query" and parameter["name"] != "wait_s":  # which waits
                for value in wrong_values:
                    self.send(method, address, headers=self.headers, params={parameter["name"]: value})
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None:
            self.send(method, address, headers=self.headers)
            return
        example = content["examples"]["usual"]["value"]
        bodies = [None, [], "x", {}, *_wrong_bodies(example, wrong_values), example]
        for body in bodies:
            reveals = self.may_reveal and (address.endswith("/reveal") or "reveal" in (body or ()))
            reveals |= self.role == "router" and address == "/v1/lookup"
            self.send(method, address, reveals=reveals, headers=self.headers, json=body)

    def finish(self) -> None:
        """Send the forms after which pages are missing, sign out, and check that the session shows nothing."""
        removals = [link for link in self._visited if link.endswith("/remove")]
        own = {digest(token) for token in self.session.cookies.values()}
        for address in (*removals, "/sessions"):  # it ends the session of this crawl
            for form in Page(self.send("GET", address).text).forms:
                if form.action.endswith("/remove") or form.fields.get("id") in own:
                    self.send("POST", form.action, data=form.fields)
        page = Page(self.send("GET", "/").text)
        for form in page.forms:
            if form.action == "/sign-out":
                self.send("POST", "/sign-out", data=form.fields)
                assert self.send("GET", "/").status_code == 303

    def _empty_queue(self) -> None:
        while self._queue:
            address = self._queue.popleft()
            response = self.send("GET", address)
            if response.status_code >= 400 and not self.sees_no_page:
                self.problems.append(
                    f"{self.role}: a page leads to {address}, which answers {response.status_code}"
                )
            self._read(response, address)

    def _read(self, response: requests.Response, address: str) -> None:
        if "Location" in response.headers:
            self._found(urljoin(address, response.headers["Location"]))
        if not response.headers.get("Content-Type", "").startswith("text/html"):
            return
        page = parsed(response.text)
        for link in (
            *page.links,
            *page.loaded,
            *(form.fields["next"] for form in page.forms if "next" in form.fields),
        ):
            if not link.startswith("#"):
                self._found(urljoin(address, link))
        if 'http-equiv="refresh"' in response.text:
            self._queue.append(address)
        for form in page.forms:
            self._submit(form, urljoin(address, form.action))

    def _found(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            self.problems.append(f"{self.role}: a link to another host: {address}")
            return
        address = address.partition("#")[0]
        if not address or address in self._visited:
            return
        self._visited.add(address)
        name = template(address)
        self._templates[name] += 1
        with_query = PER_FAILURE if name.startswith("/failures/") else WITH_QUERY
        if self._templates[name] <= (with_query if "?" in address else PER_TEMPLATE):
            self._queue.append(address)

    def _submit(self, form: Form, action: str) -> None:
        if action in ("/sign-out", "/sessions/end") or action.endswith("/remove"):
            return  # ends the crawl, or what its pages lead to: `finish` sends it
        name = (form.method, template(action), *form.inputs)
        if name in self._submitted:
            return
        self._submitted.add(name)
        self._forms.append((name, form, action))
        if len(self._forms) > 1:
            return  # the loop below sends it after the form whose response has it
        while self._forms:
            self._send_all(*self._forms[0])
            self._forms.popleft()

    def _send_all(self, name: tuple[str, ...], form: Form, action: str) -> None:
        is_first = name not in self.tried
        self.tried.add(name)
        self._send_form(form, action, form.fields | {"csrf": "0" * 64})
        self._send_form(form, action, {name: value for name, value in form.fields.items() if name != "csrf"})
        for fields in self._variants(form, is_first=is_first):
            self._send_form(form, action, fields)

    def _send_form(self, form: Form, action: str, fields: dict[str, str]) -> None:
        reveals = bool(fields.get("reason")) and self.may_reveal
        sent = {"params": fields} if form.method == "GET" else {"data": fields}
        response = self.send(form.method, action, reveals=reveals, headers={"Origin": self.running.url}, **sent)
        self._read(response, action)

    def _variants(self, form: Form, *, is_first: bool) -> Iterator[dict[str, str]]:
        """Yield the fields as a user may fill them in: each with wrong values, and then all with right ones.

        The first role that gets a form tries more wrong values than the others: what a role may do does not depend
        on the values of a field.
        """
        of_first, of_others = (WRONG_VALUES, FEW_WRONG_VALUES) if self.is_thorough else (FEW_WRONG_VALUES, ())
        wrong_values = of_first if is_first else of_others
        for name in form.inputs if wrong_values else ():
            yield {other: value for other, value in form.fields.items() if other != name}
            for value in wrong_values:
                yield form.fields | {name: value}
        filled = form.fields | {name: value for name, value in RIGHT.items() if name in form.inputs}
        for name, value in (*form.choices, *form.buttons):
            yield filled | {name: value}
        yield filled
        if "q" in form.inputs:
            yield filled | {"q": NUMBER_AS_NAME}
            yield filled | {"q": NUMBER_AS_NAME, "time": "now"}


def _wrong_bodies(example: dict[str, Any], texts: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the example without each field, with wrong values of it, and with another field."""
    for name in example:
        yield {other: value for other, value in example.items() if other != name}
        others: tuple[Any, ...] = (None, True, -1, 1.5, 2**70, [], {"reason": 1})
        for value in (*others, *texts) if len(texts) > 1 else texts:
            yield example | {name: value}
    yield example | {"other": 1}
    yield example | {"reveal": {"reason": "complaint 118"}}


RIGHT = {
    "reason": "complaint 118",
    "q": "917700000001",
    "zone": "Asia/Kolkata",
    "amount": "90",
    "name": "dispatch",
    "days": "30",
    "from": f"{datetime.now(UTC) - timedelta(days=30):%Y-%m-%d}",
    "url": "https://receiver.example/events",
}


def _in(text: str, phones: Iterable[str]) -> list[str]:
    return [phone for phone in phones if phone in text] if "91" in text else []
