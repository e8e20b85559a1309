"""The Jinja environment of the console: its filters, globals and navigation items.

Every value is escaped. A phone masks itself when it is converted to text; only the filter `phone` writes it in
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
from bindings.web.console import check_areas, event_text, time_zones

if TYPE_CHECKING:
    from jinja2.runtime import Context

    from bindings.domain.binding import Binding, RefusedBind
    from bindings.domain.phone import Phone
    from bindings.web.console.page_context import PageContext

STATIC = files("bindings.web.console") / "static"
ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:")
NO_VALUE = "\N{EN DASH}"
RECENT_S = 86_400
_FULL_PHONE = Markup('<span class="number full">%s</span>')
_MASKED_PHONE = Markup('<span class="number">%s</span>')


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
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "instant": instant,
        "instant_text": instant_text,
        "phone": phone,
        "duration": time_zones.format_duration,
        "humanize": humanize,
        "share": share,
        "recent": recent,
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
def instant(template: Context, at: datetime | None, *, precise: bool = False) -> str | Markup:
    """Return an instant in the chosen zone, with its distance from now as a tooltip."""
    if at is None:
        return NO_VALUE
    context = _page_context(template)
    text = time_zones.format_instant(at, context.zone, precise=precise)
    return _time_markup(
        f'<time datetime="{at.isoformat()}" title="{time_zones.ago(at, context.now)}">{text}</time>'
    )


@pass_context
def instant_text(template: Context, at: datetime) -> str:
    """Return an instant in the chosen zone as plain text."""
    return time_zones.format_instant(at, _page_context(template).zone)


@pass_context
def recent(template: Context, at: datetime | None) -> str | Markup:
    """Return a time of the last or next 24 hours as its distance from now, with the full time as a tooltip.

    Other times are returned in full, and all of them on paper.
    """
    context = _page_context(template)
    if at is None or abs((context.now - at).total_seconds()) >= RECENT_S:
        return instant(template, at)
    full = time_zones.format_instant(at, context.zone)
    return _time_markup(
        f'<time datetime="{at.isoformat()}" title="{full}"><span class="relative">'
        f'{time_zones.ago(at, context.now)}</span><span class="on-paper">{full}</span></time>'
    )


@pass_context
def as_input(template: Context, at: datetime) -> str:
    """Return an instant in the form that the time field of the search accepts, in the chosen zone."""
    return f"{time_zones.in_zone(at, _page_context(template).zone):%Y-%m-%d %H:%M:%S}"


@pass_context
def format_detail(template: Context, value: object) -> str | Markup:
    """Return a detail of an event or of a report: an instant in the chosen zone, any other value as text."""
    text = str(value)
    try:
        at = datetime.fromisoformat(text) if ISO_TIME.match(text) else None
    except ValueError:
        at = None
    return text if at is None or at.tzinfo is None else instant(template, at, precise=True)


@pass_context
def phone(template: Context, number: Phone, binding: Binding | RefusedBind) -> Markup:
    """Return a phone of the binding: in full if it was revealed or the principal may see it, else masked."""
    in_full = template.get("revealed", False) or _page_context(template).sees_phones(binding)
    return _FULL_PHONE % number.digits if in_full else _MASKED_PHONE % number


def _time_markup(html: str) -> Markup:
    """Return HTML that contains only times, which need no escaping: a page has hundreds of them."""
    return Markup(html)  # noqa: S704


def _page_context(template: Context) -> PageContext:
    context: PageContext = template["context"]
    return context


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


def humanize(name: Any) -> str:
    """Return a field's value as prose: in_doubt becomes "in doubt"."""
    return NO_VALUE if name is None else str(name).replace("_", " ")
