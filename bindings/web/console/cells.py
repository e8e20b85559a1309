"""The parts of a binding in lists and cards, as filters: its state, its phones and middle number, its times.

A page has hundreds of them, and a macro takes several times as long as a filter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import pass_context
from markupsafe import Markup, escape

from bindings.domain.binding import State
from bindings.web.console import time_zones

if TYPE_CHECKING:
    from datetime import datetime

    from jinja2.runtime import Context

    from bindings.domain.binding import Binding, RefusedBind
    from bindings.domain.phone import Phone
    from bindings.web.console.page_context import PageContext

NO_VALUE = "\N{EN DASH}"
RECENT_S = 86_400
_NO_MARKUP = Markup()


@pass_context
def state(template: Context, binding: Binding, at: datetime | None = None) -> Markup:
    """Return the state of a binding, and why an active one is of no use to its caller at `at`.

    `at` is the instant by the database's clock, if the page has read it.
    """
    if binding.state is not State.ACTIVE or binding.is_active(at or page_context(template).now):
        return _STATE_CELLS[binding.state]
    return _ACTIVE_WITH_UNBIND if binding.unbind_requested_at else _ACTIVE_PAST_END


@pass_context
def pair(template: Context, binding: Binding) -> Markup:
    """Return the phones of a binding and the middle number between them, in one row."""
    css_class, texts = _phones(template, binding, binding.phone_a, binding.phone_b)
    a, b = (escape(text) for text in texts)
    number_a, number_b = binding.middle_number_a, binding.middle_number_b
    middle = escape(number_a or "no middle number")
    if number_a and number_b != number_a:
        middle += f" / {number_b}"
    return _html(
        f'<span class="pair"><span><span class="{css_class}">{a}</span></span> <span class="via">{middle}</span>'
        f' <span><span class="{css_class}">{b}</span></span></span>'
    )


@pass_context
def phone(template: Context, number: Phone, binding: Binding | RefusedBind) -> Markup:
    """Return a phone of the binding: in full if it was revealed or the principal may see it, else masked."""
    css_class, (text,) = _phones(template, binding, number)
    return _html(f'<span class="{css_class}">{escape(text)}</span>')


def _phones(template: Context, binding: Binding | RefusedBind, *phones: Phone) -> tuple[str, list[str]]:
    """Return the class and the texts of phones of the binding."""
    if template.get("revealed", False) or page_context(template).sees_phones(binding):
        return "number full", [phone.digits for phone in phones]
    return "number", [str(phone) for phone in phones]


def replacements_link(binding: Binding) -> Markup:
    """Return a link to what a binding replaces and to its successors, or nothing if there are none."""
    if binding.replaces is None and binding.replaced_by is None:
        return _NO_MARKUP
    binding_id = escape(binding.id)
    return _html(
        f'<a class="small" href="/bindings/{binding_id}#replacements">replacements<span class="hidden"> of binding'
        f" {binding_id}</span></a>"
    )


@pass_context
def instant(template: Context, at: datetime | None, *, precise: bool = False) -> str | Markup:
    """Return an instant in the chosen zone, with its distance from now as a tooltip."""
    if at is None:
        return NO_VALUE
    context = page_context(template)
    text = time_zones.format_instant(at, context.zone, precise=precise)
    return _html(f'<time datetime="{at.isoformat()}" title="{time_zones.ago(at, context.now)}">{text}</time>')


@pass_context
def recent(template: Context, at: datetime | None) -> str | Markup:
    """Return a time of the last or next 24 hours as its distance from now, with the full time as a tooltip.

    Other times are returned in full, and all of them on paper.
    """
    context = page_context(template)
    if at is None or abs((context.now - at).total_seconds()) >= RECENT_S:
        return instant(template, at)
    full = time_zones.format_instant(at, context.zone)
    return _html(
        f'<time datetime="{at.isoformat()}" title="{full}"><span class="relative">'
        f'{time_zones.ago(at, context.now)}</span><span class="on-paper">{full}</span></time>'
    )


def humanize(name: object) -> str:
    """Return a field's value as prose: in_doubt becomes "in doubt"."""
    return NO_VALUE if name is None else str(name).replace("_", " ")


def page_context(template: Context) -> PageContext:
    """Return the context of the page that the template is rendered for."""
    context: PageContext = template["context"]
    return context


def _html(text: str) -> Markup:
    """Return HTML of which every part is escaped, or a time, or a fixed word."""
    return Markup(text)  # noqa: S704


_STATE_CELLS = {state: _html(f'<span class="state {state}">{humanize(state)}</span>') for state in State}
_ACTIVE_WITH_UNBIND = _html('<span class="state active over">active, unbinding</span>')
_ACTIVE_PAST_END = _html('<span class="state active over">active, lifetime over</span>')
