"""Logs: one shape for our loggers and every library's, the instance on each line, no secrets."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from mooring.controller import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as pytest had it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_both_kinds_of_logger_have_one_shape(out: io.StringIO) -> None:
    logs.configure("info", "json", out)
    structlog.get_logger("ours").info("bound", address="10.0.0.1")
    logging.getLogger("theirs").warning("%s is slow", "it")
    ours, theirs = lines(out)
    assert (ours["event"], ours["level"], ours["logger"], ours["address"]) == (
        "bound",
        "info",
        "ours",
        "10.0.0.1",
    )
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("it is slow", "warning", "theirs")
    assert ours["timestamp"].endswith("Z")


def test_the_level_holds_for_both(out: io.StringIO) -> None:
    logs.configure("warning", "json", out)
    structlog.get_logger("ours").info("unseen")
    logging.getLogger("theirs").info("unseen")
    assert lines(out) == []


async def test_the_instance_is_on_every_line_of_its_worker_and_on_no_other(out: io.StringIO) -> None:
    logs.configure("info", "json", out)

    async def work(key: str) -> None:
        with structlog.contextvars.bound_contextvars(instance=key):
            await asyncio.sleep(0)
            structlog.get_logger("ours").info(key)
            logging.getLogger("theirs").info(key)

    await asyncio.gather(work("a"), work("b"))
    structlog.get_logger("ours").info("outside")
    assert {line["event"]: line.get("instance") for line in lines(out)} == {
        "a": "a",
        "b": "b",
        "outside": None,
    }
    assert len(lines(out)) == 5


@pytest.mark.parametrize(
    "fields",
    [
        {"password": "hunter2"},
        {"tsig_secret": "hunter2"},
        {"headers": {"Authorization": "Basic hunter2"}},
        {"url": "http://user:hunter2@marathon:8080/v2"},
        {"error": "request failed: headers {'Authorization': 'token=hunter2'}"},
        {"tried": ["http://a:hunter2@b"]},
    ],
)
@pytest.mark.parametrize("format", ["json", "console"])
def test_secrets_are_blotted_out(out: io.StringIO, fields: dict[str, Any], format: logs.Format) -> None:
    logs.configure("info", format, out)
    structlog.get_logger("ours").info("said", **fields)
    assert "said" in out.getvalue()
    assert "***" in out.getvalue()
    assert "hunter2" not in out.getvalue()


def test_where_a_secret_lies_may_be_told(out: io.StringIO) -> None:
    logs.configure("info", "json", out)
    structlog.get_logger("ours").info("read", secret_file="/etc/mooring/tsig")
    assert lines(out)[0]["secret_file"] == "/etc/mooring/tsig"


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_trace_is_logged_without_the_password_in_its_message(out: io.StringIO, format: logs.Format) -> None:
    logs.configure("info", format, out)
    try:
        raise ValueError("cannot reach http://user:hunter2@marathon")
    except ValueError:
        structlog.get_logger("ours").exception("defect")
    assert "Traceback" in out.getvalue()
    assert "http://***@marathon" in out.getvalue()
    assert "hunter2" not in out.getvalue()


def test_hostile_text_forges_no_line_and_steers_no_terminal(out: io.StringIO) -> None:
    logs.configure("info", "console", out)
    structlog.get_logger("ours").warning("refused", reason="x\n2026-01-01 [info] forged\x1b[2J")
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()
