"""Edits of one named function, method or constant, made on its syntax tree.

A target is written as entry points are: `package.module:Class.method`. An edit names what it changes by the names
of the domain (the function that is called, the value that is compared), never by position or source text. It must
match exactly once: `edit_source` raises `EditMisfitError` if the target does not exist, if the edit matches
nothing or more than one node, or if the new code reads a name that is bound nowhere. Which bugs are seeded is in
`mutations`.
"""

from __future__ import annotations

import ast
import builtins
import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Matcher = Callable[[ast.AST], bool]
    Replacement = Callable[[Any], ast.AST | list[ast.stmt] | None]  # of the node that matches
    Edit = Callable[["Target"], None]


class EditMisfitError(AssertionError):
    """Raised if an edit does not fit the code any more: something that it names was renamed, moved or removed."""


class Target:
    """The definition that edits change, in the tree of its module."""

    def __init__(self, tree: ast.Module, name: str) -> None:
        self.name = name
        self.node = _definition(tree, name)
        self._module = tree

    @property
    def function(self) -> ast.FunctionDef:
        """Return the definition as a function; raises `EditMisfitError` if it is not one."""
        if not isinstance(self.node, ast.FunctionDef):
            raise EditMisfitError(f"{self.name} is not a function")
        return self.node

    def expression(self, source: str) -> ast.expr:
        """Parse an expression that reads only names which are bound in the target or its module."""
        expression = ast.parse(source, mode="eval").body
        self._check_names(expression)
        return expression

    def statements(self, source: str) -> list[ast.stmt]:
        """Parse statements that read only names which are bound in the target or its module."""
        statements = ast.parse(source).body
        for statement in statements:
            self._check_names(statement)
        return statements

    def rewrite(self, matches: Matcher, replacement: Replacement) -> None:
        """Replace the one node that matches; None removes it from the list that contains it."""
        rewriter = _Rewriter(matches, replacement)
        rewriter.visit(self.node)
        if rewriter.count != 1:
            raise EditMisfitError(f"{self.name}: the edit matches {rewriter.count} times instead of once")

    def _check_names(self, code: ast.AST) -> None:
        bound = {*dir(builtins), *_module_names(self._module), *_local_names(self.node)}
        for node in ast.walk(code):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in bound:
                raise EditMisfitError(f"{self.name}: {node.id} is bound neither there nor in the module")


class _Rewriter(ast.NodeTransformer):
    def __init__(self, matches: Matcher, replacement: Replacement) -> None:
        self._matches = matches
        self._replacement = replacement
        self.count = 0

    def visit(self, node: ast.AST) -> Any:
        if not self._matches(node):
            return self.generic_visit(node)
        self.count += 1
        return self._replacement(node)


def edit_source(source: str, target: str, edits: Iterable[Edit]) -> str:
    """Return the module's source with every edit applied to `target` (`package.module:name`)."""
    tree = ast.parse(source)
    definition = Target(tree, target)
    before = ast.dump(definition.node)
    for edit in edits:
        edit(definition)
    if ast.dump(definition.node) == before:
        raise EditMisfitError(f"{target}: the edit changes nothing")
    return ast.unparse(ast.fix_missing_locations(tree))


# What an edit looks for.


def calls(name: str, **keywords: str) -> Matcher:
    """Match a call of a function or method of this name, with these keyword arguments (as source)."""

    def matches(node: ast.AST) -> bool:
        if not isinstance(node, ast.Call) or _last_name(node.func) != name:
            return False
        passed = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        return all(passed.get(keyword) == value for keyword, value in keywords.items())

    return matches


def compares(name: str, operator: type[ast.cmpop] = ast.cmpop) -> Matcher:
    """Match a comparison, with this operator, in which a variable or an attribute of this name takes part."""
    return lambda node: (
        isinstance(node, ast.Compare)
        and isinstance(node.ops[0], operator)
        and any(_last_name(part) == name for part in ast.walk(node))
    )


def reads(name: str) -> Matcher:
    """Match the attribute of this name where it is read."""
    return lambda node: isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)


def literal(value: str | bool) -> Matcher:
    """Match a literal: a string, True or False."""
    return lambda node: isinstance(node, ast.Constant) and node.value == value


# What an edit does.


