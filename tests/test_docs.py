"""The documentation says what is true: links, snippets, commands and tables are held to the code."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import fields
from functools import cache
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest
from sqlalchemy import make_url

from bindings import errors, testing
from bindings.cli import demo
from bindings.cli.root import root
from bindings.domain.binding import EventKind, Mode, State
from bindings.domain.conflict import Policy, conflicts
from bindings.errors import BindingsError
from bindings.jobs.reconcile import FORWARD_SIZE, ReconcileResult
from bindings.jobs.registry import JOBS
from bindings.lifecycle.resolution_times import JITTER, LOOK_PAGES
from bindings.provider.simulator import API_KEY, API_SECRET, FaultKind, Simulator
from bindings.provider.statuses import STATUSES
from bindings.service import BindingService
from bindings.settings import FROM_FILE, PREFIX, Settings
from bindings.store import reserve
from bindings.store.downgrade import OLDEST
from bindings.store.engine import _timeouts as connection_timeouts
from bindings.store.migrations import script_directory
from bindings.store.schema import HEAD, metadata
from bindings.testing import plugin
from bindings.web import problems
from bindings.web.api import openapi
from tests.web.conftest import alone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.web.conftest import Running

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
REFERENCE = ROOT / "docs" / "reference"
LINK = re.compile(r"(?<!!)\[((?:[^\]`]|`[^`]*`)+)\]\(([^)\s]+)\)")
AGAINST_SERVE = re.compile(r"^<!-- runs against serve -->\n```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = re.compile(r"^<!-- (examples/\w+\.py) -->\n```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^(<!-- runs -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NO_DEFAULT = "\N{EN DASH}"
COMMANDS_WITHOUT_OPTIONS = {"make", "pip", "pytest", "python3", "curl", "export", "."}

every_page = pytest.mark.parametrize("page", PAGES, ids=NAMES)


def prose(page: Path) -> str:
    """The page without its code blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path, language: str) -> list[tuple[bool, str]]:
    """The code blocks of a language, and whether each is marked to run."""
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [(bool(match[1]), match[3]) for match in found if match[2] == language]


def rows(page: Path, heading: str | None = None) -> list[list[str]]:
    """The cells of every table row of a page, or of one section of it; without the head rows."""
    text = prose(page)
    if heading is not None:
        text = re.split(rf"^#+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
        text = re.split(r"^#+ ", text, flags=re.MULTILINE)[0]
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines):
        is_head = number + 1 < len(lines) and re.match(r"\|[-|]+\|$", lines[number + 1])
        if line.startswith("|") and not is_head and not re.match(r"\|[-|]+\|$", line):
            found.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return found


def code(cell: str) -> str:
    """The text of a cell that is one piece of code."""
    assert re.fullmatch(r"`[^`]+`", cell), cell
    return cell.strip("`")


# Links.


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made where Markdown is shown."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for _, target in LINK.findall(prose(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{target} is not there"
        assert found.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor:
            assert anchor in anchors(found), f"{target}: no such heading"


@every_page
def test_every_test_that_is_named_as_a_proof_exists(page: Path) -> None:
    for text, target in LINK.findall(prose(page)):
        if text.startswith("test_"):
            source = (page.parent / target).resolve().read_text(encoding="utf-8")
            assert f"def {text}(" in source, f"{text} is not in {target}"


def promises() -> dict[str, list[str]]:
    """The rows of the list of promises, by page."""
    text = (ROOT / "docs" / "maintainers" / "promises.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)\n\n.*\n\|---\|---\|\n((?:\|.*\|\n)+)", text, re.MULTILINE)
    assert len(sections) == text.count("\n## ")
    return {page: rows.splitlines() for page, rows in sections}


def text_of(page: str) -> str:
    """The text of a page, of the help of every command, or of the OpenAPI document; without line breaks."""
    if page == "Help of the command line":
        text = "\n".join(command.help or "" for command in commands().values())
    elif page == "OpenAPI document":
        text = openapi.document_bytes().decode().replace("\\n", " ")
    else:
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return " ".join(text.split())


@pytest.mark.parametrize("page", promises())
def test_every_promise_stands_in_its_page_and_names_a_test(page: str) -> None:
    text = text_of(page)
    for row in promises()[page]:
        match = re.fullmatch(r"\| ([^|]+) \| \[test_.*\) \|", row)
        assert match, f"not a sentence and its tests: {row}"
        assert match[1] in text, f"{page} no longer says: {match[1]}"


