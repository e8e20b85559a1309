"""Numbers in paths: a binding that has the number and the field that it is in name it, never its digits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bindings import errors
from bindings.domain.phone import Phone
from bindings.web.console.binding import get_visible_binding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bindings.domain.binding import Binding
    from bindings.web.console.page_context import PageContext

PHONE_FIELDS = ("phone_a", "phone_b")
NUMBER_FIELDS = (*PHONE_FIELDS, "middle_number_a", "middle_number_b")


async def binding_number(context: PageContext) -> tuple[Phone, Binding]:
    """Return the number that the path names, and its binding. Raise `NotFound` if there is none."""
    binding = await get_visible_binding(context)
    number = _number(binding, context.request.path_params["number_field"])
    if number is None:
        raise errors.NotFound("this binding has no such number")
    return number, binding


def field_of(binding: Binding, number: Phone) -> str | None:
    """Return the name of the field of the binding that has the number, or None if none has."""
    return next((field for field in NUMBER_FIELDS if _number(binding, field) == number), None)


def _number(binding: Binding, field: str) -> Phone | None:
    number = getattr(binding, field) if field in NUMBER_FIELDS else None
    return Phone(number) if isinstance(number, str) else number


def is_middle_number(number: Phone, bindings: Sequence[Binding]) -> bool:
    """Return whether one of the bindings has it as a middle number: those are shown in full, phones are masked."""
    digits = number.digits
    return any(digits in (binding.middle_number_a, binding.middle_number_b) for binding in bindings)


async def number_filter(context: PageContext, number: Phone) -> dict[str, Any]:
    """Return the number of an export as its manifest has it: a middle number in full, a phone masked."""
    page = await context.run_read(
        lambda service: service.investigation.number_history(number, actor=context.actor_filter)
    )
    if is_middle_number(number, list(page.data)):
        return {"middle_number": number.digits}
    return {"number": str(number)}
