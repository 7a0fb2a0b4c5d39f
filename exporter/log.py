"""structlog set-up: one line an event, in logfmt, JSON or for a terminal; stdlib records alike.

Keys: `time` (UTC), `level` (debug, info, warn, error), `msg`, then the event's own; records of other
libraries also carry `logger`. Events are constants, dotted and in the past tense (`probe.failed`).
No line holds local variables, and what looks like a secret is masked: the last line of defence,
after `Secret`, which never shows itself.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, TextIO

import structlog
from structlog import get_logger
from structlog.typing import EventDict, Processor, WrappedLogger

from exporter.secret import mask

__all__ = ["FORMATS", "LEVELS", "configure", "get_logger"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
FORMATS = ("logfmt", "json", "console")

_LEVEL_NAMES = {"warning": "warn", "critical": "error", "notset": "debug"}
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_SAVE_NEWLINE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_KEY_LETTERS = re.compile('[^!-~]|[="]')
_ESCAPED = {"logfmt": _CONTROL_SAVE_NEWLINE, "json": None, "console": _CONTROL}
_MAX_NESTING = 4
_MAX_VALUE_CHARS = 16_384


def configure(level: str = "info", format: str | None = None, stream: TextIO | None = None) -> None:
    """Set up structlog and the standard library's logging for this process.

    A second call replaces the first, also for loggers that are in use.

    Args:
        level: One of LEVELS: what is below is not written.
        format: One of FORMATS; None: `console` on a terminal, else `logfmt`.
        stream: None: standard error.

    Raises:
        ValueError: For another level or format.
    """
    stream = sys.stderr if stream is None else stream
    if level not in LEVELS:
        raise ValueError(f"{level!r} is not a log level; one of {', '.join(LEVELS)}")
    if format is None:
        format = "console" if stream.isatty() else "logfmt"
    if format not in FORMATS:
        raise ValueError(f"{format!r} is not a log format; one of {', '.join(FORMATS)}")
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _shorten_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    ending: list[Processor] = [
        *([] if format == "console" else [structlog.processors.format_exc_info]),
        structlog.processors.EventRenamer("msg"),
        _order_keys,
        _Cleaner(_ESCAPED[format]),
    ]
    renderer = _renderer(format, stream)
    lines = _Lines(stream)
    structlog.configure(
        processors=[*common, *ending, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    _configure_stdlib(LEVELS[level], lines, common, [*ending, renderer])


class _Lines:
    """Writes whole lines. A closed or broken stream loses lines; it never stops the exporter."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        line = line.encode(self._encoding, "backslashreplace").decode(self._encoding)
        with self._lock:
            try:
                self._stream.write(line + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                return

    log = debug = info = warn = warning = error = critical = fatal = failure = err = exception = msg


class _Handler(logging.Handler):
    """Hands records of the standard library to the same lines."""

    def __init__(self, lines: _Lines, formatter: logging.Formatter) -> None:
        super().__init__()
        self._lines = lines
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.msg(self.format(record))


def _configure_stdlib(level: int, lines: _Lines, common: list[Processor], ending: list[Processor]) -> None:
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*common, _name_logger],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
    )
    handler = _Handler(lines, formatter)
    handler.addFilter(_shorten_foreign_traceback)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)
    # each scrape is a line of the access log
    logging.getLogger("aiohttp.access").setLevel(logging.DEBUG if level == logging.DEBUG else logging.WARNING)


def _shorten_foreign_traceback(record: logging.LogRecord) -> bool:
    """Reduce what any port scan can cause to one line, a warning: its traceback tells nothing about us."""
    error = record.exc_info[1] if record.exc_info else None
    if error is not None and _caused_by_peer(record.name, error):
        record.exc_info = None
        record.exc_text = None
        words = " ".join(str(error).split())
        record.msg = f"{record.getMessage()}: {type(error).__name__}: {words[:200]}"
        record.args = ()
        record.levelno, record.levelname = logging.WARNING, "WARNING"
    return logging.getLogger(record.name).isEnabledFor(record.levelno)


def _caused_by_peer(logger: str, error: BaseException) -> bool:
    if logger == "aiohttp.server":
        return any(kind.__module__.startswith("aiohttp.http_exceptions") for kind in type(error).__mro__)
    return logger == "asyncio" and isinstance(error, OSError)  # resets; ssl.SSLError is one, too


def _renderer(format: str, stream: TextIO) -> Processor:
    if format == "json":
        return structlog.processors.JSONRenderer()
    if format == "logfmt":
        return structlog.processors.LogfmtRenderer(bool_as_flag=False)
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        event_key="msg",
        timestamp_key="time",
        # the default would show local variables wherever rich is installed
        exception_formatter=_write_plain_traceback,
    )


def _write_plain_traceback(stream: TextIO, exc_info: Any) -> None:
    text = mask("".join(traceback.format_exception(*exc_info)).rstrip("\n"))
    stream.write("\n" + _CONTROL_SAVE_NEWLINE.sub(_escape, text))


def _shorten_level(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["level"] = _LEVEL_NAMES.get(event["level"], event["level"])
    return event


def _name_logger(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    event["logger"] = event["_record"].name
    return event


def _order_keys(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    first = {key: event.pop(key) for key in ("time", "level", "msg") if key in event}
    return {**first, **event}


class _Cleaner:
    """Masks secrets in all values, and keeps hostile text from moving the cursor or faking lines.

    `control`: what is written as an escape; None where the renderer does that itself.
    """

    def __init__(self, control: re.Pattern[str] | None) -> None:
        self._control = control

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {
            _KEY_LETTERS.sub("_", str(key)): value if key == "exc_info" else self._clean(value, 0)
            for key, value in event.items()
        }

    def _clean(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
            return value
        if depth < _MAX_NESTING:
            if isinstance(value, Mapping):
                return {str(key): self._clean(inner, depth + 1) for key, inner in value.items()}
            if isinstance(value, list | tuple | set | frozenset):
                return [self._clean(inner, depth + 1) for inner in value]
        text = str(value)
        if len(text) > _MAX_VALUE_CHARS:
            text = f"{text[:_MAX_VALUE_CHARS]}... ({len(text)} characters)"
        text = mask(text)
        return text if self._control is None else self._control.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")
