"""The signals that end a process: which are handled, and that the former handling is restored."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from bindings import end_signals

if TYPE_CHECKING:
    from collections.abc import Iterator

ALL = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


@pytest.fixture(autouse=True)
def _default_effect() -> Iterator[None]:
    former = {number: signal.signal(number, signal.SIG_DFL) for number in ALL}
    yield
    for number, handler in former.items():
        signal.signal(number, handler)


def test_hangup_is_handled_unless_the_caller_ignores_it_or_the_system_lacks_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert end_signals.of_running_commands() == ALL
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    assert end_signals.of_running_commands() == ALL[:2]
    assert end_signals.with_default_effect("SIGTERM", "SIGHUP") == ALL[:1]
    monkeypatch.delattr(signal, "SIGHUP")
    assert end_signals.of_running_commands() == ALL[:2]
    assert end_signals.with_default_effect("SIGTERM", "SIGHUP") == ALL[:1]


def test_former_handling_is_restored_if_the_block_raises() -> None:
    def fail(number: int, _frame: object) -> None:
        raise RuntimeError(number)

    with (
        pytest.raises(RuntimeError, match=str(int(signal.SIGHUP))),
        end_signals.handle(end_signals.of_running_commands(), fail),
    ):
        signal.raise_signal(signal.SIGHUP)
    assert [signal.getsignal(number) for number in ALL] == [signal.SIG_DFL] * 3


def test_first_signal_restores_the_former_handling_also_while_it_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A supervisor may end a process in the moment in which it starts."""
    replace = signal.signal

    def replace_and_raise(number: signal.Signals, handler: object) -> None:
        replace(number, handler)  # type: ignore[arg-type]
        if number == signal.SIGHUP:
            monkeypatch.undo()
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(signal, "signal", replace_and_raise)
    with end_signals.handle(end_signals.of_running_commands(), None):
        assert [signal.getsignal(number) for number in ALL] == [signal.SIG_DFL] * 3


def test_signal_that_the_host_program_handles_in_c_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    get = signal.getsignal
    monkeypatch.setattr(signal, "getsignal", lambda number: None if number == signal.SIGTERM else get(number))
    with end_signals.handle(end_signals.of_running_commands(), signal.default_int_handler):
        monkeypatch.undo()
        assert [signal.getsignal(number) == signal.SIG_DFL for number in ALL] == [True, False, False]
    assert [signal.getsignal(number) for number in ALL] == [signal.SIG_DFL] * 3
