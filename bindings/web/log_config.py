"""Log lines of the service: one JSON object each, on stderr, with the request's id and no phone number.

The library logs with the standard module; its lines and ours go through one chain here. The last step but one
masks whatever still looks like a phone number: no line of ours carries one, and none of another library shall.
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

# Digits that stand alone: not a part of an id, a time, a version or an address.
LONG_NUMBER = re.compile(r"(?<![\w.:-])\+?([0-9]{7,20})(?![\w.:-])")


class _StderrLogger:
    """Writes lines to stderr; the library's logger behind them takes longer than all else that a line needs."""

    def __init__(self, name: str = "bindings") -> None:
        self.name = name

    def info(self, line: str) -> None:
        """Write one."""
        with suppress(OSError, ValueError, AttributeError):  # nobody reads them: no reason to fail a request
            sys.stderr.write(line + "\n")

    warning = error = critical = info


def configure() -> None:
    """Send every log line of this process through the chain. Call it once, before anything is logged."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact_exceptions,
        mask_phones,
    ]
    last = structlog.processors.JSONRenderer(serializer=_as_json)
    structlog.configure(
        processors=[*shared, last],
        logger_factory=_StderrLogger,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    for quiet in ("apscheduler", "stamina", "urllib3", "uvicorn.access"):
        logging.getLogger(quiet).setLevel(logging.WARNING)


def _as_json(event: EventDict, **_: Any) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def redact_exceptions(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """An exception as its type and place: its text may carry a value."""
    info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        event["error"] = type(error).__name__
        event["place"] = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(frames[-4:]))
    return event


def mask_phones(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Mask whatever may be a phone number."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = LONG_NUMBER.sub(lambda found: mask(found[1]), value)
    return event
