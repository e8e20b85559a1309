"""Fixtures: a browser window, and consoles with a day of bindings or none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bindings.service import BindingService
from tests.browser import seed_data, webdriver
from tests.service.harness import account_settings
from tests.web.conftest import Running, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bindings.provider.simulator import Simulator
    from tests.browser.seed_data import Day
    from tests.browser.webdriver import Chromium


@dataclass(kw_only=True)
class Console:
    """A console and the window that shows it. `day` is None if it has no bindings."""

    running: Running
    window: Chromium
    day: Day | None = None

    def open(self, path: str) -> None:
        """Open a page of the console."""
        self.window.open(self.running.url + path)

    def sign_in(self, role: str, name: str | None = None) -> None:
        """Create a key and sign in with it through the form."""
        key = self.running.key(role, name)["Authorization"].removeprefix("Bearer ")
        self.open("/sign-in")
        self.window.fill("#key", key)
        self.window.click("main button.main")
        self.window.wait("location.pathname === '/'")

    def find(self, **fields: str) -> None:
        """Fill in the search form and submit it."""
        self.open("/")
        for name, value in fields.items():
            self.window.fill(f"#{name}", value)
        self.window.click(".search-form button.main")
        self.window.wait("location.pathname !== '/'")


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The download folder of the browser."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def chromium(downloads: Path) -> Iterator[Chromium]:
    """A browser that all tests share."""
    yield from webdriver.start(downloads)


@pytest.fixture
def window(chromium: Chromium) -> Chromium:
    """The browser window without cookies, with default settings."""
    chromium.command("Network.clearBrowserCookies")
    chromium.scripts(on=True)
    chromium.set_appearance("light")
    chromium.command("Emulation.setTimezoneOverride", timezoneId="UTC")
    chromium.console_messages()
    return chromium


def console_at(url: str, simulator: Simulator, window: Chromium, day: Day | None) -> Iterator[Console]:
    """Serve a console over a database until the test ends."""
    with BindingService.open(
        database_url=url,
        **account_settings(simulator.url),
    ) as service:
        for running in run(service):
            yield Console(running=running, window=window, day=day)


@pytest.fixture
def empty(sqlite_url: str, simulator: Simulator, window: Chromium) -> Iterator[Console]:
    """A console without bindings."""
    yield from console_at(sqlite_url, simulator, window, None)


@pytest.fixture
def console(sqlite_url: str, simulator: Simulator, window: Chromium) -> Iterator[Console]:
    """A console with a day of bindings."""
    day = seed_data.create(sqlite_url)
    yield from console_at(sqlite_url, simulator, window, day)


@pytest.fixture
def no_console_errors(window: Chromium) -> Iterator[None]:
    """Check after the test that no page violated its content security policy and no script failed."""
    yield
    pattern = re.compile(r"Content Security Policy|Uncaught|SecurityError")
    assert [message for message in window.console_messages() if pattern.search(message)] == []


@pytest.fixture
def day(console: Console) -> Day:
    """The bindings of the console."""
    assert console.day is not None
    return console.day
