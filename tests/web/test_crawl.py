"""Every page, form and call, as every role, on a database in every state: nothing fails, and no phone is shown.

The crawler (`crawler`) checks each response; `seed_states` creates the rows. A role or a member of an enumeration
that is new fails here until it is seeded, a console route that is new until the crawl reaches it.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

import pytest

from bindings.domain.roles import Role
from bindings.domain.serialization import instant
from bindings.provider.simulator import Simulator
from bindings.web import app
from bindings.web.api import openapi
from tests.store.databases import MOSTLY_SQLITE
from tests.web import later_version, seed_states
from tests.web.browser import Browser
from tests.web.conftest import run
from tests.web.crawler import Crawl

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Running
    from tests.web.seed_states import SeededStates

ROLES = (*Role, later_version.ROLE, None)  # None is not signed in
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FOO")
UNKNOWN_PATHS = (
    *("/no/such/page", "/v1/no", "/v2/bindings", "/bindings/", "/find/", "/failures/x/y/z", "/v1/"),
    *("/static/..%2f..%2fsettings.py", "/docs/static/../../app.py", "/static/", "/docs/static/", "/.env"),
    *("/%00", "/%ff%fe", "/bindings/%0d%0aX-Header:1", "//example.com/", "/\\example.com", "/" + "x" * 9_000),
    *("/failures/refused/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/failures/failed/" + "y" * 255, "/reports/1"),
    *(
        "/failures?span=never",
        "/bindings?state=lost&from=%00&cursor=AAAA",
        "/access?cursor=AAAA",
        "/doubts?after=%00",
        "/reports?after=%F0%9F%92%A9",
        "/?a=%ff",
    ),
    *("/sign-in?next=https://example.com", "/sign-in?next=" + "%0d%0aSet-Cookie:a=b", "/exports/x?as=json"),
    *("/webhooks/x", "/webhooks/x/rotate", "/keys/x/revoke", "/keys/create?like=x", "/holds?after=%00"),
)


@pytest.fixture(params=MOSTLY_SQLITE)
def database_kind(request: pytest.FixtureRequest) -> str:
    """Return the database that the test runs on: a crawl takes more than a minute."""
    return str(request.param)


@pytest.fixture
def states(own_database_url: str) -> Iterator[SeededStates]:
    """Provide a database in every state, and the services and the provider that use it."""
    clock = seed_states.SeedClock()
    with Simulator(clock=clock.unix, pool_size=500) as simulator:
        states = seed_states.create(own_database_url, simulator, clock)
        try:
            yield states
        finally:
            states.harness.close()


@pytest.fixture
def running(states: SeededStates) -> Iterator[Running]:
    """Provide a running service on that database."""
    yield from run(states.harness.service, local_admin=False)


def start(running: Running, states: SeededStates, *, is_thorough: bool) -> list[Crawl]:
    """Return a crawl for each role, signed in with a key of that role."""
    crawls = []
    all_phones, tried = frozenset(states.others_phones(None)), set[tuple[str, ...]]()
    for role in ROLES:
        hidden = frozenset(states.others_phones(f"key:{role}"))
        crawl = Crawl(
            running=running,
            role=str(role),
            hidden_phones=hidden,
            all_phones=all_phones,
            tried=tried,
            is_thorough=is_thorough,
            sees_no_page=role in (Role.ROUTER, later_version.ROLE),
        )
        crawls.append(crawl)
        if role is not None:
            known = Role.ADMIN if role == later_version.ROLE else role
            crawl.headers = running.key(known, str(role))
            key = crawl.headers["Authorization"].removeprefix("Bearer ")
            csrf = Browser(running, session=crawl.session).csrf()
            expected = 403 if role is Role.ROUTER else 303
            assert crawl.send("POST", "/sign-in", data={"csrf": csrf, "key": key}).status_code == expected
    for name in ("spare 1", "spare 2", "spare 3"):  # the newest are listed first, and the crawl revokes them
        running.key(Role.AUDITOR, name)
    change = "UPDATE keys SET role = :role WHERE name = :role"
    later_version.execute(states.harness, change, role=later_version.ROLE)
    running.app_state.authenticator._cache.clear()
    return crawls


def crawl_all(crawl: Crawl, states: SeededStates, routes: set[tuple[str, str]]) -> None:
    """Visit everything as one role; sign out at the end, after which no page is shown."""
    ids = [binding.id for binding in states.bindings]
    own = next((binding.id for binding in states.bindings if binding.actor == f"key:{crawl.role}"), ids[0])
    named = (binding for binding in states.bindings if binding.reference == f"of {crawl.role}")
    active = next(named, states.bindings[-1])
    # Before the forms of another page end its bindings.
    number = f"/bindings/{active.id}/numbers/phone_a"
    pages = [number, f"{number}/at?time={instant(active.requested_at)}", f"/bindings/{active.id}", "/"]
    start = [] if crawl.sees_no_page else pages
    crawl.follow(start, others=["/sign-in", *(f"/bindings/{name}" for name in ids)])
    crawl.call_api(openapi.document(), ids=[own, ids[0], "01890000-0000-7000-8000-000000000000", "x", "9" * 200])
    for path in UNKNOWN_PATHS:
        crawl.send("GET", path)
    for path in sorted({path for _, path in routes}) if crawl.role in (Role.ADMIN, str(None)) else ():
        for method in METHODS:
            crawl.send(method, re.sub(r"\{\w+\}", own, path), reveals=crawl.may_reveal)
    crawl.finish()


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("is_thorough", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_R9_no_page_form_or_call_fails_or_shows_a_phone_to_a_role_that_may_not_see_it(
    running: Running, states: SeededStates, caplog: pytest.LogCaptureFixture, is_thorough: bool
) -> None:
    caplog.set_level(logging.INFO, logger="bindings")
    assert seed_states.missing(states) == {}
    routes = console_routes(app.framework(running.app_state))
    crawls = start(running, states, is_thorough=is_thorough)
    for crawl in crawls:
        crawl_all(crawl, states, routes)
    assert [problem for crawl in crawls for problem in dict.fromkeys(crawl.problems)] == []
    succeeded = set().union(*(crawl.succeeded for crawl in crawls))
    assert {route for route in routes if not is_reached(route, succeeded)} == set()
    assert "unexpected" not in caplog.text
    assert [phone for phone in states.others_phones(None) if phone in caplog.text] == []


def console_routes(application: Any) -> set[tuple[str, str]]:
    """Return method and path of every route of the console."""
    documented = {path for _, path in openapi.operations()}
    return {
        (method, route.path_format)
        for route in application.routes
        for method in route.methods - {"OPTIONS", "HEAD"}
        if route.path_format not in documented and not route.path_format.startswith("/docs")
    }


def is_reached(route: tuple[str, str], succeeded: set[tuple[str, str]]) -> bool:
    """Return whether a request to the route has succeeded."""
    method, path = route
    expression = re.compile(re.sub(r"\\\{\w+\\\}", ".+", re.escape(path)))
    return any(name == method and expression.fullmatch(template) for name, template in succeeded)
