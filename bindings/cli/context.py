"""Opening the service for a command, its logging, and what several commands do with an open service."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable, Iterator

    from bindings.cli.options import RawValue
    from bindings.service import BindingService
    from bindings.store.keys import Key


@contextmanager
def open_service(*, as_json: bool, connect: bool = False, until_signal: bool = False) -> Iterator[BindingService]:
    """Open the service with the settings of the environment; its actor is the operating-system user.

    It connects at the first read or write: a wrong argument is reported even if the database is not available.
    With `connect` it connects now, for a command that must fail before it prints or runs anything. `until_signal`
    is a command that runs until a signal ends it: it logs what it does.
    """
    if until_signal:
        from bindings import logs

        logs.configure(logs.SERVICE.from_environment())
    else:
        configure_logging(as_json=as_json)
    from bindings.service import BindingService

    with BindingService.open(actor=actor(), connect=connect) as service:
        yield service


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM, SIGHUP or Ctrl-C sets; a second signal has its usual effect.

    A thread sets the event, woken through the interpreter's wake-up descriptor. A handler could not do so: it runs
    in the main thread, which may hold the event's lock at that moment, and not at all while the main thread waits
    and another thread received the signal.
    """
    import signal
    import socket
    import threading

    from bindings import end_signals

    stop = threading.Event()
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    numbers = end_signals.of_running_commands()

    def set_on_signal() -> None:
        while number := receiver.recv(1):
            if ord(number) in numbers:
                stop.set()

    waker = threading.Thread(target=set_on_signal, name="bindings-signals", daemon=True)
    previous_descriptor = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
    waker.start()
    try:
        with end_signals.handle(numbers, None):
            yield stop
    finally:
        signal.set_wakeup_fd(previous_descriptor)
        sender.close()
        waker.join()
        receiver.close()


def actor() -> str:
    """Return the actor for the history: the user of this process, which no variable can change."""
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a numeric user without a name
        name = str(os.getuid())
    return f"cli:{name}"


def configure_logging(*, as_json: bool) -> None:
    """Send the log lines of a command to stderr, at the level and in the format of the environment.

    With `as_json` a program parses stderr: it has nothing but the problem object, unless a level is set.
    """
    import logging

    from bindings import logs

    if as_json and logs.LEVEL_VARIABLE not in os.environ:
        logs.remove_handlers()
        logging.getLogger().addHandler(logging.NullHandler())
    else:
        logs.configure(logs.COMMAND.from_environment())


def first_key_message(record: Key) -> str:
    """Return what to print if the key in the file of BINDINGS_BOOTSTRAP_KEY_FILE was recorded."""
    return f"recorded the key in the file of BINDINGS_BOOTSTRAP_KEY_FILE as {record.role} key {record.id}"


def record_search(service: BindingService, question: str, phone: RawValue, *, has_match: bool) -> None:
    """Record a search by a full phone; call it before its result is shown. Records nothing without a phone."""
    if phone is not None:
        service.phone_searches.record(question, has_match=has_match)


def record_reveal(service: BindingService, binding_ids: Iterable[str], reason: str | None) -> None:
    """Record that full phones of these bindings are about to be shown; call it before showing them.

    Records nothing if `reason` is None (the phones stay masked) or if there is no binding.
    """
    unique_ids = list(dict.fromkeys(binding_ids))
    if reason is not None and unique_ids:
        service.reveal(unique_ids, reason=reason)
