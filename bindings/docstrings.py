"""Docstrings that are shown to users, such as the help of a command: `python -OO` removes them from the code."""

from __future__ import annotations

import ast
import inspect
import sys
from contextlib import suppress
from textwrap import dedent
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

ARE_REMOVED = sys.flags.optimize >= 2  # noqa: PLR2004 -- as with -OO


def of(item: type | Callable[..., Any]) -> str | None:
    """Return the docstring of a class or function, from its source file if need be; None if it has none."""
    if not ARE_REMOVED:
        return inspect.getdoc(item)
    with suppress(OSError, SyntaxError):  # there is no source
        definition = ast.parse(dedent(inspect.getsource(inspect.unwrap(item)))).body[0]
        if isinstance(definition, ast.ClassDef | ast.FunctionDef):
            return ast.get_docstring(definition)
    return None
