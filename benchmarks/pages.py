"""P14: the pages of the console, as a signed-in browser waits for them.

A person who looks takes a tenth of a second for "at once": that is the bound, in milliseconds, however much is
stored. Beside it stands the ratio to an empty page of the same server, the form to sign in, which asks the
database nothing: what is left over it is what a page costs.
"""

from __future__ import annotations

import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import requests
import structlog

from benchmarks.measure import Result, Target, interleave, timed, typical
from bindings.service import BindingService
from bindings.web import server
from bindings.web.state import AppState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.data import Sizes
    from benchmarks.place import Place
    from bindings.domain.binding import Binding

BOUND_MS = 100.0
PER_ROUND = 10
CSRF = re.compile(r'name="csrf" value="(\w+)"')


@dataclass(kw_only=True)
class Browser:
    """A session of an admin."""

    url: str
    session: requests.Session

    def get(self, path: str) -> str:
        """Open a page, and whatever it leads to."""
        answer = self.session.get(self.url + path, timeout=60)
        if answer.status_code != 200:
            raise AssertionError(f"{path}: {answer.status_code}")
        return answer.text

    def post(self, path: str, **form: str) -> str:
        """Send a form, and open what it leads to."""
        fields = form | {"csrf": CSRF.findall(self.get("/sign-in"))[0]}
        answer = self.session.post(self.url + path, data=fields, timeout=60)
        if answer.status_code != 200:
            raise AssertionError(f"{path}: {answer.status_code}")
        return answer.url.removeprefix(self.url)


def measure(place: Place) -> list[Result]:
    """Every page, in turn with the empty one. The passes that count for the pages have run before."""
    filled, sizes = place.postgres(), place.sizes
    with BindingService.open(database_url=filled.url) as service, _browser(service) as browser:
        service.count_pools()
        service.tally()
        paths = _paths(browser, service)
        return [_compare(name, path, browser, sizes) for name, path in paths.items()]


def _paths(browser: Browser, service: BindingService) -> dict[str, str]:
    [one] = service.search(limit=1, state="active").data
    old = _old(service)
    middle, phone = str(old.middle_number_a), one.phone_a.digits
    then = (old.requested_at).isoformat()
    return {
        "Find, with the latest": "/",
        "a binding": f"/bindings/{one.id}",
        "who was behind a middle number then": browser.post("/find", q=middle, time=then),
        "... beside a party": browser.post("/find", q=middle, time=then, party=old.phone_a.digits),
        "... where there was nobody": browser.post("/find", q=middle, time="2020-01-01 00:00"),
        "history of a middle number": f"/bindings/{one.id}/numbers/middle_number_a",
        "history of a phone": browser.post("/find", q=phone),
        "a reference that is nobody's": browser.post("/find", q="order that never was"),
        "access log": "/access",
        "overview": "/overview",
        "failures of 30 days": "/failures?span=30d",
        "doubts": "/doubts",
        "pools": "/pools",
        "reports": "/reports",
    }


def _old(service: BindingService) -> Binding:
    [old] = service.search(limit=1, state="expired", bind_id="1", app_id="bench").data
    return old


def _compare(name: str, path: str, browser: Browser, sizes: Sizes) -> Result:
    browser.get(path)
    empty: Callable[[str], object] = lambda _: browser.get("/sign-in")  # noqa: E731
    page: Callable[[str], object] = lambda _: browser.get(path)  # noqa: E731
    asked = [""] * PER_ROUND
    rounds = interleave(min(sizes.rounds, 21), lambda _: timed(page, asked), lambda _: timed(empty, asked))
    ours, raw = typical(rounds)
    slowest = max(one.figure for one, _ in rounds)
    note = f"{ours.figure / raw.figure:.1f} x an empty page, slowest round {slowest * 1e3:.1f} ms"
    target = Target(id="P14", what=f"page: {name}", bound=BOUND_MS, unit="ms")
    return Result(target=target, value=ours.figure * 1e3, note=note)


@contextmanager
def _browser(service: BindingService) -> Iterator[Browser]:
    """A signed-in browser of a console on this machine; the key is revoked at the end."""
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())  # by default it prints
    opened = server.listen("127.0.0.1", 0)
    app_state = AppState(service, loopback=True)
    uvicorn = server.Server(app_state)
    thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [opened]}, daemon=True)
    thread.start()
    made = service.keys.create(name="bench", role="admin")
    try:
        while not uvicorn.started:
            time.sleep(0.01)
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Accept"] = "text/html"
            browser = Browser(url=server.address(opened), session=session)
            browser.post("/sign-in", key=made.key)
            yield browser
    finally:
        service.keys.revoke(made.record.id)
        uvicorn.should_exit = True
        thread.join(30)
        app_state.executors.close()
