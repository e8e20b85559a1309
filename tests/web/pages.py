"""A parser of the console's pages: checks that the HTML is well-formed and safe, and reads its links and forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)


@dataclass(kw_only=True)
class Form:
    """A form: where it is sent, its fields with the values that they have, and the buttons that have a value."""

    method: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str, str]] = field(default_factory=list)
    choices: list[tuple[str, str]] = field(default_factory=list)  # of radio buttons, checkboxes and selects

    @property
    def csrf(self) -> str | None:
        return self.fields.get("csrf")

    @property
    def inputs(self) -> list[str]:
        """Return the names of the fields without the CSRF token."""
        return sorted({*self.fields, *(name for name, _ in (*self.buttons, *self.choices))} - {"csrf"})


class Page(HTMLParser):
    """One page. `errors` says what is wrong with its HTML; `links` are the addresses that it opens or loads."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.forms: list[Form] = []
        self.errors: list[str] = []
        self._open: list[str] = []
        self._ids: set[str] = set()
        self._references: list[str] = []
        self._form: Form | None = None
        self._select = ""
        self.feed(html)
        self.close()
        if self._open:
            self.errors.append(f"not closed: {self._open}")
        self.errors += [f"no element has the id {name!r}" for name in self._references if name not in self._ids]
        if not html.startswith("<!doctype html>"):
            self.errors.append("no doctype")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._check_attributes(tag, attrs)
        values = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self._open.append(tag)
        self._read(tag, values)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._check_attributes(tag, attrs)
        self._read(tag, {name: value or "" for name, value in attrs})

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()} closes another element")
        if tag == "form":
            self._form = None

    def _check_attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(names) != len(set(names)):
            self.errors.append(f"<{tag}> at {self.getpos()} repeats an attribute")
        self.errors += [
            f"<{tag}> at {self.getpos()} has {name}" for name in names if name.startswith("on") or name == "style"
        ]
        if tag in ("style", "iframe", "object", "base") or (tag == "script" and "src" not in names):
            self.errors.append(f"<{tag}> at {self.getpos()}")
        for name, value in attrs:
            if name == "id":
                if value in self._ids:
                    self.errors.append(f"the id {value!r} is repeated")
                self._ids.add(value or "")
            if name in ("for", "aria-describedby", "aria-labelledby", "list"):
                self._references += (value or "").split()

    def _read(self, tag: str, values: dict[str, str]) -> None:
        if tag == "a":
            self.links.append(values.get("href", ""))
        elif tag in ("link", "script", "img"):
            self.loaded.append(values.get("href") or values.get("src", ""))
        elif tag == "form":
            self._form = Form(method=values.get("method", "get").upper(), action=values.get("action", ""))
            self.forms.append(self._form)
        elif tag == "select":
            self._select = values.get("name", "")
        elif self._form is not None and tag in ("input", "button", "option"):
            self._read_field(self._form, tag, values)

    def _read_field(self, form: Form, tag: str, values: dict[str, str]) -> None:
        name, value = values.get("name", self._select if tag == "option" else ""), values.get("value", "")
        if not name:
            return
        if tag == "button":
            form.buttons.append((name, value))
        elif tag == "option" or values.get("type") in ("radio", "checkbox"):
            form.choices.append((name, value))
            if "checked" in values or "selected" in values:
                form.fields[name] = value
        else:
            form.fields[name] = value
