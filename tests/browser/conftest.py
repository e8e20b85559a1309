"""A window, a console with a day's bindings in it, and keys of every role."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from bindings.service import BindingService
from tests.browser import stage, webdriver
from tests.service.harness import APP, KEY, SECRET
from tests.web.conftest import Running, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bindings.provider.simulator import Simulator
    from tests.browser.stage import Day
    from tests.browser.webdriver import Chromium


@dataclass(kw_only=True)
class Console:
    """The console in a window."""

    running: Running
    window: Chromium
    day: Day | None = None

    def open(self, path: str) -> None:
        """Open one of its pages."""
        self.window.open(self.running.url + path)

    def sign_in(self, role: str, name: str | None = None) -> None:
        """Make a key and sign in with it, as a person does."""
        key = self.running.key(role, name)["Authorization"].removeprefix("Bearer ")
        self.open("/sign-in")
        self.window.fill("#key", key)
        self.window.click("main button.main")
        self.window.wait("location.pathname === '/'")

    def find(self, **fields: str) -> None:
        """Fill in the box and send it."""
        self.open("/")
        for name, value in fields.items():
            self.window.fill(f"#{name}", value)
        self.window.click(".box button.main")
        self.window.wait("location.pathname !== '/'")


@pytest.fixture(scope="session")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the browser puts files."""
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def chromium(downloads: Path) -> Iterator[Chromium]:
    """One browser for all tests."""
    yield from webdriver.start(downloads)


@pytest.fixture
def window(chromium: Chromium) -> Chromium:
    """A window that remembers nothing."""
    chromium.command("Network.clearBrowserCookies")
    chromium.scripts(on=True)
    chromium.look_like("light")
    chromium.command("Emulation.setTimezoneOverride", timezoneId="UTC")
    chromium.complaints()
    return chromium


def console_at(url: str, simulator: Simulator, window: Chromium, day: Day | None) -> Iterator[Console]:
    """A console over a database."""
    with BindingService.open(
        database_url=url,
        provider_url=simulator.url,
        provider_api_key=KEY,
        provider_api_secret=SECRET,
        provider_app_id=APP,
    ) as service:
        for running in run(service):
            yield Console(running=running, window=window, day=day)


@pytest.fixture
def empty(sqlite_url: str, simulator: Simulator, window: Chromium) -> Iterator[Console]:
    """A console before anything has happened."""
    yield from console_at(sqlite_url, simulator, window, None)


@pytest.fixture
def console(sqlite_url: str, simulator: Simulator, window: Chromium) -> Iterator[Console]:
    """A console with a day's bindings."""
    day = stage.play(sqlite_url)
    yield from console_at(sqlite_url, simulator, window, day)


@pytest.fixture
def no_complaints(window: Chromium) -> Iterator[None]:
    """No page asks for what its own policy refuses, and no script of ours fails."""
    yield
    bad = re.compile(r"Content Security Policy|Uncaught|SecurityError")
    assert [each for each in window.complaints() if bad.search(each)] == []


@pytest.fixture
def day(console: Console) -> Day:
    """What happened on the console's day."""
    assert console.day is not None
    return console.day
