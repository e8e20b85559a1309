"""Libraries that an extra of the distribution installs: the error if one of them is missing."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from bindings.distribution import install_hint
from bindings.errors import FieldError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def require_extra(extra: str, *, field: str | None = None) -> Iterator[None]:
    """Raise `InvalidRequest` that says how to install the extra if the block imports a library that is missing.

    `field` is the argument or the setting that needs it; None: the extra itself.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        library = (missing.name or "").partition(".")[0]
        if library == "bindings":
            raise
        hint = f"({library} is missing): {install_hint(extra)}"
        if field is None:
            error = FieldError(f"the extra `{extra}`", f"is not installed {hint}")
        else:
            error = FieldError(field, f"needs the extra `{extra}`, which is not installed {hint}")
        raise InvalidRequest([error]) from None
