"""Log lines of the service: one JSON object each, on stderr, with the request's id and without phone numbers.

The package logs with the standard module; its lines and those of structlog go through one chain of processors
here. The last processor before the renderer masks all text that looks like a phone number: our own lines carry
none, and lines of other libraries must not either.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from bindings.domain.phone import mask

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

# Digits on their own: not a part of an id, a time, a version or an address.
LONG_NUMBER = re.compile(r"(?<![\w.:-])\+?([0-9]{7,20})(?![\w.:-])")
FRAMES = 4  # of a traceback, the innermost


class _StderrLogger:
    """Minimal stderr logger: the stdlib logger dominated the cost of a log line."""

    def __init__(self, name: str = "bindings") -> None:
        self.name = name

    def info(self, line: str) -> None:
        """Write a line."""
        with suppress(OSError, ValueError, AttributeError):  # stderr is closed: no reason to fail a request
            sys.stderr.write(line + "\n")

    warning = error = critical = info


def configure() -> None:
    """Send every log line of this process through the chain. Call it once, before the first line is logged."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact_exceptions,
        mask_phones,
    ]
    renderer = structlog.processors.JSONRenderer(serializer=_as_json)
    structlog.configure(
        processors=[*shared, renderer],
        logger_factory=_StderrLogger,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for name in ("urllib3", "uvicorn.access"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # the watchdog says what matters


def _as_json(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def innermost_frames(error: BaseException) -> str:
    """Return where an exception was raised, as file names and lines, innermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-FRAMES:]))


def redact_exceptions(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Replace an exception by its type and place: its text may carry a value of the request."""
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = type(error).__name__
        event["place"] = innermost_frames(error)
    return event


def mask_phones(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Mask all digits in the line that may be a phone number."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = LONG_NUMBER.sub(lambda match: mask(match[1]), value)
    return event
