"""Logs as events: console lines on a terminal, JSON lines otherwise, always to stderr.

No values and no secrets: fields that could hold one are blanked by name, whoever logs them, and
tracebacks come without the locals of their frames.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

SECRET_FIELDS = frozenset(
    ("authorization", "body", "client_token", "cluster_key", "context", "password", "token", "value")
)
TEXT_CHARACTERS_MAX = 2048  # of one field: a key or an error that quotes input must not fill the disk

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(level: str = "info", format: str = "auto", stream: TextIO | None = None) -> None:  # noqa: A002
    """`level`: debug, info, warning, error. `format`: auto, console, json. Call once, before the first event.

    What libraries log through the standard library comes out in the same form.
    """
    stream = sys.stderr if stream is None else stream
    console = format == "console" or (format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        without_secrets,
    ]
    rendering: list[Processor]
    if console:
        # The default formatter prints locals, and with them values, wherever `rich` is installed.
        plain = structlog.dev.plain_traceback
        rendering = [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)]
    else:
        to_json = structlog.processors.JSONRenderer(default=str)
        rendering = [structlog.processors.format_exc_info, what_and_when_first, to_json]
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared[:2], structlog.stdlib.add_logger_name, *shared[2:]],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.INFO))  # debug of libraries tells of bytes on the wire


def get_logger(**fields: Any) -> FilteringBoundLogger:
    """A logger whose events all carry `fields`: `get_logger(node="n1").info("ready", after_s=0.4)`."""
    return cast(FilteringBoundLogger, structlog.get_logger(**fields))


def audit_log(**fields: Any) -> Callable[..., None]:
    """Takes an event and its fields, which come out whatever the level of the log is.

    Where nobody configured logging, as in somebody's tests, they go nowhere.
    """
    wrapper = structlog.make_filtering_bound_logger(logging.INFO)
    logger = cast(FilteringBoundLogger, structlog.wrap_logger(None, wrapper_class=wrapper, **fields))

    def log(event: str, **more: Any) -> None:
        if structlog.is_configured():
            logger.info(event, **more)

    return log


def what_and_when_first(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """For people who read JSON lines: what they look for is where the line begins."""
    return {**{name: event[name] for name in ("timestamp", "level", "event") if name in event}, **event}


def without_secrets(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Blanks secret fields, and makes every other one short text that cannot break a line."""
    for name, value in event.items():
        if name.lower() in SECRET_FIELDS:
            event[name] = "…"
        elif isinstance(value, bytes):
            event[name] = value[:TEXT_CHARACTERS_MAX].decode("utf-8", "backslashreplace")
        elif isinstance(value, str) and len(value) > TEXT_CHARACTERS_MAX:
            event[name] = value[:TEXT_CHARACTERS_MAX] + "…"
    return event
