"""The pictures in docs/images: `make pictures` takes them anew, light and dark, full and empty."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bindings.provider.simulator import Simulator
from bindings.store import migrations
from tests.browser import stage, webdriver
from tests.browser.conftest import console_at
from tests.browser.pages import EMPTY, FULL, reach

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser.conftest import Console
    from tests.browser.webdriver import Chromium

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WIDTH = 1_280
TAKEN = ("find", "behind", "missed", "binding", "history", "access")
TAKEN_BY_ADMIN = ("overview", "failures", "doubts", "absent", "pools", "report")
TAKEN_EMPTY = ("find", "access", "overview", "doubts")


def main() -> None:
    """Take every picture."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for window in webdriver.start(Path(folder)):
            window.command("Emulation.setTimezoneOverride", timezoneId="UTC")
            with _console(Path(folder) / "full.db", window, full=True) as console:
                console.sign_in("investigator", "eve")
                for name in TAKEN:
                    reach(console, FULL[name])
                    _take(console, f"console-{name}")
                console.sign_in("admin", "ann")
                for name in TAKEN_BY_ADMIN:
                    reach(console, FULL[name])
                    _take(console, f"console-{name}")
            with _console(Path(folder) / "empty.db", window, full=False) as console:
                for name in TAKEN_EMPTY:
                    reach(console, EMPTY[name])
                    _take(console, f"console-{name}-empty")


@contextmanager
def _console(file: Path, window: Chromium, *, full: bool) -> Iterator[Console]:
    url = f"sqlite:///{file}"
    migrations.upgrade(url)
    day = stage.play(url) if full else None
    with Simulator() as simulator:
        yield from console_at(url, simulator, window, day)


def _take(console: Console, name: str) -> None:
    console.window.run("document.activeElement.blur()")
    for scheme in ("light", "dark"):
        console.window.look_like(scheme, WIDTH)
        (IMAGES / f"{name}-{scheme}.png").write_bytes(console.window.picture())


if __name__ == "__main__":
    main()