def assign_parameter(name: str, value: str) -> Edit:
    """Ignore what is passed for a parameter: the function's first statement assigns `value` to it."""

    def edit(target: Target) -> None:
        arguments = target.function.args
        names = {argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        if name not in names:
            raise EditMisfitError(f"{target.name} has no parameter {name}")
        target.function.body.insert(0, ast.Assign([ast.Name(name, ast.Store())], target.expression(value)))

    return edit


def replace_body(source: str) -> Edit:
    """Replace the whole body of a function."""

    def edit(target: Target) -> None:
        target.function.body = target.statements(source)

    return edit


def replace(matches: Matcher, source: str) -> Edit:
    """Replace what matches by an expression."""
    return lambda target: target.rewrite(matches, lambda _: target.expression(source))


def replace_by_argument(function: str) -> Edit:
    """Replace a call of `function` by its first argument."""

    def argument(node: Any) -> Any:
        return node.args[0]

    return lambda target: target.rewrite(calls(function), argument)


def replace_by_receiver(method: str) -> Edit:
    """Replace a call of `method` by the object that it is called on."""

    def receiver(node: Any) -> Any:
        return node.func.value

    return lambda target: target.rewrite(calls(method), receiver)


def rename_call(function: str, other: str) -> Edit:
    """Call `other`, of the same object and with the same arguments, instead of `function`."""

    def renamed(node: Any) -> Any:
        node.func.attr = other
        return node

    return lambda target: target.rewrite(calls(function), renamed)


def remove(matches: Matcher) -> Edit:
    """Remove what matches from the tuple, the list or the arguments that contain it."""
    return lambda target: target.rewrite(matches, lambda _: None)


def add_keyword(matches: Matcher, name: str, value: str) -> Edit:
    """Pass one more keyword argument in the call that matches."""

    def edit(target: Target) -> None:
        def extended(node: Any) -> Any:
            if any(keyword.arg == name for keyword in node.keywords):
                raise EditMisfitError(f"{target.name}: the call passes {name} already")
            node.keywords.append(ast.keyword(name, target.expression(value)))
            return node

        target.rewrite(matches, extended)

    return edit


def insert_before(matches: Matcher, source: str) -> Edit:
    """Insert statements before the one that contains what matches."""
    return lambda target: target.rewrite(_statement(matches), lambda node: [*target.statements(source), node])


def repeat_if(matches: Matcher, condition: str) -> Edit:
    """Run the assignment that contains what matches again if `condition`, of its `{result}`, holds after it."""

    def edit(target: Target) -> None:
        def repeated(node: Any) -> list[ast.stmt]:
            test = target.expression(condition.format(result=ast.unparse(node.targets[0])))
            return [node, ast.If(test, [copy.deepcopy(node)], [])]

        target.rewrite(_statement(matches), repeated)

    return edit


def move_before(matches: Matcher, anchor: Matcher) -> Edit:
    """Move the statement that contains what matches before the one that contains `anchor`."""

    def edit(target: Target) -> None:
        moved: list[ast.stmt] = []

        def take(node: Any) -> None:
            moved.append(node)

        target.rewrite(_statement(matches), take)
        target.rewrite(_statement(anchor), lambda node: [*moved, node])

    return edit


# Trees.


def _definition(tree: ast.Module, target: str) -> ast.stmt:
    node: ast.AST = tree
    _, _, qualified_name = target.partition(":")
    for name in qualified_name.split("."):
        definitions = [inner for inner in ast.iter_child_nodes(node) if name in _defined_names(inner)]
        if len(definitions) != 1:
            raise EditMisfitError(f"{target}: {name} is defined {len(definitions)} times instead of once")
        node = definitions[0]
    assert isinstance(node, ast.stmt)
    return node


def _defined_names(node: ast.AST) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Assign(targets=targets):
            return {target.id for target in targets if isinstance(target, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name)):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {(alias.asname or alias.name).partition(".")[0] for alias in aliases}
        case _:
            return set()


def _module_names(tree: ast.Module) -> set[str]:
    """Return the names that exist at run time: what TYPE_CHECKING imports is not among them."""
    return {name for node in tree.body for name in _defined_names(node)}


def _local_names(node: ast.AST) -> set[str]:
    inner = list(ast.walk(node))
    arguments = {part.arg for part in inner if isinstance(part, ast.arg)}
    return arguments | {
        part.id for part in inner if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    }


def _last_name(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return None


def _statement(matches: Matcher) -> Matcher:
    """Match the innermost statement that contains what matches."""
    return lambda node: isinstance(node, ast.stmt) and any(map(matches, _own_nodes(node)))


def _own_nodes(statement: ast.stmt) -> Iterator[ast.AST]:
    """Yield the nodes of a statement without those of the statements inside it."""
    waiting: list[ast.AST] = [statement]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += [inner for inner in ast.iter_child_nodes(node) if not isinstance(inner, ast.stmt)]
