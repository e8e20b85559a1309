"""A service that was opened before a fork: parent and children get right answers, and what cannot go on says so.

As gunicorn with --preload, Celery and multiprocessing do it: the service is made first, then workers are forked.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import func, select

from bindings.domain.binding import Caller, EventKind, State
from bindings.service import BindingService
from bindings.store import events, fork_gate
from bindings.store.database import Database
from bindings.store.schema import events as events_table
from tests.forking import ChildResult, fork_child, run_in_child
from tests.service.harness import POOL, account_settings, account_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bindings.domain.binding import Binding
    from bindings.provider.simulator import Simulator
    from bindings.store.database import Transaction

pytestmark = [
    pytest.mark.usefixtures("database_kind"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

PAIRS = 4
CALLER = Caller(actor="test")


def phones(number: int) -> tuple[str, str]:
    return f"91880600{number:02}", f"91880601{number:02}"


def open_service(database_url: str, simulator: Simulator, *, connect: bool = True) -> BindingService:
    return BindingService.open(
        connect=connect,
        database_url=database_url,
        **account_settings(simulator.url),
    )


def bind(service: BindingService, number: int, *, reference: str | None = None) -> Binding:
    phone_a, phone_b = phones(number)
    return service.bind(
        phone_a=phone_a, phone_b=phone_b, pool_number=POOL, expire_s=3_600, mode="AXB", reference=reference
    )


def bind_pairs(service: BindingService) -> None:
    for number in range(PAIRS):
        bind(service, number, reference=f"order {number}")


def wrong_answers(service: BindingService, number: int, times: int) -> list[object]:
    """Look up one pair `times` times and return every answer that is about another one."""
    answers = ([b.reference for b in service.lookup(phone=phones(number)[0])] for _ in range(times))
    return [answer for answer in answers if answer != [f"order {number}"]]


@contextmanager
def repeating(*works: Callable[[], object]) -> Iterator[list[object]]:
    """Repeat each work in a thread meanwhile; provide what they returned or raised, if it is not None."""
    stop, results = threading.Event(), list[object]()

    def repeat(work: Callable[[], object]) -> None:
        while not stop.is_set():
            try:
                result = work()
            except Exception as error:  # noqa: BLE001 -- the test shows it
                results.append(error)
                return
            if result is not None:
                results.append(result)

    threads = [threading.Thread(target=repeat, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield results
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)


def test_parent_and_children_under_load_get_answers_about_their_own_phones(service: BindingService) -> None:
    bind_pairs(service)
    with repeating(*[lambda: wrong_answers(service, 0, 1) or None] * 3) as wrong:
        children = [
            fork_child(lambda number=number: wrong_answers(service, number, 100))  # type: ignore[misc]
            for number in range(PAIRS)
        ]
        results = [wait() for wait in children]
    assert [(result.error, result.message, result.value) for result in results] == [(None, "", [])] * PAIRS
    assert wrong == []


def test_children_bind_while_threads_of_the_parent_write(service: BindingService) -> None:
    def bind_and_unbind(number: int) -> None:
        service.unbind(bind(service, number).id)

    with repeating(lambda: bind_and_unbind(20), lambda: bind_and_unbind(21)) as raised:
        children = [fork_child(lambda number=number: bind(service, number).state) for number in range(PAIRS)]  # type: ignore[misc]
        results = [wait() for wait in children]
    assert [(result.value, result.message) for result in results] == [(State.ACTIVE, "")] * PAIRS
    assert raised == []
    assert [service.lookup(phone=phones(number)[0])[0].state for number in range(PAIRS)] == [State.ACTIVE] * PAIRS


def test_child_of_a_child_and_its_siblings_bind(service: BindingService) -> None:
    bind(service, 0)

    def fork_again() -> list[object]:
        own = bind(service, 1).state
        return [own, run_in_child(lambda: bind(service, 2).state).value, bind(service, 3).state]

    assert run_in_child(fork_again).value == [State.ACTIVE] * 3
    assert bind(service, 4).state is State.ACTIVE


def test_service_that_connects_at_its_first_call_connects_in_each_process(
    database_url: str, simulator: Simulator
) -> None:
    with open_service(database_url, simulator, connect=False) as service:
        assert run_in_child(lambda: bind(service, 0).state).value is State.ACTIVE
        assert bind(service, 1).state is State.ACTIVE


_pool_service: list[BindingService] = []


def _look_up(number: int) -> list[object]:
    return wrong_answers(_pool_service[0], number % PAIRS, 20)


def test_multiprocessing_pool_of_forked_workers_gets_right_answers(service: BindingService) -> None:
    bind_pairs(service)
    _pool_service[:] = [service]
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert pool.map_async(_look_up, range(12)).get(60) == [[]] * 12
        assert wrong_answers(service, 0, 20) == []


def test_forked_workers_of_one_listening_socket_answer_about_the_phone_that_was_asked(
    service: BindingService,
) -> None:
    bind_pairs(service)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def work() -> None:
            while True:
                connection, _ = listener.accept()
                with connection, connection.makefile("rw") as stream:
                    for line in stream:
                        number = int(line)
                        if number < 0:
                            return
                        stream.write(f"{wrong_answers(service, number, 5)}\n")
                        stream.flush()

        workers = [fork_child(work) for _ in range(3)]

        def ask(number: int) -> str | None:
            with (
                socket.create_connection(listener.getsockname(), timeout=30) as connection,
                connection.makefile("rw") as stream,
            ):
                stream.write(f"{number}\n")
                stream.flush()
                answer = stream.readline()
                return None if answer == "[]\n" else answer

        with repeating(lambda: ask(0), lambda: ask(1), lambda: wrong_answers(service, 2, 1) or None) as wrong:
            for _ in range(20):
                assert ask(3) is None
        assert wrong == []
        for _ in workers:
            with socket.create_connection(listener.getsockname(), timeout=30) as connection:
                connection.sendall(b"-1\n")
        assert [wait().error for wait in workers] == [None] * 3


def test_export_that_is_open_at_the_fork_refuses_in_the_child_and_completes_in_the_parent(
    service: BindingService, database_kind: str
) -> None:
    bind_pairs(service)
    export = service.export_bindings()
    first = next(export)
    child = fork_child(lambda: next(export))()
    assert child.is_refusal
    child = fork_child(lambda: bind(service, 9).state)()
    if database_kind == "sqlite":
        assert child.is_refusal
    else:
        assert child.value is State.ACTIVE
    exported = [first, *export]
    assert [binding.reference for binding in exported][:PAIRS] == [f"order {number}" for number in range(PAIRS)]
    assert run_in_child(lambda: bind(service, 10).state).value is State.ACTIVE


def append_event(tx: Transaction) -> None:
    events.append_without_binding(tx, EventKind.REVEALED, CALLER, {})


def event_count(service: BindingService) -> int:
    count = select(func.count()).select_from(events_table)
    return service.runtime.database.read(lambda connection: connection.execute(count).scalar_one())


def test_transaction_that_is_open_at_the_fork_refuses_in_the_child_and_commits_in_the_parent(
    service: BindingService,
) -> None:
    children: list[ChildResult] = []

    def work(tx: Transaction) -> str:
        append_event(tx)
        children.append(run_in_child(lambda: append_event(tx)))
        return "committed"

    assert service.runtime.database.write(work) == "committed"
    [child] = children
    assert child.is_refusal
    assert event_count(service) == 1


def test_file_that_another_thread_keeps_open_is_refused_in_the_child_only(
    sqlite_url: str, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fork_gate, "LONGEST_WAIT_S", 0.2)
    with open_service(sqlite_url, simulator) as service:
        bind_pairs(service)
        opened, stop = threading.Event(), threading.Event()
        exported: list[Binding] = []

        def export() -> None:
            rows = service.export_bindings()
            exported.append(next(rows))
            opened.set()
            stop.wait(60)
            exported.extend(rows)

        thread = threading.Thread(target=export)
        thread.start()
        assert opened.wait(30)
        for _ in range(2):
            child = run_in_child(lambda: wrong_answers(service, 0, 1))
            assert child.is_refusal
        child = run_in_child(lambda: Database(sqlite_url).clock())
        assert child.is_refusal
        assert bind(service, 5).state is State.ACTIVE
        stop.set()
        thread.join(30)
        assert len(exported) >= PAIRS
        assert run_in_child(lambda: wrong_answers(service, 0, 1)).value == []


def test_threads_that_fork_at_the_same_time_all_get_working_children(service: BindingService) -> None:
    bind_pairs(service)
    results: list[ChildResult] = []

    def fork(number: int) -> None:
        results.extend(run_in_child(lambda: wrong_answers(service, number, 10)) for _ in range(5))

    threads = [threading.Thread(target=fork, args=(number,)) for number in range(PAIRS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert [(result.error, result.value) for result in results] == [(None, [])] * 5 * PAIRS
    assert wrong_answers(service, 0, 10) == []


PROGRAM = """
import os, sys
from bindings import BindingService
from bindings.fork_safety import ForkedProcessError

