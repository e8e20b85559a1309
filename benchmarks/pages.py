"""P14: response times of the console's pages for a signed-in browser.

A tenth of a second feels immediate to a user: that is the bound, for any amount of stored data. The pages that an
investigation opens one after the other, about one number, have a lower one. The note gives the ratio to an empty
page of the same server, the sign-in form, which does not query the database.
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

    from benchmarks.bench_context import BenchContext
    from benchmarks.data import BenchDatabase, Sizes
    from bindings.domain.binding import Binding

BOUND_MS = 100.0
NUMBER_BOUND_MS = 10.0
PER_ROUND = 10
PAGES_OF_A_NUMBER = (
    "holder of a middle number at a time",
    "... with a party",
    "... at a time without a holder",
    "history of a middle number",
    "history of a phone",
)
CSRF = re.compile(r'name="csrf" value="(\w+)"')


@dataclass(kw_only=True)
class Browser:
    """An HTTP session, signed in as an admin."""

    url: str
    session: requests.Session

    def get(self, path: str) -> str:
        """Return the text of a page, following redirects; raise if its status is not 200."""
        response = self.session.get(self.url + path, timeout=60)
        if response.status_code != 200:
            raise AssertionError(f"{path}: {response.status_code}")
        return response.text

    def post(self, path: str, **form: str) -> str:
        """Send a form, follow redirects, and return the path of the page that they end at."""
        fields = form | {"csrf": CSRF.findall(self.get("/sign-in"))[0]}
        response = self.session.post(self.url + path, data=fields, timeout=60)
        if response.status_code != 200:
            raise AssertionError(f"{path}: {response.status_code}")
        return response.url.removeprefix(self.url)


def measure(context: BenchContext) -> list[Result]:
    """Return P14 for every page, measured in turn with the empty page, after the jobs that pages depend on."""
    bench_db, sizes = context.postgres(), context.sizes
    _count_events(bench_db)
    with BindingService.open(database_url=bench_db.url) as service, _signed_in_browser(service) as browser:
        service.count_pools()
        service.update_statistics()
        paths = _paths(browser, service)
        return [_compare(name, path, browser, sizes) for name, path in paths.items()]


def _count_events(bench_db: BenchDatabase) -> None:
    """Count what happened by minute, hour and day, as the job would have done soon after each event.

    The job follows the feed, and would need hours for the millions of events that are loaded at once.
    """
    for period_s, kept in ((60, "26 hours"), (3_600, "400 days"), (86_400, "400 days")):
        counted = (
            f"SELECT {period_s}, to_timestamp(floor(extract(epoch FROM requested_at) / {period_s}) * {period_s}),"
            " %s kind, '', count(*)%s FROM bindings, (VALUES ('requested'), ('activated')) AS kinds (kind)"
            f" WHERE requested_at > now() - interval '{kept}' GROUP BY %s 2, kind ON CONFLICT DO NOTHING"
        )
        of_bind = "app_id, pool_number,"
        bench_db.execute("INSERT INTO tallies " + counted % ("", ", '[]'", ""))
        names = f"(period_s, began_at, {of_bind} kind, code, number)"
        bench_db.execute(f"INSERT INTO bind_counts {names} " + counted % (of_bind, "", of_bind))
    bench_db.execute(
        "INSERT INTO tally_marks (id, tx, position, counted_to)"
        " SELECT 1, 0, coalesce(max(position), 0), now() FROM events"
        " ON CONFLICT (id) DO UPDATE SET tx = 0, position = excluded.position"
    )


def _paths(browser: Browser, service: BindingService) -> dict[str, str]:
    [binding] = service.search(limit=1, state="active").data
    old_binding = _old_binding(service)
    middle, phone = str(old_binding.middle_number_a), binding.phone_a.digits
    at = old_binding.requested_at.isoformat()
    of_number = f"/bindings/{binding.id}/numbers/middle_number_a"
    number_at = browser.post("/find", q=middle, time=at)
    return {
        "Find, with the latest": "/",
        "bindings": "/bindings",
        "bindings that failed": "/bindings?state=failed",
        "bindings of an unknown pool": "/bindings?pool_number=918899",
        "bindings that end soonest": "/bindings?active=true&order=ends_soonest",
        "bindings by the beginning of a reference": "/bindings?reference_prefix=order+4242",
        "a binding": f"/bindings/{binding.id}",
        "holder of a middle number at a time": number_at,
        "... with a party": browser.post("/find", q=middle, time=at, party=old_binding.phone_a.digits),
        "... at a time without a holder": browser.post("/find", q=middle, time="2020-01-01 00:00"),
        "history of a middle number": of_number,
        "history of a phone": browser.post("/find", q=phone),
        "end all bindings of a middle number": f"{of_number}/unbind",
        "an unknown reference": browser.post("/find", q="order that never was"),
        "overview": "/overview",
        "failures of a day": "/failures",
        "failures of 30 days": "/failures?span=30d",
        "failures of a year": "/failures?span=1y",
        "failures of a pool in 30 days": "/failures?span=30d&pool_number=918806",
        "a failure": "/failures/failed/-41?span=30d",
        "doubts": "/doubts",
        "pools": "/pools",
        "reports": "/reports",
        "access log": "/access",
        "access log of an actor": "/access?actor=key:unknown",
        "export": "/exports",
        "keys": "/keys",
        "sessions": "/sessions",
        "webhooks": "/webhooks",
        "holds": "/holds",
    }


def _old_binding(service: BindingService) -> Binding:
    [old_binding] = service.search(limit=1, state="expired", bind_id="1", app_id="bench").data
    return old_binding


def _compare(name: str, path: str, browser: Browser, sizes: Sizes) -> Result:
    browser.get(path)
    empty: Callable[[str], object] = lambda _: browser.get("/sign-in")  # noqa: E731
    page: Callable[[str], object] = lambda _: browser.get(path)  # noqa: E731
    arguments = [""] * PER_ROUND
    rounds = interleave(min(sizes.rounds, 21), lambda _: timed(page, arguments), lambda _: timed(empty, arguments))
    product, baseline = typical(rounds)
    slowest = max(page_sample.figure for page_sample, _ in rounds)
    note = f"{product.figure / baseline.figure:.1f} x an empty page, slowest round {slowest * 1e3:.1f} ms"
    bound = NUMBER_BOUND_MS if name in PAGES_OF_A_NUMBER else BOUND_MS
    target = Target(id="P14", title=f"page: {name}", bound=bound, unit="ms")
    return Result(target=target, value=product.figure * 1e3, note=note)


@contextmanager
def _signed_in_browser(service: BindingService) -> Iterator[Browser]:
    """Serve the console on this machine and yield a signed-in browser; revoke its key at the end."""
    structlog.configure(logger_factory=structlog.stdlib.LoggerFactory())  # structlog prints by default
    listening_socket = server.listen("127.0.0.1", 0)
    app_state = AppState(service, local_admin=True)
    uvicorn = server.Server(app_state)
    thread = threading.Thread(target=uvicorn.run, kwargs={"sockets": [listening_socket]}, daemon=True)
    thread.start()
    api_key = service.api_keys.create(name="bench", role="admin")
    try:
        while not uvicorn.started:
            time.sleep(0.01)
        with requests.Session() as session:
            session.trust_env = False
            session.headers["Accept"] = "text/html"
            browser = Browser(url=server.address(listening_socket), session=session)
            browser.post("/sign-in", key=api_key.key)
            yield browser
    finally:
        service.api_keys.revoke(api_key.record.id)
        uvicorn.should_exit = True
        thread.join(30)
        app_state.executors.close()
