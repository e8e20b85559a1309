"""Rules of the design that a program can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import mutations

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bindings"
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("sqlalchemy", "requests", "apscheduler", "pydantic", "alembic", "psycopg", "phonenumbers")
WIRE_NAMES = (
    r"phoneA|phoneB|poolNumber|expireS|bizType|bindId|pnsNumber[AB]?|expireTime|queryBindPage|maxConcurrency|appId"
)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_the_layers_import_only_downwards() -> None:
    lint = str(Path(sys.executable).with_name("lint-imports"))
    done = _run(lint, "--no-cache")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["bindings", "bindings.cli"])
def test_importing_the_package_or_its_command_line_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = _run(sys.executable, "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_importing_reads_no_environment_and_connects_to_nothing() -> None:
    code = (
        "import os, socket\n"
        "os.environ['BINDINGS_GARD_S'] = 'x'\n"
        "def refuse(*_): raise SystemExit('connected at import')\n"
        "socket.socket.connect = refuse\n"
        "import bindings.service, bindings.scheduler, bindings.monitoring.health, bindings.cli\n"
    )
    done = _run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_note_to_self_lands() -> None:
    sign = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    files = [*MODULES, *(ROOT / "migrations").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
    assert [str(path.relative_to(ROOT)) for path in files if sign.search(path.read_text())] == []


def _texts(path: Path) -> list[str]:
    """The string constants of a module that are no docstrings."""
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


def test_the_wire_s_field_names_live_in_one_module() -> None:
    """Prose may speak of a bindId; a key of that name may not stand elsewhere."""
    name = re.compile(WIRE_NAMES)
    homes = {
        str(path.relative_to(PACKAGE)) for path in MODULES if any(name.fullmatch(text) for text in _texts(path))
    }
    assert homes == {"provider/wire.py"}


def test_the_provider_s_status_codes_live_in_one_module() -> None:
    code = re.compile(r"-(1|2|16|18|22|24|29|30|31|35|41)")
    homes = {
        str(path.relative_to(PACKAGE)) for path in MODULES if any(code.fullmatch(text) for text in _texts(path))
    }
    assert homes == {"provider/statuses.py"}


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


def test_every_public_thing_has_a_docstring() -> None:
    assert [name for path in MODULES for name in _public_without_docstring(path)] == []


def test_the_locked_requirements_name_no_index_and_hash_every_package() -> None:
    files = list((ROOT / "requirements").glob("*.txt"))
    assert files
    for file in files:
        text = file.read_text()
        assert not re.search(r"https?://|index-url|find-links", text)
        pinned = re.findall(r"^[A-Za-z0-9][^\n]*==", text, re.MULTILINE)
        assert pinned
        assert text.count("--hash=sha256:") >= len(pinned)


def test_sql_is_spoken_in_the_store_only() -> None:
    sql = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM)\b")
    speaking = {path.relative_to(PACKAGE).parts[0] for path in MODULES if any(map(sql.search, _texts(path)))}
    assert speaking <= {"store"}


def test_the_public_names_are_few_and_all_there() -> None:
    import bindings

    assert 8 <= len(bindings.__all__) <= 12
    assert all(getattr(bindings, name) is not None for name in bindings.__all__)
    with pytest.raises(AttributeError):
        _ = bindings.nothing_of_this_name


def test_every_seeded_bug_still_fits_the_code() -> None:
    texts: dict[str, str] = {}
    for bug in mutations.BUGS:
        for change in bug.changes:
            text = texts.setdefault(change.file, (mutations.ROOT / change.file).read_text(encoding="utf-8"))
            assert text.count(change.old) == 1, f"{bug.name}: {change.file} has outgrown it"
