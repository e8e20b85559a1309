"""Every change of state that the store writes is in the table of transitions (I5)."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bindings.domain.binding import Caller, EventKind, State
from bindings.store import bindings, settle
from bindings.store.bindings import require_transition, transition
from bindings.store.database import Database
from tests.store.test_reserve import kinds, request, reserved, success

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE = Path(bindings.__file__).parent
CALLER = Caller(actor="test")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.mark.parametrize("from_state", State)
@pytest.mark.parametrize("to_state", State)
def test_I5_require_transition_allows_what_the_table_has(from_state: State, to_state: State) -> None:
    if to_state in from_state.next_states:
        require_transition((from_state,), to_state)
    else:
        with pytest.raises(ValueError, match="cannot become"):
            require_transition((from_state,), to_state)


def test_I5_transition_that_the_table_does_not_have_writes_nothing(database: Database) -> None:
    intent = reserved(database, request())
    active = database.write(lambda tx: settle.settle_success(tx, intent, success(), CALLER))
    with pytest.raises(ValueError, match="cannot become pending; nothing was written"):
        database.write(
            lambda tx: transition(
                tx,
                intent.id,
                EventKind.REQUESTED,
                CALLER,
                from_states=(State.ACTIVE,),
                state=State.PENDING,
            )
        )
    assert database.read(bindings.find, intent.id) == active
    assert kinds(database, intent) == [EventKind.REQUESTED, EventKind.ACTIVATED]


def test_I5_every_update_of_a_state_requires_its_transition() -> None:
    """A statement of its own, without `transition`, must call `require_transition` where it is built."""
    unchecked = [
        f"{file.name}: {function.name}"
        for file in sorted(STORE.glob("*.py"))
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(function, ast.FunctionDef)
        and _sets_a_state(function)
        and not _calls(function) & {"transition", "require_transition"}
    ]
    # The first state of an intent; the states of deliveries, which have no table; those of holders in an event.
    assert unchecked == [
        "deliveries.py: pending_row",
        "deliveries.py: _result_columns",
        "deliveries.py: _reset_to_pending",
        "settle.py: settle_in_use",
    ]


def _sets_a_state(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(node, ast.Dict)
        and any(isinstance(key, ast.Constant) and key.value == "state" for key in node.keys)
        for node in ast.walk(function)
    )


def _calls(function: ast.FunctionDef) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(function)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
