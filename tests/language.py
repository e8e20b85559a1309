"""The rule for words, as lists that a program can check, and the checkers.

`PHRASES` must not occur in the texts of the product and its documentation; `IDENTIFIERS` must not be bound as
names in the product. An exception is listed in `ALLOWED_NAMES`, with its reason. A text that passes is not plain
for that reason alone: the lists hold only what can be recognised without understanding.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# What must not be written: a regular expression, and what to write instead. Case does not matter, a space in an
# expression stands for any white space, and an expression matches whole words only.
PHRASES: dict[str, str] = {
    "(who|what)ever": "the client, operator, caller, replica, provider or process; any",
    "(some|no|every|any)body": "the client, operator, caller, replica, provider or process",
    "(some|any|every)one|no one": "the client, operator, caller, replica, provider or process",
    "none where": "None if",
    "of (ours|theirs)": "our binding, their binding",
    "is no (uuid|phone|name)": "is not a UUID",
    "the (wish|yes)|a yes": "the unbind request, the success",
    "the (errand|story|fable)": "the job, the history, the lifecycle",
    "in earnest": "not as a dry run",
    "for ever": "permanently, without a time limit",
    "at bottom": "leave it out",
    "came of (it|them)": "the result",
    "comes? to nothing": "has no effect, fails",
    "calls? nobody": "calls no provider",
    "told": "returned, reported, recorded",
}

# What must not be the name of a variable, parameter, function, class, attribute or import, with or without
# underscores around it and in any case: participles and verbs, pronouns, adverbs; none says what the value is.
IDENTIFIERS: frozenset[str] = frozenset(
    """
    asked began been being came doing done found given gone heard kept known left_over lost made meant met owed
    said seen shown taken told wanted went wish wished
    each he it mine one others ours she some such theirs them they what who whose
    again beside here now_and_then once rest there where why
    """.split()  # noqa: SIM905 -- read as a list of words
)

# Where such a name is right: module and qualified name, and the reason.
ALLOWED_NAMES: dict[tuple[str, str], str] = {
    ("domain/binding.py", "Holder.why"): "a public field of Holder, in the Python and the HTTP interface",
    ("domain/binding.py", "Reason.ASKED"): "a stored reason, shown in the Python and the HTTP interface",
    ("domain/hold.py", "PhoneHold.why"): "the same field as Holder.why",
    ("store/holds.py", "Hold.why"): "the column holds.why",
    ("store/holds.py", "_NewHold.why"): "the column holds.why",
    ("monitoring/check.py", "Check.seen"): "a field of the JSON of /readyz and of `doctor --json`",
    ("service.py", "BindingService.reveal.what"): "a public argument",
    ("service.py", "BindingService.some"): "the deprecated alias of get_many",
}


# Where such a phrase must stay: file and text, and the reason.
ALLOWED_PHRASES: dict[tuple[str, str], str] = {
    ("bindings/store/queries.py", "of ours"): "a key of the public counts of `stats`: AXB met nothing of ours",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One violation: its line in the text, what stands there, and what to write instead."""

    line: int
    text: str
    instead: str

    def __str__(self) -> str:
        return f"{self.line}: {self.text!r}: write {self.instead}"


_PHRASES = [
    (re.compile(rf"\b(?:{phrase})\b".replace(" ", r"\s+"), re.IGNORECASE), instead)
    for phrase, instead in PHRASES.items()
]


def banned_phrases(text: str, *, file: str = "") -> list[Finding]:
    """Return every banned phrase of a text, in the order of the list; `file` is its path in the repository."""
    return [
        Finding(line=text.count("\n", 0, match.start()) + 1, text=match[0], instead=instead)
        for expression, instead in _PHRASES
        for match in expression.finditer(text)
        if (file, match[0].lower()) not in ALLOWED_PHRASES
    ]


def banned_names(source: str, *, module: str = "") -> list[Finding]:
    """Return the banned names that a module binds; `module` is its path in the package."""
    return [
        Finding(line=line, text=name, instead="a noun or a verb of the domain")
        for name, line in bound_names(ast.parse(source))
        if name.rpartition(".")[2].strip("_").lower() in IDENTIFIERS and (module, name) not in ALLOWED_NAMES
    ]


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the qualified name and the line of everything that a module binds, wherever it does."""
    yield from _bound_names(tree, "")


def _bound_names(node: ast.AST, prefix: str) -> Iterator[tuple[str, int]]:
    for inner in ast.iter_child_nodes(node):
        inner_prefix = prefix
        for name in _names(inner):
            yield prefix + name, getattr(inner, "lineno", 0)
        if isinstance(inner, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            inner_prefix = f"{prefix}{inner.name}."
        yield from _bound_names(inner, inner_prefix)


def _names(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.arg(arg=name) | ast.Attribute(attr=name, ctx=ast.Store()):
            return [name]
        case ast.Name(id=name, ctx=ast.Store()):  # assignments, loops, `with`, comprehensions, `:=`
            return [name]
        case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
            return [name]
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            return [name]
        case _:
            return []
