"""Rules of the design, and of its language, that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import language
from tests.faults import ast_edits, mutations

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bindings"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("opentelemetry", "sqlalchemy", "requests", "apscheduler", "pydantic", "alembic", "psycopg")
WIRE_NAMES = (
    r"phoneA|phoneB|poolNumber|expireS|bizType|bindId|pnsNumber[AB]?|expireTime|queryBindPage|maxConcurrency|appId"
)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


# Imports.


def test_import_contracts_hold() -> None:
    lint = str(Path(sys.executable).with_name("lint-imports"))
    result = _run(lint, "--no-cache")
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_module_of_the_root_is_in_exactly_one_layer() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["type"] == "layers")
    layers = [module.strip() for layer in contract["layers"] for module in re.split(r"[|:]", layer)]
    ignored = contract["exhaustive_ignores"]
    root = {
        path.name.removesuffix(".py")
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert sorted(layers + ignored) == sorted(root - {"__init__"})
    assert contract["exhaustive"], "lint-imports itself must refuse a module that is in no layer"


@pytest.mark.parametrize("module", ["bindings", "bindings.cli", "bindings.testing.plugin"])
def test_importing_a_module_of_every_start_loads_no_heavy_library(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    result = _run(sys.executable, "-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, "[]"), result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["bind", "--help"]])
def test_help_of_the_command_line_loads_no_heavy_library(arguments: list[str]) -> None:
    code = (
        "import atexit, sys\n"
        "from bindings.cli import main\n"
        f"atexit.register(lambda: print([n for n in {HEAVY!r} if n in sys.modules], file=sys.stderr))\n"
        f"sys.argv = ['bindings', *{arguments!r}]\n"
        "main()\n"
    )
    result = _run(sys.executable, "-c", code)
    assert (result.returncode, result.stderr.strip()) == (0, "[]"), result.stdout


def test_importing_reads_no_environment_and_connects_to_nothing() -> None:
    code = (
        "import os, socket\n"
        "os.environ['BINDINGS_GARD_S'] = 'x'\n"
        "def refuse(*_): raise SystemExit('connected at import')\n"
        "socket.socket.connect = refuse\n"
        "import bindings.service, bindings.scheduler, bindings.monitoring.health, bindings.cli\n"
    )
    result = _run(sys.executable, "-c", code)
    assert result.returncode == 0, result.stdout + result.stderr


# Where things are written.


def test_no_note_to_self_lands() -> None:
    note = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    files = [*MODULES, *(ROOT / "migrations").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if note.search(path.read_text())] == []


def _texts(path: Path) -> list[str]:
    """Return the string constants of a module without its docstrings."""
    tree = ast.parse(path.read_text())
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]


def _modules_with_text(expression: str) -> set[str]:
    """Return the modules that contain a string constant which is matched as a whole."""
    whole = re.compile(expression)
    return {str(path.relative_to(PACKAGE)) for path in MODULES if any(map(whole.fullmatch, _texts(path)))}


def test_field_names_of_the_provider_s_api_are_in_one_module() -> None:
    """Prose may contain such a name; a key of that name may not be in another module."""
    assert _modules_with_text(WIRE_NAMES) == {"provider/wire.py"}


def test_status_codes_of_the_provider_are_in_one_module() -> None:
    assert _modules_with_text(r"-(1|2|16|18|22|24|29|30|31|35|41)") == {"provider/statuses.py"}


def _public_without_docstring(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    missing = [] if ast.get_docstring(tree) else [str(path.relative_to(ROOT))]

    def visit(node: ast.AST, prefix: str) -> None:
        for inner in ast.iter_child_nodes(node):
            if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            if inner.name.startswith("_"):
                continue
            if not ast.get_docstring(inner):
                missing.append(f"{prefix}.{inner.name}")
            if isinstance(inner, ast.ClassDef):
                visit(inner, f"{prefix}.{inner.name}")

    visit(tree, path.stem)
    return missing


def test_every_public_name_has_a_docstring() -> None:
    assert [name for path in MODULES for name in _public_without_docstring(path)] == []


def test_docstring_of_a_function_begins_with_a_verb() -> None:
    others = {"A", "An", "How", "If", "No", "None", "The", "True", "False", "What", "When", "Whether", "Why"}
    firsts = {
        f"{path.relative_to(ROOT)}: {node.name}": (ast.get_docstring(node) or "").partition(" ")[0]
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert [name for name, first in firsts.items() if first in others] == []


def test_locked_requirements_name_no_index_and_hash_every_package() -> None:
    files = list((ROOT / "requirements").glob("*.txt"))
    assert files
    for file in files:
        text = file.read_text()
        assert not re.search(r"https?://|index-url|find-links", text)
        pinned = re.findall(r"^[A-Za-z0-9][^\n]*==", text, re.MULTILINE)
        assert pinned
        assert text.count("--hash=sha256:") >= len(pinned)


def test_sql_is_written_in_the_store_only() -> None:
    sql = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b")
    packages = {path.relative_to(PACKAGE).parts[0] for path in MODULES if any(map(sql.search, _texts(path)))}
    assert packages <= {"store"}


def test_public_names_of_the_package_are_few_and_importable() -> None:
    import bindings

    assert 8 <= len(bindings.__all__) <= 20
    assert set(bindings.__all__) <= set(dir(bindings))
    assert all(getattr(bindings, name) is not None for name in bindings.__all__)
    with pytest.raises(AttributeError):
        _ = bindings.not_a_public_name


# The seeded bugs of tests/faults/mutations.py.


@pytest.mark.parametrize("bug", mutations.BUGS, ids=lambda bug: bug.name)
def test_seeded_bug_fits_the_code(bug: mutations.Bug) -> None:
    mutant = bug.seeded((ROOT / bug.file).read_text(encoding="utf-8"))
    compile(mutant, bug.file, "exec")


SAMPLE = """
LIMIT = 3

