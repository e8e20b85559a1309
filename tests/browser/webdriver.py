"""A real Chromium, headless, over the WebDriver protocol: what a journey needs of it and nothing more.

ChromeDriver speaks JSON over HTTP, so no library stands between. An element is waited for by asking the page
again, as whoever looks at it would.
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
PATIENCE_S = 10.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # how the protocol names an element


class Missing(Exception):
    """There is no such browser, or no such element on the page."""


@dataclass
class Chromium:
    """One window. Every selector is CSS."""

    url: str
    session: requests.Session = field(default_factory=requests.Session)
    messages: list[str] = field(default_factory=list)

    def open(self, address: str) -> None:
        """Open an address, and wait until it is there."""
        self._ask("POST", "url", {"url": address})

    @property
    def address(self) -> str:
        """Where the window is."""
        return str(self._ask("GET", "url"))

    @property
    def text(self) -> str:
        """What can be read."""
        return str(self.run("return document.body.innerText"))

    def back(self) -> None:
        """One page back."""
        self._ask("POST", "back", {})

    def reload(self) -> None:
        """The same page again."""
        self._ask("POST", "refresh", {})

    def fill(self, selector: str, text: str) -> None:
        """Type into a field, instead of what stands there."""
        element = self._element(selector)
        self._ask("POST", f"element/{element}/clear", {})
        self._ask("POST", f"element/{element}/value", {"text": text})

    def click(self, selector: str) -> None:
        """Click on something."""
        self._ask("POST", f"element/{self._element(selector)}/click", {})

    def press(self, keys: str) -> None:
        """Press keys wherever the focus is."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    def has(self, selector: str) -> bool:
        """Whether something is on the page now."""
        return bool(self._ask("POST", "elements", {"using": "css selector", "value": selector}))

    def wait(self, script: str) -> None:
        """Ask the page until the script is true."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not self.run(f"return {script}"):
            assert time.monotonic() < give_up_at, f"never: {script}"
            time.sleep(0.02)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a script in the page."""
        return self._ask("POST", "execute/sync", {"script": script, "args": list(arguments)})

    def run_later(self, script: str, *arguments: Any) -> Any:
        """Run a script that calls its last argument when it is done."""
        return self._ask("POST", "execute/async", {"script": script, "args": list(arguments)})

    def command(self, name: str, **given: Any) -> Any:
        """A command of Chromium's own protocol."""
        return self._ask("POST", "goog/cdp/execute", {"cmd": name, "params": given})

    def look_like(self, scheme: str, width: int = 1_280, height: int = 800) -> None:
        """Light or dark, and how wide."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )

    def scripts(self, *, on: bool) -> None:
        """Let pages run scripts or not. With none, `run` works all the same: it is the driver's."""
        self.command("Emulation.setScriptExecutionDisabled", value=not on)

    def cookies(self) -> dict[str, dict[str, Any]]:
        """The window's cookies by name."""
        return {each["name"]: each for each in self._ask("GET", "cookie")}

    def forget(self) -> None:
        """Throw the cookies away."""
        self._ask("DELETE", "cookie")

    def picture(self) -> bytes:
        """The whole page as PNG."""
        height = self.command("Page.getLayoutMetrics")["cssContentSize"]["height"]
        # A scrollbar takes no room in a picture, and its content none from it.
        clip = {"x": 0, "y": 0, "width": self.run("return innerWidth"), "height": height, "scale": 1}
        shot = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        return base64.b64decode(shot["data"])

    def complaints(self) -> list[str]:
        """What the browser's console says since it was asked last: refused styles, failed scripts."""
        return [each["message"] for each in self._ask("POST", "se/log", {"type": "browser"})]

    def _element(self, selector: str) -> str:
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            found = self._ask("POST", "elements", {"using": "css selector", "value": selector})
            if found:
                return str(found[0][ELEMENT])
            if time.monotonic() > give_up_at:
                raise Missing(f"{selector} is not on {self.address}:\n{self.text}")
            time.sleep(0.02)

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self.session.request(method, f"{self.url}/{path}", json=body, timeout=60).json()["value"]
        if isinstance(answer, dict) and "error" in answer:
            raise Missing(f"{path}: {answer['error']}: {answer['message']}")
        return answer


def start(downloads: Path) -> Iterator[Chromium]:
    """A window, until it is closed. Files that it is given go to `downloads`."""
    driver, chromium = shutil.which("chromedriver"), next(filter(None, map(shutil.which, CHROMIUM)), None)
    if driver is None or chromium is None:
        raise Missing(
            "browser tests need Chromium and ChromeDriver; on Debian: apt-get install chromium chromium-driver"
        )
    process = subprocess.Popen([driver, "--port=0"], stdout=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{_port(process)}"
        with requests.Session() as session:
            session.trust_env = False
            made = session.post(f"{address}/session", json=_wish(chromium, downloads), timeout=60).json()["value"]
            if "sessionId" not in made:
                raise Missing(f"Chromium does not start: {made}")
            yield Chromium(url=f"{address}/session/{made['sessionId']}", session=session)
            session.delete(f"{address}/session/{made['sessionId']}", timeout=60)
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise Missing("ChromeDriver ended at once")


def _wish(chromium: str, downloads: Path) -> dict[str, Any]:
    arguments = [
        "--headless=new",
        "--disable-gpu",
        "--no-first-run",
        "--window-size=1280,900",
        "--no-proxy-server",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox does not run as root; the pages are our own
    options = {
        "binary": chromium,
        "args": arguments,
        "prefs": {"download.default_directory": str(downloads), "download.prompt_for_download": False},
    }
    wish = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    return {"capabilities": {"alwaysMatch": wish}}
