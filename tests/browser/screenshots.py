"""Screenshots for docs/images, light and dark, with and without bindings. Run by `make screenshots`."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bindings.provider.simulator import Simulator
from bindings.store import migrations
from tests.browser import seed_data, webdriver
from tests.browser.conftest import console_at
from tests.browser.pages import EMPTY, FULL, open_page

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.browser.conftest import Console
    from tests.browser.webdriver import Chromium

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
WIDTH = 1_280
INVESTIGATOR_PAGES = ("find", "number-at", "number-at-no-holder", "statement", "binding", "number", "access")
ADMIN_PAGES = ("overview", "failures", "doubts", "mark-absent", "pools", "report")
EMPTY_PAGES = ("find", "access", "overview", "doubts")


def main() -> None:
    """Write all screenshots to docs/images."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for window in webdriver.start(Path(folder)):
            window.command("Emulation.setTimezoneOverride", timezoneId="UTC")
            with _console(Path(folder) / "full.db", window, full=True) as console:
                console.sign_in("investigator", "eve")
                for name in INVESTIGATOR_PAGES:
                    open_page(console, FULL[name])
                    _save(console, f"console-{name}")
                console.sign_in("admin", "ann")
                for name in ADMIN_PAGES:
                    open_page(console, FULL[name])
                    _save(console, f"console-{name}")
            with _console(Path(folder) / "empty.db", window, full=False) as console:
                for name in EMPTY_PAGES:
                    open_page(console, EMPTY[name])
                    _save(console, f"console-{name}-empty")


@contextmanager
def _console(file: Path, window: Chromium, *, full: bool) -> Iterator[Console]:
    url = f"sqlite:///{file}"
    migrations.upgrade(url)
    day = seed_data.create(url) if full else None
    with Simulator() as simulator:
        yield from console_at(url, simulator, window, day)


def _save(console: Console, name: str) -> None:
    console.window.run("document.activeElement.blur()")
    for scheme in ("light", "dark"):
        console.window.set_appearance(scheme, WIDTH)
        (IMAGES / f"{name}-{scheme}.png").write_bytes(console.window.screenshot())


if __name__ == "__main__":
    main()
