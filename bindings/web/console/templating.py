"""How values look on a page: instants with their zone, phones masked, words for states; and the templates.

Every value is escaped. A phone is masked by its own type; in full it is shown by `phone` alone, to whoever gave
it or has just said why.
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

from bindings.domain.roles import Permission
from bindings.web.console import time_zones

if TYPE_CHECKING:
    from jinja2.runtime import Context

    from bindings.domain.binding import Binding
    from bindings.domain.phone import Phone

STATIC = files("bindings.web.console") / "static"
INSTANT = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:")
NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, kw_only=True, slots=True)
class NavItem:
    """An entry of the navigation: whoever has one of the permissions sees it."""

    name: str
    path: str
    for_: tuple[Permission, ...] = (Permission.READ,)


NAV_ITEMS = (
    NavItem(name="Find", path="/", for_=(Permission.READ, Permission.BIND)),
    NavItem(name="Overview", path="/overview"),
    NavItem(name="Failures", path="/failures"),
    NavItem(name="Doubts", path="/doubts"),
    NavItem(name="Pools", path="/pools"),
    NavItem(name="Reports", path="/reports"),
    NavItem(name="Access log", path="/access"),
    NavItem(name="Export", path="/exports"),
)


def render(template: str, **values: Any) -> str:
    """The text of a page."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    made = Environment(
        loader=PackageLoader("bindings.web.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "instant": instant,
        "phone": phone,
        "span": time_zones.format_duration,
        "words": humanize,
        "clock": clock,
        "fact": format_detail,
        "typed": as_input,
        "code_name": code_name,
        "sentence": sentence,
    }
    made.globals |= {"ways": NAV_ITEMS, "static": static_url, "Permission": Permission, "NOTHING": NOTHING}
    return made


@cache
def static_url(name: str) -> str:
    """The address of a file of ours, which changes with its content: a browser may keep it for ever."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()
    return f"/static/{name}?v={digest[:12]}"


@pass_context
def instant(context: Context, at: datetime | None, *, precise: bool = False) -> str | Markup:
    """An instant: absolute in the chosen zone; on hover how long ago that is."""
    if at is None:
        return NOTHING
    visit = context["visit"]
    shown = time_zones.format_instant(at, visit.zone, precise=precise)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        at.isoformat(), time_zones.ago(at, visit.now), shown
    )


@pass_context
def clock(context: Context, at: datetime) -> str:
    """An instant on an axis: the date where a day begins, else the time of day."""
    local = at.astimezone(context["visit"].zone.info)
    if (local.hour, local.minute, local.second) == (0, 0, 0):
        return f"{local:%Y-%m-%d}"
    return f"{local:%H:%M:%S}" if local.second else f"{local:%H:%M}"


@pass_context
def as_input(context: Context, at: datetime) -> str:
    """An instant as somebody would type it in the chosen zone."""
    return f"{at.astimezone(context['visit'].zone.info):%Y-%m-%d %H:%M:%S}"


@pass_context
def format_detail(context: Context, value: str) -> str | Markup:
    """A fact of an event: an instant in the chosen zone, anything else as it is."""
    try:
        at = datetime.fromisoformat(value) if INSTANT.match(value) else None
    except ValueError:
        at = None
    return value if at is None or at.tzinfo is None else instant(context, at, precise=True)


@pass_context
def phone(context: Context, number: Phone, binding: Binding) -> Markup:
    """A binding's phone: in full where it was revealed, or is the caller's own; else masked."""
    full = context.get("revealed", False) or context["visit"].sees_phones(binding)
    return Markup('<span class="number{}">{}</span>').format(
        " full" if full else "", number.digits if full else number
    )


def code_name(code: str) -> str:
    """A status as it is; a word of ours as prose."""
    return code if code.startswith("-") else humanize(code)


def sentence(text: str) -> Markup:
    """A text of ours as a sentence: it begins with a capital letter and ends with a full stop; `this` is code."""
    parts = (f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(parts)
    )


def humanize(name: Any) -> str:
    """A field's word as prose: in_doubt becomes "in doubt"."""
    return NOTHING if name is None else str(name).replace("_", " ")