service = BindingService.from_env()
export = service.export_bindings()
next(export)
assert service.lookup(phone=sys.argv[1])
for inside in (True, False):
    child = os.fork()
    if child == 0:
        try:
            assert service.lookup(phone=sys.argv[1])
            export.close()
        except ForkedProcessError as error:
            print(error, file=sys.stderr)
        service.close()
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert service.lookup(phone=sys.argv[1])
    if inside:
        assert len(list(export)) >= 3
service.close()
print("done")
"""


def run_program(program: str, database_url: str, simulator: Simulator) -> subprocess.CompletedProcess[str]:
    """Run a program in another process, with the settings of the test and its first phone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BINDINGS_")}
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", program, phones(0)[0]],
        env=environment
        | {
            "BINDINGS_DATABASE_URL": database_url,
            **account_variables(simulator.url),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_child_that_exits_closes_nothing_of_the_parent(
    service: BindingService, database_url: str, simulator: Simulator
) -> None:
    bind_pairs(service)
    result = run_program(PROGRAM, database_url, simulator)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
    refusals = [line for line in result.stderr.splitlines() if "forked" in line]
    assert len(refusals) == (1 if database_url.startswith("sqlite") else 0), result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert bind(service, 8).state is State.ACTIVE


FORK_WITHOUT_HOOKS = """
import ctypes, os, sys
from bindings import BindingService
from bindings.fork_safety import ForkedProcessError
service = BindingService.open()
assert service.lookup(phone=sys.argv[1])
database = service.runtime.database
for number in range(3):
    if ctypes.PyDLL(None).fork() == 0:
        try:
            with service.runtime.admission.slot("any"):
                answers = [bool(service.lookup(phone=sys.argv[1])) for _ in range(20)]
            open_here = database._reads.idle + database.connections_in_use()
            print(f"{all(answers)}, {open_here < 10}\\n", end="", flush=True)
        except ForkedProcessError as error:
            print("refused\\n", end="", flush=True)
        os._exit(0)
    os.wait()
    assert service.lookup(phone=sys.argv[1])
service.close()
"""


def test_children_of_a_fork_without_hooks_use_connections_of_their_own(
    service: BindingService, database_url: str, simulator: Simulator
) -> None:
    """Regression: under uWSGI each call of a child opened a connection that was never closed."""
    bind_pairs(service)
    result = run_program(FORK_WITHOUT_HOOKS, database_url, simulator)
    line = "refused" if database_url.startswith("sqlite") else "True, True"
    assert (result.returncode, result.stdout.splitlines()) == (0, [line] * 3), result.stderr


ASYNC_FORK_WITHOUT_HOOKS = """
import asyncio, ctypes, os, signal, sys
from bindings.aio import AsyncBindingService
from bindings.fork_safety import ForkedProcessError
service = AsyncBindingService.from_env()
lookup = lambda: bool(asyncio.run(service.lookup(phone=sys.argv[1])))
assert lookup()
idle = service._reads._executor._idle_semaphore
assert idle.acquire(timeout=20)  # a thread of the parent waits for the next call
idle.release()
if ctypes.PyDLL(None).fork() == 0:
    signal.alarm(20)
    try:
        print(f"{lookup()}\\n", end="", flush=True)
    except ForkedProcessError:
        print("refused\\n", end="", flush=True)
    os._exit(0)
os.wait()
assert lookup()
"""


def test_async_service_has_threads_of_its_own_in_a_child_of_a_fork_without_hooks(
    service: BindingService, database_url: str, simulator: Simulator
) -> None:
    """Regression: the child waited without end for a thread of the parent."""
    bind_pairs(service)
    result = run_program(ASYNC_FORK_WITHOUT_HOOKS, database_url, simulator)
    line = "refused" if database_url.startswith("sqlite") else "True"
    assert (result.returncode, result.stdout.splitlines()) == (0, [line]), result.stderr
