"""Log lines of the commands, on stderr: level, format, and what no line may contain.

The package logs with the standard module and configures nothing: a host program does that. The commands do it
here; `web.log_config` adds structlog. Invariant: every line has its long numbers masked, because a line of another
library may contain a phone number, and an exception is its type and place, because its text may contain a value of
a request.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bindings import telemetry
from bindings.domain.phone import mask
from bindings.domain.serialization import instant
from bindings.domain.text import escape_control_characters

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    Entry = MutableMapping[str, Any]

LEVEL_VARIABLE = "BINDINGS_LOG_LEVEL"
FORMAT_VARIABLE = "BINDINGS_LOG_FORMAT"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("text", "json")
SHORTEST_NUMBER = 7  # digits
_SHORTEST_NUMBER = re.compile(f"[0-9]{{{SHORTEST_NUMBER}}}")
# Digits on their own: not a part of an id, a time, a version or an address.
LONG_NUMBER = re.compile(r"(?<![\w-])(?<![0-9][.:])\+?([0-9]{7,20})(?![\w-]|[.:][0-9])")
CURRENT_REQUEST_ID: ContextVar[str | None] = ContextVar("bindings_request_id", default=None)
FRAMES = 4  # of a traceback, the innermost
# Above the level of the others: the lines of these repeat ours, or name the URL of a request.
_LIBRARY_LEVELS = {"urllib3": logging.WARNING, "uvicorn.access": logging.WARNING, "apscheduler": logging.ERROR}


@dataclass(frozen=True, kw_only=True, slots=True)
class LogConfig:
    """The level and the format of the log lines of a process."""

    level: str
    format: str

    def from_environment(self) -> LogConfig:
        """Return the level and the format of the environment; these for what is not set, or not valid.

        The settings report a value that is not valid.
        """
        level = os.environ.get(LEVEL_VARIABLE, "").lower()
        line_format = os.environ.get(FORMAT_VARIABLE, "").lower()
        return LogConfig(
            level=level if level in LEVELS else self.level,
            format=line_format if line_format in FORMATS else self.format,
        )


COMMAND = LogConfig(level="warning", format="text")
SERVICE = LogConfig(level="info", format="json")  # of a command that runs until a signal


class StderrHandler(logging.Handler):
    """Writes each record to the current stderr of the process; if that is closed, nowhere."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; of a record that cannot be formatted only its logger: its values may be phones."""
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 -- a wrong log call of another library must not fail there
            line = f"a log line of {record.name} cannot be formatted"
        write_line(line)


class LineFormatter(logging.Formatter):
    """Formats a record of the standard module as a line."""

    def __init__(self, render: Callable[[Entry], str]) -> None:
        super().__init__()
        self._render = render

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        at = datetime.fromtimestamp(record.created, UTC)
        entry = new_entry(record.getMessage(), logger=record.name, level=record.levelname.lower(), at=at)
        if record.exc_info:
            entry["exc_info"] = record.exc_info
        redact(entry)
        return self._render(entry)


def new_entry(event: str, *, logger: str, level: str, at: datetime) -> Entry:
    """Return the fields that every line has; with the id of the request in which it is logged, if there is one."""
    entry: Entry = {"event": event, "logger": logger, "level": level, "timestamp": instant(at)}
    if (request_id := CURRENT_REQUEST_ID.get()) is not None:
        entry["request_id"] = request_id
    return entry


def write_line(line: str) -> None:
    """Write a line to stderr, its control characters escaped; if that is closed, nowhere: no reason to fail.

    A value with a line feed must not look like a line of its own. JSON stays valid: it has them in strings only.
    """
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(escape_control_characters(line) + "\n")


def configure(config: LogConfig) -> None:
    """Send the log lines of this process to stderr. Safe to repeat."""
    install(StderrHandler(LineFormatter(as_json if config.format == "json" else as_text)), config)


def install(handler: StderrHandler, config: LogConfig) -> None:
    """Send the log lines of this process to a handler, in place of the one before.

    Below `info` only the lines of this package are written: those of other libraries may contain a phone.
    """
    level = LEVELS[config.level]
    handler.setLevel(level)
    remove_handlers()
    root = logging.getLogger()
    root.addHandler(handler)
    if level < logging.WARNING:
        root.setLevel(logging.INFO)
        logging.getLogger("bindings").setLevel(level)
    for name, library_level in _LIBRARY_LEVELS.items():
        logging.getLogger(name).setLevel(library_level)


def remove_handlers() -> None:
    """Remove the handlers that `install` has added."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if not isinstance(handler, StderrHandler)]


def as_json(entry: Entry) -> str:
    """Return an entry as one JSON object."""
    return json.dumps(entry, default=repr, ensure_ascii=False)


def as_text(entry: Entry) -> str:
    """Return an entry as time, level, logger and event, followed by its other fields."""
    fields = dict(entry)
    head = [str(fields.pop(name)) for name in ("timestamp", "level", "logger", "event")]
    more = "".join(f" {name}={value}" for name, value in fields.items())
    return f"{head[0]} {head[1].upper()} {head[2]}: {head[3]}{more}"


def redact(entry: Entry) -> None:
    """Remove from an entry what no line may contain, and add the ids of the current trace."""
    redact_exception(entry)
    mask_phones(entry)
    telemetry.add_trace_ids(entry)


def redact_exception(entry: Entry) -> None:
    """Replace the exception of an entry by its type and place."""
    info = entry.pop("exc_info", None)
    error = sys.exc_info()[1] if info is True else info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        entry["error"] = type(error).__name__
        entry["place"] = innermost_frames(error)


def innermost_frames(error: BaseException) -> str:
    """Return where an exception was raised, as file names and lines, innermost first."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-FRAMES:]))


def mask_phones(entry: Entry) -> None:
    """Mask all digits in an entry that may be a phone number."""
    texts = {name: value for name, value in entry.items() if isinstance(value, str)}
    if _SHORTEST_NUMBER.search("\n".join(texts.values())) is None:  # as in most lines, in a fifth of the time
        return
    for name, value in texts.items():
        entry[name] = LONG_NUMBER.sub(lambda match: mask(match[1]), value)
