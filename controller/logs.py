"""Structured logs on standard error.

One chain serves our own loggers (structlog) and every library's (`logging`): level, time, context, then a
line of JSON or a line for people.  Context travels in contextvars: what a worker binds once
(`structlog.contextvars.bound_contextvars`) stands on every line written on its behalf, also deep inside a
library.

Nothing secret is to be logged in the first place.  As a second net, values whose names say that they are
secrets, and passwords inside URLs, are blotted out of every line, tracebacks included.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import Processor

from mooring.controller.printable import printable

Format = Literal["json", "console"]

_BLOT = "***"
_SECRET_NAME = re.compile(r"(password|passwd|secret|token|authorization|api_?key)(?!_file)", re.IGNORECASE)
_SECRET_IN_URL = re.compile(r"(?<=://)[^/\s:@]*:[^/\s@]+(?=@)")
_SECRET_IN_HEADER = re.compile(r"(?i)(authorization\W{1,4}(?:basic|bearer|token=)\s*)[^\s'\",]+")


def configure(level: str, format: Format, stream: TextIO | None = None) -> None:
    """Route all logging to `stream` (standard error). Called once by each command that logs."""
    target = stream or sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_ending(format, target)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)


def _ending(format: Format, target: TextIO) -> list[Processor]:
    if format == "json":
        return [
            structlog.processors.format_exc_info,
            _without_secrets,
            structlog.processors.JSONRenderer(default=str),
        ]
    return [
        structlog.processors.format_exc_info,
        _without_secrets,
        _without_controls,
        structlog.dev.ConsoleRenderer(
            colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
        ),
    ]


def _without_secrets(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for name, value in event.items():
        event[name] = _BLOT if _SECRET_NAME.search(name) else _blotted(value)
    return event


def _blotted(value: Any) -> Any:
    if isinstance(value, str):
        return _SECRET_IN_HEADER.sub(rf"\1{_BLOT}", _SECRET_IN_URL.sub(f"{_BLOT}", value))
    if isinstance(value, Mapping):
        return {
            name: _BLOT if _SECRET_NAME.search(str(name)) else _blotted(part) for name, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [_blotted(part) for part in value]
    return value


def _without_controls(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Labels of app owners end up in messages; none of them may steer the terminal of whoever reads."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = value if name == "exception" else printable(value)
    return event