def test_each_invariant_is_proved_by_a_test_of_its_number() -> None:
    text = (ROOT / "docs" / "explanation" / "guarantees.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^\*\*(I\d)\. (.*?)(?=^\*\*I\d|^## )", text, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == [f"I{number}" for number in range(1, 9)]
    for number, section in sections.items():
        assert f"[test_{number}_" in section or "assert_sound" in section, number


def test_each_case_of_reliability_that_a_test_names_is_listed() -> None:
    listed = {row[0] for row in rows(ROOT / "docs" / "explanation" / "reliability.md", "What is tested")}
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")]
    named = {number for source in sources for number in re.findall(r"\b(?:test_)?(R[0-9]+)(?=\b|_)", source)}
    assert {"R1"} <= named <= listed


@every_page
def test_every_page_under_docs_can_be_reached_from_its_index(page: Path) -> None:
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / target).resolve() for _, target in LINK.findall(prose(index))}
    if page.is_relative_to(ROOT / "docs") and page != index:
        assert page in linked


def test_every_page_outside_of_the_decisions_can_be_reached_from_the_readme() -> None:
    linked = {(ROOT / target).resolve() for _, target in LINK.findall(prose(ROOT / "README.md"))}
    decisions = ROOT / "docs" / "maintainers" / "decisions"
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs") and page.parent != decisions}
    assert pages <= linked


def test_every_object_of_the_python_reference_exists() -> None:
    text = (REFERENCE / "api.rst").read_text(encoding="utf-8")
    objects = re.findall(r"^\.\. auto(class|module):: (.+)$", text, re.MULTILINE)
    assert len(objects) > 5
    for kind, name in objects:
        module, _, attribute = (name, "", "") if kind == "module" else name.rpartition(".")
        imported = import_module(module)
        assert kind == "module" or isinstance(getattr(imported, attribute), type), name


def test_every_call_of_the_python_table_has_the_arguments_of_its_method() -> None:
    """A row may have a call twice, and further arguments after its calls; an id has a longer name in the code."""
    internal = {"own_only", "binding_id", "binding_ids", "report_id"}
    documented: dict[str, set[str]] = {}
    for row in rows(REFERENCE / "python.md", "Python"):
        last = ""
        for text in re.findall(r"`([^`]+)`", row[0]):
            name, is_call, arguments = text.rstrip(")").partition("(")
            last = name if is_call else last
            listed = re.findall(r"(?:^|, )([\w.]+)", arguments if is_call else text)
            documented[last] = documented.get(last, set()) | set(listed)
    checked = {name: names for name, names in documented.items() if hasattr(BindingService, name)}
    assert len(checked) > 25
    for name, names in checked.items():
        parameters = set(inspect.signature(getattr(BindingService, name)).parameters) - internal - {"self"}
        assert names - {"id", "ids"} in (parameters, {"..."}), name


# What the pages look like.


@every_page
def test_every_page_under_docs_names_its_audience_first(page: Path) -> None:
    if page.is_relative_to(ROOT / "docs"):
        title, blank, reader = page.read_text(encoding="utf-8").splitlines()[:3]
        assert title.startswith("# ")
        assert not blank
        assert reader.startswith("Audience: ")


@every_page
def test_each_thing_has_the_word_of_the_glossary(page: Path) -> None:
    """A version is a state of the code, a release the unbind of an expired binding; it has a lifetime."""
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?i)\b(?:older|newer|newest|old|new|later|previous|two|each|this) releases?\b", text)
    if page.name != "CHANGELOG.md":
        assert not re.findall(r"(?i)\blife\b", text)


def test_every_column_is_on_the_page_of_data_protection_and_no_other() -> None:
    page = (ROOT / "docs" / "explanation" / "data-protection.md").read_text(encoding="utf-8")
    documented = {}
    for heading in re.finditer(r"^### `(\w+)`.*?(?=^### |\Z)", page, re.MULTILINE | re.DOTALL):
        rows = re.findall(r"^\| (`.*?`) \|", heading[0], re.MULTILINE)
        documented[heading[1]] = sorted(re.findall(r"`(\w+)`", " ".join(rows)))
    assert documented == {table.name: sorted(table.columns.keys()) for table in metadata.sorted_tables}


