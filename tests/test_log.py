"""One line an event, in three formats; secrets and local variables never."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import ssl
from collections.abc import Callable, Iterator

import aiohttp
import pytest
import structlog
from aiohttp import web

from exporter import log
from exporter.secret import Secret

TOKEN = "0123456789-abcdefghijklmnopqrstuv"
_TIME = r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "

Start = Callable[..., io.StringIO]


@pytest.fixture
def start() -> Iterator[Start]:
    """Configure the logging and give the stream; afterwards everything is as before."""
    root = logging.getLogger()
    access = logging.getLogger("aiohttp.access")
    before = (root.level, list(root.handlers), access.level)

    def start(level: str = "debug", format: str | None = None) -> io.StringIO:
        stream = io.StringIO()
        log.configure(level, format, stream)
        return stream

    yield start
    structlog.reset_defaults()
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    access.setLevel(before[2])


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _fail_with_locals() -> None:
    secret_of_the_frame = "hunter" + "2"
    if secret_of_the_frame:
        raise ValueError(f"cannot use postgres://u:{secret_of_the_frame}@db/coder")


def test_logfmt_line(start: Start) -> None:
    """Time, level and event come first, booleans are spelled out, None is empty, texts are quoted."""
    stream = start()
    log.get_logger("x").warning("probe.failed", target="a b", success=False, first=True, code=None, seconds=0.25)
    expected = _TIME + r'level=warn msg=probe\.failed target="a b" success=false first=true code= seconds=0\.25\n'
    assert re.fullmatch(expected, stream.getvalue())


def test_json_line(start: Start) -> None:
    """Values keep their types."""
    stream = start(format="json")
    log.get_logger().info("probe.failed", success=False, seconds=0.25, nested={"a": [1, None]}, never=float("nan"))
    line = json.loads(stream.getvalue())
    assert ["time", "level", "msg", "success", "seconds", "nested", "never"] == list(line)
    assert ("info", "probe.failed", False, 0.25) == (line["level"], line["msg"], line["success"], line["seconds"])
    assert ({"a": [1, None]}, "nan") == (line["nested"], line["never"])


def test_console_is_for_terminals(start: Start) -> None:
    """Without a format a terminal gets colours, anything else logfmt."""
    start()
    terminal = _Terminal()
    log.configure(stream=terminal)
    log.get_logger().info("probe.failed", target="x")
    assert "\x1b[" in terminal.getvalue()
    assert "probe.failed" in terminal.getvalue()
    assert "level=" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("written", "level"),
    [
        (["debug", "info", "warn", "error"], "debug"),
        (["info", "warn", "error"], "info"),
        (["warn", "error"], "warn"),
        (["error"], "error"),
    ],
)
def test_levels(start: Start, written: list[str], level: str) -> None:
    """What is below the level is not written, neither ours nor that of others."""
    stream = start(level, "json")
    for logger in (log.get_logger(), logging.getLogger("asyncio")):
        logger.debug("a.b")
        logger.info("a.b")
        logger.warning("a.b")
        logger.error("a.b")
    assert written * 2 == [json.loads(line)["level"] for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(("level", "format"), [("warning", "json"), ("INFO", "json"), ("info", "xml")])
def test_unknown_level_or_format(level: str, format: str) -> None:
    """Only the words of the flags are taken."""
    with pytest.raises(ValueError, match="is not a log"):
        log.configure(level, format, io.StringIO())


def test_a_second_configuration_replaces_the_first(start: Start) -> None:
    """Also for loggers that are in use, and without doubling lines."""
    logger = log.get_logger("x")
    first = start("debug")
    logger.info("a.b")
    second = start("warn", "json")
    logger.info("c.d")
    logger.warning("e.f")
    logging.getLogger("asyncio").warning("slow")
    assert 1 == len(first.getvalue().splitlines())
    assert ["e.f", "slow"] == [json.loads(line)["msg"] for line in second.getvalue().splitlines()]


def test_deep_values_end(start: Start) -> None:
    """What is nested deeper than anybody reads becomes a text, masked."""
    stream = start(format="json")
    deep: list[object] = [TOKEN]
    for _ in range(500):
        deep = [deep]
    log.get_logger().info("a.b", deep=deep)
    assert TOKEN not in stream.getvalue()
    assert "a.b" == json.loads(stream.getvalue())["msg"]


def test_bound_values_and_context(start: Start) -> None:
    """What was bound to a logger or to the context comes along, also for records of others."""
    stream = start(format="json")
    with structlog.contextvars.bound_contextvars(deployment="prod"):
        log.get_logger().bind(section="database").info("a.b")
        logging.getLogger("asyncio").warning("slow %s", "callback")
    ours, theirs = map(json.loads, stream.getvalue().splitlines())
    assert ("prod", "database") == (ours["deployment"], ours["section"])
    assert ("prod", "asyncio", "slow callback", "warn") == (
        theirs["deployment"],
        theirs["logger"],
        theirs["msg"],
        theirs["level"],
    )


@pytest.mark.parametrize("format", log.FORMATS)
def test_no_secret_in_any_format(start: Start, format: str) -> None:
    """Secrets stay masked as values, nested, in texts, in events of others, and in exceptions."""
    stream = start(format=format)
    logger = log.get_logger()
    dsn = "postgres://u:hunter2@db/coder"
    logger.info(
        "a.b", one=Secret("hunter2"), nested={"a": [Secret("hunter2"), {"b": dsn}]}, text=f"with {TOKEN}", url=dsn
    )
    event = f"token {TOKEN}"
    logger.info(event, keyword="host=db password='hunter2 x' user=u")
    logging.getLogger("asyncio").warning("using %s and %s", dsn, Secret("hunter2"))
    try:
        _fail_with_locals()
    except ValueError as error:
        logger.exception("run.broke", err=error)
        logging.getLogger("aiohttp.server").exception("Unhandled exception")
    text = stream.getvalue()
    assert "hunter2" not in text
    assert TOKEN not in text
    assert 10 <= text.count("<secret>")


@pytest.mark.parametrize("format", log.FORMATS)
def test_tracebacks_have_no_local_variables(start: Start, format: str) -> None:
    """A traceback is there, plain, with rich installed or not."""
    stream = start(format=format)
    try:
        _fail_with_locals()
    except ValueError:
        log.get_logger().exception("run.broke")
    text = stream.getvalue()
    assert "Traceback (most recent call last)" in text
    assert "in _fail_with_locals" in text
    assert "hunter2" not in text
    assert "╭" not in text  # the frames that rich draws
    if format != "console":
        assert 1 == len(text.splitlines())


@pytest.mark.parametrize("format", log.FORMATS)
def test_hostile_text_stays_on_its_line(start: Start, format: str) -> None:
    """A server's answer can neither fake a line nor move the cursor."""
    stream = start(format=format)
    log.get_logger().info("a.b", body="x\nlevel=error msg=fake\r\x1b[2J\u2028y", **{"od d=\n": 1})
    logging.getLogger("asyncio").warning("x\n\x1b[2Jy")
    text = stream.getvalue()
    assert 2 == len(text.splitlines())
    assert [] == [char for char in "\r\x1b\u2028" if char in text]


