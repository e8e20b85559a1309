"""Log lines of the service: those of `bindings.logs`, with the request's id and with fields of their own.

The package logs with the standard module; its lines and those of structlog go through one chain of processors
here.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import structlog

from bindings import logs

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor


class _StderrLogger:
    """Minimal stderr logger: the stdlib logger dominated the cost of a log line."""

    def __init__(self, name: str = "bindings") -> None:
        self.name = name

    def info(self, line: str) -> None:
        """Write a line."""
        logs.write_line(line)

    debug = warning = error = critical = info


def configure(config: logs.LogConfig) -> None:
    """Send every log line of this process through the chain. Call it once, before the first line is logged."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    render = partial(_render, as_line=_as_json if config.format == "json" else logs.as_text)
    structlog.configure(
        processors=[*shared, render],
        logger_factory=_StderrLogger,
        wrapper_class=structlog.make_filtering_bound_logger(logs.LEVELS[config.level]),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
    )
    logs.install(logs.StderrHandler(formatter), config)


def _as_json(event: EventDict) -> str:
    return msgspec.json.encode(event, enc_hook=repr).decode()


def _render(_logger: Any, _method: str, event: EventDict, *, as_line: Callable[[EventDict], str]) -> str:
    return as_line(event)


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Remove from a line what no line may contain, and add the ids of the current trace."""
    logs.redact(event)
    return event
