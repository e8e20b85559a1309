"""A minimal HTTP client that acts as a browser: it keeps cookies, reads forms, follows no redirects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import requests

from tests.service.harness import wait_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.web.conftest import Running

HTML = {"Accept": "text/html,application/xhtml+xml"}


@dataclass
class Browser:
    """A session of the console. `addresses` are all URLs that it requested or was redirected to."""

    running: Running
    session: requests.Session = field(default_factory=requests.Session)
    addresses: list[str] = field(default_factory=list)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        """Open a page."""
        return self._record(
            self.session.get(
                self.running.url + path, headers=HTML | dict(headers or {}), allow_redirects=False, timeout=30
            )
        )

    def csrf(self) -> str:
        """Return the CSRF token of this session, as read from a page."""
        page = self.session.get(self.running.url + "/sign-in", headers=HTML, timeout=300)
        match = re.search(r'name="csrf" value="([0-9a-f]{64})"', page.text)
        assert match, page.text
        return match[1]

    def post(
        self, path: str, form: dict[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Send a form of a page, as a browser does, and return the response."""
        fields = {"csrf": self.csrf()} | (form or {})
        return self._record(
            self.session.post(
                self.running.url + path,
                data=fields,
                headers=HTML | {"Origin": self.running.url} | dict(headers or {}),
                allow_redirects=False,
                timeout=300,
            )
        )

    def submit(self, path: str, form: dict[str, str] | None = None) -> requests.Response:
        """Send a form and follow the redirects."""
        response = self.post(path, form)
        while response.status_code == 303:
            response = self.get(response.headers["Location"])
        return response

    def wait_for_result(self, page: requests.Response) -> requests.Response:
        """Reload a page of a running task until it no longer asks for that, and return it."""
        address = page.url.removeprefix(self.running.url)

        def has_ended() -> bool:
            nonlocal page
            if 'http-equiv="refresh"' in page.text:
                page = self.get(address)
            return 'http-equiv="refresh"' not in page.text

        wait_for(has_ended)
        return page

    def sign_in(self, role: str, name: str | None = None) -> Browser:
        """Create a key of this role and sign in with it."""
        key = self.running.key(role, name)["Authorization"].removeprefix("Bearer ")
        response = self.post("/sign-in", {"key": key})
        assert response.status_code == 303, response.text
        return self

    def _record(self, response: requests.Response) -> requests.Response:
        self.addresses += [response.url, response.headers.get("Location", "")]
        return response
