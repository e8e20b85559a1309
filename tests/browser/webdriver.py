"""A minimal WebDriver client for a headless Chromium, with the commands that the browser tests need.

ChromeDriver speaks JSON over HTTP, so no library is needed. A wait polls the page.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 10.0
STARTS = 5
TAB, ENTER, DOWN = "\ue004", "\ue007", "\ue015"  # for `press`
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element id in the protocol


class WebDriverError(Exception):
    """The browser is not available, a command failed, or the page has no such element."""


@dataclass
class Chromium:
    """A browser window. All selectors are CSS selectors."""

    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def open(self, address: str) -> None:
        """Open an address and wait until it is loaded."""
        self._request("POST", "url", {"url": address})

    @property
    def address(self) -> str:
        """Return the address of the current page."""
        return str(self._request("GET", "url"))

    @property
    def text(self) -> str:
        """Return the visible text of the page."""
        return str(self.run("return document.body.innerText"))

    def back(self) -> None:
        """Go back one page."""
        self._request("POST", "back", {})

    def reload(self) -> None:
        """Reload the page."""
        self._request("POST", "refresh", {})

    def fill(self, selector: str, text: str) -> None:
        """Replace the content of a field."""
        element = self._element(selector)
        self._request("POST", f"element/{element}/clear", {})
        self._request("POST", f"element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on an element."""
        self._request("POST", f"element/{self._element(selector)}/click", {})

    def focus(self, selector: str) -> None:
        """Focus an element, and select the content of a field."""
        self._element(selector)
        script = "const e = document.querySelector(arguments[0]); e.focus(); if (e.select) e.select()"
        self.run(script, selector)

    def press(self, keys: str) -> None:
        """Press keys on the focused element."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._request("POST", "actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def has(self, selector: str) -> bool:
        """Return whether an element is on the page now."""
        return bool(self._request("POST", "elements", {"using": "css selector", "value": selector}))

    def wait(self, script: str) -> None:
        """Poll the page until the script returns true."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.run(f"return {script}"):
            assert time.monotonic() < deadline, f"never true: {script}"
            time.sleep(0.02)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page and return its result."""
        return self._request("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def run_async(self, script: str, *arguments: Any) -> Any:
        """Run a script that passes its result to its last argument, a callback, and return the result."""
        return self._request("POST", "execute/async", {"script": script, "args": list(arguments)})

    def command(self, name: str, **params: Any) -> Any:
        """Run a command of the Chrome DevTools protocol and return its result."""
        return self._request("POST", "goog/cdp/execute", {"cmd": name, "params": params})

    def set_appearance(self, scheme: str, width: int = 1_280, height: int = 800, media: str = "screen") -> None:
        """Set the colour scheme (light or dark), the size of the window, and the medium (screen or print)."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scripts(self, *, on: bool) -> None:
        """Enable or disable the scripts of pages. `run` works in both cases: the driver executes it."""
        self.command("Emulation.setScriptExecutionDisabled", value=not on)

    def cookies(self) -> dict[str, dict[str, Any]]:
        """Return the cookies by name."""
        return {cookie["name"]: cookie for cookie in self._request("GET", "cookie")}

    def screenshot(self) -> bytes:
        """Return a PNG of the whole page."""
        height = self.command("Page.getLayoutMetrics")["cssContentSize"]["height"]
        # The inner width includes the scrollbar, which is not part of the image.
        clip = {"x": 0, "y": 0, "width": self.run("return innerWidth"), "height": height, "scale": 1}
        capture = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(capture["data"])

    def console_messages(self) -> list[str]:
        """Return the messages of the browser's console since the last call: refused styles, failed scripts."""
        return [entry["message"] for entry in self._request("POST", "se/log", {"type": "browser"})]

    def _element(self, selector: str) -> str:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            elements = self._request("POST", "elements", {"using": "css selector", "value": selector})
            if elements:
                return str(elements[0][ELEMENT])
            if time.monotonic() > deadline:
                raise WebDriverError(f"{selector} is not on {self.address}:\n{self.text}")
            time.sleep(0.02)

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        value = self.session.request(method, f"{self.url}/{path}", json=body, timeout=60).json()["value"]
        if isinstance(value, dict) and "error" in value:
            raise WebDriverError(f"{path}: {value['error']}: {value['message']}")
        return value


def start(downloads: Path) -> Iterator[Chromium]:
    """Start a browser and yield its window; end the browser afterwards. Files are downloaded to `downloads`."""
    driver, chromium = shutil.which("chromedriver"), next(filter(None, map(shutil.which, CHROMIUM)), None)
    if driver is None or chromium is None:
        raise WebDriverError(
            "browser tests need Chromium and ChromeDriver; on Debian: apt-get install chromium chromium-driver"
        )
    process, port = _start_driver(driver)
    try:
        address = f"http://127.0.0.1:{port}"
        with requests.Session() as session:
            session.trust_env = False
            created = session.post(
                f"{address}/session", json=_capabilities(chromium, downloads), timeout=60
            ).json()["value"]
            if "sessionId" not in created:
                raise WebDriverError(f"Chromium does not start: {created}")
            session_url = f"{address}/session/{created['sessionId']}"
            try:
                yield Chromium(url=session_url, session=session)
            finally:
                session.delete(session_url, timeout=60)  # ends Chromium, which outlives its driver otherwise
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _start_driver(driver: str) -> tuple[subprocess.Popen[str], int]:
    """Start ChromeDriver and return its port. It ends if the port that it chose is in use for IPv6: then again."""
    for _ in range(STARTS):
        process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"started successfully on port (\d+)", line):
                return process, int(match[1])
        process.wait(timeout=30)
    raise WebDriverError("ChromeDriver ended without opening a port")


def _capabilities(chromium: str, downloads: Path) -> dict[str, Any]:
    arguments = [
        "--headless=new",
        "--disable-gpu",
        "--no-first-run",
        "--window-size=1280,900",
        "--no-proxy-server",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox does not run as root; the pages are local
    options = {
        "binary": chromium,
        "args": arguments,
        "prefs": {"download.default_directory": str(downloads), "download.prompt_for_download": False},
    }
    capabilities = {
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
    }
    return {"capabilities": {"alwaysMatch": capabilities}}
