"""Opening the service for a command: in whose name, and with how much talk."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bindings.service import BindingService


@contextmanager
def open_service(*, as_json: bool) -> Iterator[BindingService]:
    """The service of the environment's settings, acting as this operating-system user."""
    configure_logging(as_json=as_json)
    from bindings.service import BindingService

    with BindingService.open(actor=actor()) as service:
        yield service


def actor() -> str:
    """Who runs this: the user of the process, which no variable can change."""
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a number that has no name
        name = str(os.getuid())
    return f"cli:{name}"


def configure_logging(*, as_json: bool) -> None:
    """Keep log lines from where they would be taken for an answer.

    Warnings of ours reach a person; a program that reads a problem object on stderr gets nothing else. That a
    read was tried again is nobody's business.
    """
    import logging

    import stamina.instrumentation

    stamina.instrumentation.set_on_retry_hooks(())  # by default it prints on stdout where structlog is installed
    if as_json:
        logging.getLogger().addHandler(logging.NullHandler())


@contextmanager
def require_extra(extra: str) -> Iterator[None]:
    """Say which extra to install where a library of it is missing."""
    from bindings.errors import FieldError, InvalidRequest

    try:
        yield
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] == "bindings":
            raise
        message = f"is not installed ({missing.name} is missing): pip install 'bindings[{extra}]'"
        raise InvalidRequest([FieldError(f"the extra `{extra}`", message)]) from None


def record_reveal(service: BindingService, binding_ids: Iterable[str], why: str | None) -> None:
    """Write down that full phones of these bindings are about to be shown; call it before showing them."""
    shown = list(dict.fromkeys(binding_ids))
    if why is not None and shown:
        service.reveal(shown, reason=why)
