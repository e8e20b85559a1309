"""The Jinja environment of the console: its filters, globals and navigation items.

Every value is escaped. A phone masks itself when it is converted to text; only the filters of `cells` write it in
full, if the principal requested the binding or has just revealed it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from markupsafe import Markup

from bindings.domain.addresses import origin
from bindings.domain.roles import Permission
from bindings.domain.trace import earliest_end
from bindings.web.console import cells, check_areas, event_text, time_zones
from bindings.web.console.cells import NO_VALUE, humanize, instant, page_context, recent

if TYPE_CHECKING:
    from jinja2.runtime import Context


STATIC = files("bindings.web.console") / "static"
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:")


@dataclass(frozen=True, kw_only=True, slots=True)
class NavItem:
    """An entry of the navigation, shown to principals with at least one of the permissions."""

    name: str
    path: str
    permissions: tuple[Permission, ...] = (Permission.READ,)


NAV_ITEMS = (
    NavItem(name="Find", path="/", permissions=(Permission.READ, Permission.BIND)),
    NavItem(name="Bindings", path="/bindings", permissions=(Permission.READ, Permission.BIND)),
    NavItem(name="Overview", path="/overview"),
    NavItem(name="Failures", path="/failures"),
    NavItem(name="Doubts", path="/doubts"),
    NavItem(name="Pools", path="/pools"),
    NavItem(name="Reports", path="/reports"),
    NavItem(name="Access log", path="/access"),
    NavItem(name="Export", path="/exports"),
    NavItem(name="Manage", path="/keys"),
)


# The cases of a reconciliation, in words.
CASE_LABELS = {
    "ghosts": "missing at the provider",
    "orphans": "unknown here",
    "revenants": "ended here, active at the provider",
    "drifted": "differs at the provider",
    "unresolved": "still in doubt",
}


def render(template: str, **values: Any) -> str:
    """Return the HTML of a page."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("bindings.web.console"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "instant": instant,
        "instant_text": instant_text,
        "phone": cells.phone,
        "duration": time_zones.format_duration,
        "humanize": humanize,
        "share": share,
        "recent": recent,
        "state": cells.state,
        "pair": cells.pair,
        "replacements_link": cells.replacements_link,
        "detail": format_detail,
        "as_input": as_input,
        "code_name": code_name,
        "case_label": case_label,
        "reason": event_text.reason_text,
        "sentence": sentence,
        "origin": origin,
        "page_of": check_areas.page_of,
        "earliest_end": earliest_end,
    }
    environment.globals |= {
        "nav_items": NAV_ITEMS,
        "static_url": static_url,
        "Permission": Permission,
        "NO_VALUE": NO_VALUE,
    }
    return environment


@cache
def static_url(name: str) -> str:
    """Return the URL of a static file, with a hash of the content: browsers may cache it indefinitely."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"


@pass_context
def instant_text(template: Context, at: datetime) -> str:
    """Return an instant in the chosen zone as plain text."""
    return time_zones.format_instant(at, page_context(template).zone)


@pass_context
def as_input(template: Context, at: datetime) -> str:
    """Return an instant in the form that the time field of the search accepts, in the chosen zone."""
    return f"{time_zones.in_zone(at, page_context(template).zone):%Y-%m-%d %H:%M:%S}"


@pass_context
def format_detail(template: Context, value: object) -> str | Markup:
    """Return a detail of an event or of a report: an instant in the chosen zone, any other value as text."""
    text = str(value)
    try:
        at = datetime.fromisoformat(text) if ISO_TIME.match(text) else None
    except ValueError:
        at = None
    return text if at is None or at.tzinfo is None else instant(template, at, precise=True)


def code_name(code: str) -> str:
    """Return a status of the provider unchanged, and one of our own codes as prose."""
    return code if code.startswith("-") else humanize(code)


def case_label(case: str) -> str:
    """Return a case of a reconciliation, or the name of a count of its report, as prose."""
    return CASE_LABELS.get(case) or humanize(case)


def sentence(text: str) -> Markup:
    """Return one of our own texts as a sentence: capital letter, full stop, and `backquotes` as code."""
    parts = (f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if index % 2 else part for index, part in enumerate(parts)
    )


def share(number: int, whole: int) -> str:
    """Return a number as per cent of another one, or "" if that is 0."""
    if not whole:
        return ""
    percent = 100 * number / whole
    return "< 0.1 %" if 0 < percent < 0.1 else f"{percent:.1f} %"  # noqa: PLR2004 -- one decimal is shown