@every_page
def test_no_line_of_prose_is_longer_than_120_characters(page: Path) -> None:
    """Rows of tables and lines without a place to break are as long as they must be."""
    if page.name != "CHANGELOG.md":
        lines = prose(page).splitlines()
        assert not [line for line in lines if len(line) > 120 and " " in line.strip() and line[0] not in "|!"]


@every_page
def test_no_page_names_a_place_on_somebodys_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.findall(r"(?:/home/|/root/|/Users/|/tmp/|/work/)\S*", text)


def test_the_readme_shows_a_working_command_early() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert "make demo" in lines[:25]


def test_the_transcript_in_the_readme_is_the_demos() -> None:
    [(_, transcript)] = blocks(ROOT / "README.md", "text")
    headings = re.findall(r"^\d\. (.*)$", transcript, re.MULTILINE)
    assert headings == [step.heading for step in demo.STEPS]
    assert max(map(len, transcript.splitlines())) <= 80


# Python.


@every_page
def test_every_python_block_compiles(page: Path) -> None:
    for _, source in blocks(page, "python"):
        compile(source, str(page), "exec")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, sqlite_url: str, sqlite_folder: Path) -> Iterator[Simulator]:
    """What the quickstart sets up: a migrated database, the simulator, and the variables; two more accounts."""
    with Simulator() as simulator:
        monkeypatch.setenv("BINDINGS_DATABASE_URL", sqlite_url)
        monkeypatch.setenv("BINDINGS_PROVIDER_URL", simulator.url)
        monkeypatch.setenv("BINDINGS_PROVIDER_API_KEY", API_KEY)
        monkeypatch.setenv("BINDINGS_PROVIDER_API_SECRET", API_SECRET)
        monkeypatch.setenv("BINDINGS_PROVIDER_APP_ID", "4luaKsL2")
        for account in ("INDIA", "BRAZIL"):
            copy = shutil.copy(sqlite_url.removeprefix("sqlite:///"), sqlite_folder / account)
            monkeypatch.setenv(f"{account}_DATABASE_URL", f"sqlite:///{copy}")
            monkeypatch.setenv(f"{account}_SCOPE", account)
        yield simulator


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=str)
def test_every_python_block_that_is_marked_runs(page: Path, environment: Simulator) -> None:
    marked = [source for runs, source in blocks(page, "python") if runs]
    assert marked or EXAMPLE.search(page.read_text()), "a page with Python shows at least one block that is run"
    for source in marked:
        exec(compile(source, str(page), "exec"), {"__name__": "docs"})
    assert environment.counts.decided.get("bind", {}).get("-35", 0) == 0


TESTING = REFERENCE / "testing.md"


def test_every_fixture_is_documented_and_no_other() -> None:
    fixtures = {name for name in vars(plugin) if name.startswith("bindings_")}
    assert {code(row[0]) for row in rows(TESTING, "Fixtures")} == fixtures


@pytest.mark.parametrize(
    "heading", ["Environment", "ManualClock", "JobRun", "WebhookReceiver and WebhookMessage", "HttpService"]
)
def test_every_member_of_the_testing_classes_is_documented_and_no_other(heading: str) -> None:
    documented = {name for row in rows(TESTING, heading) for name in re.findall(r"`(\w+)[(`]", row[0])}
    kind: Any = getattr(testing, heading.partition(" ")[0])
    attributes = re.findall(r"^        self\.([a-z]\w*)(?:: .*)? = ", inspect.getsource(kind), re.MULTILINE)
    assert documented == {*attributes, *(name for name in vars(kind) if not name.startswith("_"))}


def test_each_example_stands_in_a_page_word_for_word() -> None:
    shown = dict(match for page in PAGES for match in EXAMPLE.findall(page.read_text(encoding="utf-8")))
    files = (ROOT / "examples").glob("*.py")
    assert shown == {f"examples/{file.name}": file.read_text(encoding="utf-8") for file in files}


# Commands.


def commands() -> dict[str, click.Command]:
    """Every command by its full name; groups are not commands."""
    return dict(_walk(root, "bindings", click.Context(root, info_name="bindings")))