def check(value, limit):
    if value.size > limit:
        return refuse(value, reason="size")
    return None
"""


@pytest.mark.parametrize(
    ("target", "edit"),
    [
        ("sample:missing", ast_edits.replace_body("return None")),
        ("sample:check.missing", ast_edits.replace_body("return None")),
        ("sample:LIMIT", ast_edits.replace_body("return None")),
        ("sample:check", ast_edits.assign_parameter("missing", "None")),
        ("sample:check", ast_edits.replace(ast_edits.compares("missing"), "True")),
        ("sample:check", ast_edits.replace(ast_edits.compares("size"), "missing > LIMIT")),
        ("sample:check", ast_edits.remove(ast_edits.calls("refuse", reason="'other'"))),
        ("sample:check", ast_edits.add_keyword(ast_edits.calls("refuse"), "reason", "None")),
        ("sample:check", ast_edits.replace(lambda node: isinstance(node, ast.Return), "None")),
        ("sample:check", ast_edits.replace(ast_edits.compares("size"), "value.size > limit")),
    ],
)
def test_edit_that_does_not_fit_is_refused(target: str, edit: ast_edits.Edit) -> None:
    with pytest.raises(ast_edits.EditMisfitError):
        ast_edits.edit_source(SAMPLE, target, [edit])


def test_edit_that_fits_changes_the_named_function_only() -> None:
    mutant = ast_edits.edit_source(
        SAMPLE, "sample:check", [ast_edits.replace(ast_edits.compares("size"), "LIMIT")]
    )
    assert mutant == ast.unparse(ast.parse(SAMPLE.replace("value.size > limit", "LIMIT")))


# Language: tests/language.py has the lists.

THIRD_PARTY = PACKAGE / "web" / "docs" / "static"  # Swagger UI
TEXTS = sorted(
    path
    for path in (
        *PACKAGE.rglob("*"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    )
    if path.suffix in {".py", ".html", ".js", ".md"} and path.is_file() and THIRD_PARTY not in path.parents
)


@pytest.mark.parametrize("path", TEXTS, ids=[str(path.relative_to(ROOT)) for path in TEXTS])
def test_no_text_installs_by_the_name_of_another_project_on_an_index(path: Path) -> None:
    by_name = re.compile(r"(?<!pns-)bindings\[[a-z,]+\]|(pip|uv) (install|add) ['\"]?bindings")
    assert by_name.findall(path.read_text(encoding="utf-8")) == []


def _lines(findings: list[language.Finding], place: str) -> list[str]:
    return [f"{place}:{finding}" for finding in findings]


@pytest.mark.parametrize("path", TEXTS, ids=[str(path.relative_to(ROOT)) for path in TEXTS])
def test_texts_contain_no_banned_phrase(path: Path) -> None:
    file = path.relative_to(ROOT).as_posix()
    findings = language.banned_phrases(path.read_text(encoding="utf-8"), file=file)
    assert _lines(findings, file) == []


def _strings(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string of a JSON document with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _strings(inner, f"{place}/{key}")


def test_openapi_document_contains_no_banned_phrase() -> None:
    from bindings.web.api import openapi

    texts = list(_strings(openapi.document()))
    assert len(texts) > 100
    assert [line for place, text in texts for line in _lines(language.banned_phrases(text), place)] == []


@pytest.mark.parametrize("path", MODULES, ids=[str(path.relative_to(ROOT)) for path in MODULES])
def test_modules_bind_no_banned_name(path: Path) -> None:
    findings = language.banned_names(path.read_text(encoding="utf-8"), module=path.relative_to(PACKAGE).as_posix())
    assert _lines(findings, str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(("file", "phrase"), language.ALLOWED_PHRASES)
def test_exception_from_the_banned_phrases_is_still_needed(file: str, phrase: str) -> None:
    assert phrase in (ROOT / file).read_text(encoding="utf-8").lower()


@pytest.mark.parametrize(("module", "name"), language.ALLOWED_NAMES)
def test_exception_from_the_banned_names_is_still_needed(module: str, name: str) -> None:
    names = {bound for bound, _ in language.bound_names(ast.parse((PACKAGE / module).read_text(encoding="utf-8")))}
    assert name in names


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Whoever asks", "Whoever"),
        ("there is no\none there", "no\none"),
        ("Return the key, None where there is none.", "None where"),
        ("A binding of ours", "of ours"),
        ("What a yes comes to", "a yes"),
        ("it is Told", "Told"),
        ("kept for ever", "for ever"),
        ("somebody's phone", "somebody"),
    ],
)
def test_banned_phrase_is_reported(text: str, found: str) -> None:
    assert [finding.text for finding in language.banned_phrases(text)] == [found]


def test_plain_text_contains_no_banned_phrase() -> None:
    text = "Return the key, or None if it is unknown; the caller retries the request. Yes, whoever_ is a name."
    assert language.banned_phrases(text) == []


@pytest.mark.parametrize(
    "source",
    [
        "found = 1",
        "found: int = 1",
        "_TOLD = ()",
        "class Some: pass",
        "def why(): pass",
        "async def given(): pass",
        "def f(asked): pass",
        "f = lambda found: found",
        "def f(*, one=1, **others): pass",
        "for each in (): pass",
        "[seen for seen in ()]",
        "with f() as made: pass",
        "try: pass\nexcept ValueError as gone: pass",
        "import json as known",
        "from json import loads as said",
        "match 1:\n  case [*rest]: pass",
        "match 1:\n  case {'a': 1, **rest}: pass",
        "match 1:\n  case int() as one: pass",
        "match 1:\n  case C(x=what): pass",
        "self.wanted = 1",
        "if (found := 1): pass",
        "class C:\n  def m(self):\n    told = 1",
    ],
)
def test_banned_name_is_reported(source: str) -> None:
    assert len(language.banned_names(source)) == 1 + source.count("**others")


def test_names_of_the_domain_and_allowed_exceptions_are_not_reported() -> None:
    assert language.banned_names("row, bindings, foundation = f(found=1, given=found)") == []
    holder = "class Holder:\n    why: str"
    assert language.banned_names(holder, module="domain/binding.py") == []
    assert len(language.banned_names(holder, module="domain/other.py")) == 1
