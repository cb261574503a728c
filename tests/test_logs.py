"""Logs: the form follows the stream, and nothing that is secret comes out."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from kvstore.logs import TEXT_CHARACTERS_MAX, configure_logging, get_logger


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_where_nobody_watches() -> None:
    stream = io.StringIO()
    configure_logging("info", "auto", stream)
    get_logger(node="n1").info("ready", after_s=0.5)
    (event,) = events(stream)
    assert list(event) == ["timestamp", "level", "event", "node", "after_s"]
    assert event.pop("timestamp")
    assert event == {"event": "ready", "level": "info", "node": "n1", "after_s": 0.5}


def test_console_lines_on_a_terminal() -> None:
    stream = Terminal()
    configure_logging("info", "auto", stream)
    get_logger().info("ready", node="n1")
    assert "ready" in stream.getvalue()
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(stream.getvalue())


def test_events_below_the_level_are_dropped() -> None:
    stream = io.StringIO()
    configure_logging("warning", "json", stream)
    log = get_logger()
    log.info("dropped")
    log.warning("kept")
    logging.getLogger("aiohttp").info("dropped too")
    assert [event["event"] for event in events(stream)] == ["kept"]


def test_libraries_come_out_in_the_same_form() -> None:
    stream = io.StringIO()
    configure_logging("debug", "json", stream)
    logging.getLogger("aiohttp.server").warning("bad %s", "header")
    (event,) = events(stream)
    assert (event["event"], event["level"], event["logger"]) == ("bad header", "warning", "aiohttp.server")


@pytest.mark.parametrize("form", ["json", "console"])
def test_secrets_are_blanked_and_tracebacks_hold_no_locals(form: str) -> None:
    stream = io.StringIO()
    configure_logging("debug", form, stream)
    value = "the-secret-" + "value"
    try:
        _fail(value)
    except RuntimeError:
        get_logger().exception("failed", value=value, Token=value, key="k")
    assert "RuntimeError" in stream.getvalue()
    assert "_fail" in stream.getvalue()
    assert value not in stream.getvalue()


def _fail(value: str) -> None:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_came_from_outside_stays_on_one_bounded_line(form: str) -> None:
    stream = io.StringIO()
    configure_logging("debug", form, stream)
    get_logger().info("refused", key=b"a\nb\xff", name="x" * 100_000)
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert len(text) < 2 * TEXT_CHARACTERS_MAX