def _walk(command: click.Command, name: str, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for sub in command.list_commands(context):
        found = command.get_command(context, sub)
        assert found is not None
        yield from _walk(found, f"{name} {sub}", click.Context(found, info_name=sub, parent=context))


def options_of(command: click.Command) -> set[str]:
    """The names of a command's options."""
    return {name for param in command.params if isinstance(param, click.Option) for name in param.opts}


@cache
def documented_commands() -> dict[str, set[str]]:
    """The options that the reference lists, by command."""
    page = REFERENCE / "command-line.md"
    names = re.findall(r"^### `(.*)`$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {name: _documented_options(rows(page, f"`{name}`")) for name in names}


def _documented_options(table: list[list[str]]) -> set[str]:
    return {name for row in table for name in re.findall(r"`(-[-a-z]+)", row[0])}


def test_every_command_is_documented_and_no_other() -> None:
    assert sorted(documented_commands()) == sorted(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_is_documented_and_no_other(name: str) -> None:
    assert documented_commands().get(name) == options_of(commands()[name])


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_sentence_of_the_help_of_a_command_is_in_its_section(name: str) -> None:
    section = prose(REFERENCE / "command-line.md").split(f"### `{name}`\n")[1].split("\n##")[0]
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", " ".join(section.split())).replace("`", "")
    for paragraph in (commands()[name].help or "").replace("`", "").split("\n\n"):
        for sentence in re.split(r"(?<=\.) (?=[A-Z])", " ".join(paragraph.split())):
            assert sentence.rstrip(".") in text, f"the help says: {sentence}"


def typed(page: Path) -> list[list[str]]:
    """Every command line in the shell blocks of a page, and every `bindings ...` in its prose, as words."""
    lines = [
        line for _, block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines() if line.strip()
    ]
    words = [shlex.split(line, comments=True) for line in lines]
    words += [quoted.split() for quoted in re.findall(r"`(bindings [a-z][^`]*)`", prose(page))]
    return [each for each in words if each]


@every_page
def test_every_command_line_that_is_shown_can_be_typed(page: Path) -> None:
    known = commands()
    for words in typed(page):
        if words[0] != "bindings":
            assert words[0] in COMMANDS_WITHOUT_OPTIONS, words
            continue
        plain = [word for word in words[1:3] if re.fullmatch(r"[a-z][a-z-]*", word)]
        names = [" ".join(["bindings", *plain[:count]]) for count in (1, 2)]
        name = next((name for name in names if name in known), None)
        given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"--help", "--version"}
        if name is None:
            is_group = any(each.startswith(f"{names[0]} ") for each in known)
            assert is_group or not plain, f"no such command: {' '.join(words)}"
            assert not given, words
        else:
            assert given <= options_of(known[name]), f"no such option: {' '.join(words)}"


@every_page
def test_every_make_target_that_is_shown_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = page.read_text(encoding="utf-8")
    shown = set(re.findall(r"`make ([a-z-]+)`", text)) | set(re.findall(r"^make ([a-z-]+)$", text, re.MULTILINE))
    assert shown <= targets


# Settings.


def variables() -> set[str]:
    """Every variable that the product reads."""
    return {PREFIX + name.upper() for name in Settings.model_fields}


def files() -> set[str]:
    """The variables that name a file with a secret."""
    return {f"{PREFIX}{name}_FILE" for name in FROM_FILE}


def test_every_setting_is_documented_and_no_other() -> None:
    page = REFERENCE / "settings.md"
    table = {code(row[0]) for row in rows(page) if row[0].startswith(f"`{PREFIX}")}
    assert table == variables()
    assert files() <= set(re.findall(r"`([A-Z_]+_FILE)`", prose(page)))


def test_every_default_is_the_documented_one() -> None:
    told = {code(row[0]): row[1].strip("`") for row in rows(REFERENCE / "settings.md") if row[0].startswith("`B")}
    for variable, value in Settings().effective().items():
        if variable != "BINDINGS_GUARD_S":
            assert told[variable] in (value, value.removesuffix(".0"), value or NO_DEFAULT), variable


@every_page
def test_no_page_names_a_variable_that_does_not_exist(page: Path) -> None:
    named = set(re.findall(r"\bBINDINGS_(?!TEST)[A-Z_]*[A-Z]\b", page.read_text(encoding="utf-8")))
    assert named <= variables() | files()


def test_defaults_of_a_url_with_several_hosts_are_the_documented_ones() -> None:
    text = prose(ROOT / "docs" / "how-to" / "high-availability.md")
    [sentence] = re.findall(r"these are the defaults; the URL may override them: (.*?)\. A host", text, re.DOTALL)
    documented = dict(re.findall(r"`(\w+)=([\w-]+)`", sentence))
    hosts = "postgresql://bindings@/bindings?host=db1:5432&host=db2:5432"
    assert {name: str(value) for name, value in connection_timeouts(make_url(hosts)).items()} == documented
    assert "connect_timeout" not in connection_timeouts(make_url(f"{hosts}&connect_timeout=9"))


# Tables of the reference.


def test_the_table_of_statuses_is_the_codes() -> None:
    table = rows(REFERENCE / "statuses.md")
    assert [(code(row[0]), row[1], row[2]) for row in table] == [
        (status.code, status.meaning, status.effect) for status in STATUSES
    ]


def error_classes() -> set[type[BindingsError]]:
    """Every error that the library can raise."""
    found = {value for value in vars(errors).values() if isinstance(value, type)}
    return {kind for kind in found if issubclass(kind, BindingsError) and kind is not BindingsError}


def test_the_table_of_errors_is_the_codes() -> None:
    table = [row for row in rows(REFERENCE / "errors.md") if len(row) > 6]
    yes = {"yes": True, "no": False}
    told = {code(row[0]): (code(row[1]), int(row[2]), int(row[3]), yes[row[4]], yes[row[5]]) for row in table}
    assert told == {
        kind.__name__: (kind.code, kind.exit_code, kind.http_status, kind.may_have_acted, kind.safe_to_retry)
        for kind in error_classes()
    }


def test_the_table_of_errors_in_the_readme_agrees() -> None:
    table = rows(ROOT / "README.md", "Errors")
    exits = {name: int(row[1]) for row in table for name in re.findall(r"`(\w+)`", row[0])}
    assert exits == {kind.__name__: kind.exit_code for kind in error_classes()}
    by_name = {kind.__name__: kind.http_status for kind in error_classes()}
    for row in table:
        named = {by_name[name] for name in re.findall(r"`(\w+)`", row[0])}
        assert {int(status) for status in row[2].split(", ")} == named, row


def test_every_state_and_what_follows_it_is_documented() -> None:
    told = {code(row[0]): set(re.findall(r"`(\w+)`", row[2])) for row in rows(REFERENCE / "states.md", "States")}
    assert told == {state.value: {each.value for each in state.next_states} for state in State}


def test_every_event_kind_is_documented() -> None:
    told = [code(row[0]) for row in rows(REFERENCE / "states.md", "Events")]
    assert sorted(told) == sorted(kind.value for kind in EventKind)


def test_every_count_of_a_report_is_documented() -> None:
    documented = [code(row[0]) for row in rows(REFERENCE / "reports.md", "Counts")]
    assert set(documented) == {field.name for field in fields(ReconcileResult)} - {"report_id"}
    assert len(documented) == len(set(documented))


def test_every_fault_of_the_simulator_is_documented() -> None:
    page = ROOT / "docs" / "how-to" / "test-with-the-simulator.md"
    told = {code(row[0]): row[2] == "yes" for row in rows(page, "As a separate process")}
    assert told == {kind.value: kind.acts for kind in FaultKind}


def test_upgrade_page_says_of_each_migration_what_is_lost_if_it_is_undone() -> None:
    table = {row[0]: row[1] for row in rows(ROOT / "docs" / "how-to" / "upgrade.md", "Undo migrations")}
    scripts = script_directory().iterate_revisions(HEAD, OLDEST)
    lost = {script.revision: [*script.module.LOSSES] for script in scripts}
    assert list(table) == list(lost)
    for revision, losses in lost.items():
        assert all(loss in table[revision] for loss in losses), revision
        assert table[revision].startswith("nothing") is (losses == []), revision


def test_page_of_modes_says_what_the_conflict_policy_refuses() -> None:
    table = rows(ROOT / "docs" / "how-to" / "choose-a-mode.md", "What a second bind of a phone gets")
    verdicts = {"accepted": False, "refused": True}
    held_by_row = ((Mode.AXB, State.ACTIVE), (Mode.AXXB, State.ACTIVE), (Mode.AXXB, State.IN_DOUBT))
    for (mode, state), (_, *cells) in zip(held_by_row, table, strict=True):
        for cell, asked, same in zip(cells, (Mode.AXB, Mode.AXXB, Mode.AXXB), (False, False, True), strict=True):
            refused = conflicts(Policy.LITERAL, held=mode, state=state, requested=asked, same_pair=same)
            assert verdicts[cell] is refused, (mode, state, asked, same)
            assert conflicts(Policy.STRICT, held=mode, state=state, requested=asked, same_pair=same)


# HTTP.


def test_the_table_of_calls_is_the_documents() -> None:
    table = rows(REFERENCE / "http.md", "Calls")
    told = {tuple(code(row[0]).split(" ")): row for row in table}
    assert set(told) == {(method.upper(), path) for method, path in openapi.operations()}
    for (method, path), operation in openapi.operations().items():
        asked, _, roles = told[method.upper(), path][1:]
        assert (roles == "open") == operation.open, path
        model = operation.body or operation.query
        if model is not None and "the same" not in asked:
            assert set(re.findall(r"`([a-z_]+)`", asked)) == set(model.__struct_fields__), path


def test_the_table_of_problems_is_the_codes() -> None:
    told = {(int(row[0]), code(row[1])) for row in rows(REFERENCE / "http.md", "Problems")}
    known = {value for value in vars(problems).values() if isinstance(value, type)}
    of_http = error_classes() | {kind for kind in known if issubclass(kind, BindingsError)} - {BindingsError}
    elsewhere = {errors.OutcomeUnknown, errors.SchemaOutOfDate}  # the answer 202; readiness tells of it
    assert told == {(kind.http_status, kind.code) for kind in of_http - elsewhere}


@pytest.fixture
def curl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `tests/curl.py` on the path as `curl`."""
    program = tmp_path / "curl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ROOT / "tests" / "curl.py"}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def serving(sqlite_url: str) -> Iterator[Running]:
    """What `bindings serve` would be, on another port."""
    with alone(sqlite_url) as running:
        yield running


@pytest.mark.usefixtures("curl")
@pytest.mark.parametrize("page", [page for page in PAGES if AGAINST_SERVE.search(page.read_text())], ids=str)
def test_every_call_that_is_shown_gets_the_answer_that_it_is_shown_for(
    page: Path, serving: Running, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for language, source in AGAINST_SERVE.findall(page.read_text(encoding="utf-8")):
        if "$KEY" in source and "KEY" not in os.environ:
            monkeypatch.setenv("KEY", serving.key("admin")["Authorization"].removeprefix("Bearer "))
        here = source.replace("http://127.0.0.1:8000", serving.url)
        if language == "python":
            exec(compile(here, str(page), "exec"), {"__name__": "docs"})
        else:
            subprocess.run(["sh", "-ec", here], check=True)
    heard = capfd.readouterr().out
    assert '"data":[' in heard
    assert '"problem' not in heard


# Jobs.


def test_operate_page_lists_every_job_with_its_interval_and_its_command() -> None:
    settings = Settings()
    table = {row[0]: row[1:] for row in rows(ROOT / "docs" / "how-to" / "operate.md", "Jobs")}
    assert list(table) == [*(job.name for job in JOBS), "deliver"]
    for job in JOBS:
        interval, _, command = table[job.name]
        assert f"{job.interval_s(settings):g} s" in interval
        assert command == ("\N{EN DASH}" if job.command is None else f"`bindings {job.command}`")


def test_layers_of_the_architecture_page_are_those_of_the_import_contract() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = project["tool"]["importlinter"]["contracts"][0]
    expected = [set(layer.split(" | ")) for layer in contract["layers"]]
    [(_, text)] = blocks(ROOT / "docs" / "maintainers" / "architecture.md", "text")
    names = [re.split(r" {2,}", line.strip())[0] for line in text.splitlines()]
    assert [set(layer.split(" | ")) for layer in names] == expected


def test_times_of_an_unknown_outcome_follow_from_the_settings() -> None:
    settings = Settings()
    times = [row[2] for row in rows(ROOT / "docs" / "explanation" / "how-it-works.md", "How long can a 202 last?")]
    settled_s = reserve.SEND_WINDOW_S + settings.provider_timeout_s + reserve.SETTLE_MARGIN_S
    look_s = settings.look_interval_s * (1 + JITTER) + LOOK_PAGES / settings.scan_calls_per_s
    scan_s = 1_000_000 / FORWARD_SIZE / settings.scan_calls_per_s
    accepted_s = reserve.SEND_WINDOW_S + settings.timestamp_tolerance_s
    lapses_s = accepted_s + 3_600 + settings.guard_for(3_600)
    expected_s = (settled_s, settled_s + look_s, settings.reconcile_interval_s, scan_s, accepted_s, lapses_s)
    assert times == [f"{ceil(seconds)} s" for seconds in expected_s]