async def test_malformed_requests_are_one_line(start: Start) -> None:
    """What a port scan sends to the server gives a warning on one line, without a traceback."""
    stream = start(format="json")
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0][:2]
        async with aiohttp.ClientSession() as session, session.get(f"http://{host}:{port}/") as response:
            assert 404 == response.status
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n")
        assert b"400" in await reader.readline()
        writer.close()
        await writer.wait_closed()
    finally:
        await runner.cleanup()
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    (told,) = [record for record in records if record.get("logger") == "aiohttp.server"]
    assert "warn" == told["level"]
    assert "exception" not in told
    assert told["msg"].startswith("Error handling request from 127.0.0.1: ")


def test_noise_of_broken_connections_is_one_line(start: Start) -> None:
    """asyncio's tracebacks of resets and bad handshakes are reduced, too; those of bugs are kept."""
    stream = start(format="json")
    for error in (ConnectionResetError("gone"), ssl.SSLError(1, "[SSL: HTTP_REQUEST] http request"), KeyError("bug")):
        logging.getLogger("asyncio").error("Fatal error on transport", exc_info=error)
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert ["warn", "warn", "error"] == [record["level"] for record in records]
    assert [False, False, True] == ["exception" in record for record in records]
    assert "Fatal error on transport: ConnectionResetError: gone" == records[0]["msg"]


def test_a_reduced_record_still_obeys_the_level(start: Start) -> None:
    """A warning is not written where only errors are wanted."""
    stream = start("error", "json")
    logging.getLogger("asyncio").error("Fatal error on transport", exc_info=ConnectionResetError("gone"))
    assert "" == stream.getvalue()


def test_the_access_log_is_for_debugging(start: Start) -> None:
    """A scrape is no news."""
    stream = start("info", "json")
    logging.getLogger("aiohttp.access").info("GET /metrics")
    assert "" == stream.getvalue()
    start("debug", "json")
    assert logging.getLogger("aiohttp.access").isEnabledFor(logging.INFO)


def test_a_broken_stream_loses_lines_only() -> None:
    """Neither a closed stream, a full disk, nor an encoding without the letters stops the caller."""

    class Full(io.StringIO):
        def write(self, text: str, /) -> int:
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    raw = io.BytesIO()
    for stream in (closed, Full(), io.TextIOWrapper(raw, encoding="ascii")):
        lines = log._Lines(stream)
        lines.msg("é\udcff")
    assert b"\\xe9\\udcff\n" == raw.getvalue()
