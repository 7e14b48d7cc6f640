"""Every fault that a stream is known to suffer, between the lab's Marathon and the whole listening side.

The durations are the reader's own.  However the stream fails, it is attached again within five seconds of
the fault's end (a silent one within thirty of its start), and a snapshot that began after that shows what
happened meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mooring.controller.stream import Pace
from mooring.lab.marathon import events
from mooring.lab.marathon.wire import encode
from tests.integration.certificates import server_context
from tests.integration.listening_post import Post, post, until

LIMIT_S = 5.0
SILENT_LIMIT_S = 30.0
EVENTS = 20_000
STREAM_TYPE = b"Content-Type: text/event-stream;charset=utf-8"


@pytest.fixture
async def here() -> AsyncIterator[Post]:
    async with post() as made:
        yield made


def status_event(here: Post) -> bytes:
    """The wire form of a status that the app's only task has already."""
    [app] = here.lab.marathon.world.every_app()
    [instance] = app.instances.values()
    assert instance.run is not None
    return encode(events.status_update(instance, instance.run, "TASK_RUNNING"))


async def test_a_cut_in_the_middle_of_an_event(here: Post) -> None:
    failures, heard = here.reader.failures, len(here.ear.heard)
    here.proxy.cut_after(60)  # "event: instance_changed_event", and the data has begun
    await here.lab.scale(2)
    await here.failed("closed by the other side", failures)
    ended = time.monotonic()
    assert len(here.ear.heard) == heard
    assert await here.recovered(ended) <= LIMIT_S


@pytest.mark.parametrize(
    ("answer", "reason"), [(302, "redirected more than 3 times"), (503, "answered 503 Service Unavailable")]
)
async def test_a_failover(here: Post, answer: int, reason: str) -> None:
    failures = here.reader.failures
    await here.lab.call("POST", "/lab/failover", {"seconds": 1.5, "answer": answer})
    await here.failed(reason, failures, times=2)
    await until(lambda: here.lab.marathon.leadership.answer is None)
    assert await here.recovered(time.monotonic()) <= LIMIT_S


def as_html(piece: bytes) -> bytes:
    """What a login page in between makes of the stream."""
    return piece.replace(STREAM_TYPE, b"Content-Type: text/html;charset=utf-8")


def as_gzip_garbage(piece: bytes) -> bytes:
    """A stream that claims to be compressed and is nothing of the kind."""
    head, end, body = piece.partition(STREAM_TYPE)
    return head + end + b"\r\nContent-Encoding: gzip" + body if end else piece


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [(as_html, "sent text/html, not an event stream"), (as_gzip_garbage, "sent the stream as gzip")],
)
async def test_an_answer_that_is_no_stream(here: Post, rewrite: Any, reason: str) -> None:
    failures = here.reader.failures
    here.proxy.rewrite(rewrite)
    await here.failed(reason, failures, times=3)
    await here.lab.scale(2)
    here.proxy.heal()
    assert await here.recovered(time.monotonic()) <= LIMIT_S


async def test_an_endpoint_that_refuses(here: Post) -> None:
    failures = here.reader.failures
    await here.proxy.refuse()
    await here.failed("Cannot connect to host", failures, times=3)
    await here.lab.scale(2)
    await here.proxy.listen()
    assert await here.recovered(time.monotonic()) <= LIMIT_S


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    known = True
    ask = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> Any:
        if host != "marathon.test":
            return ask(host, *rest, **more)
        if not known:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return ask("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with post(host="marathon.test") as here:
        failures = here.reader.failures
        known = False
        await asyncio.sleep(2)  # until the address that was looked up last has been forgotten
        here.proxy.cut()
        await here.failed("Temporary failure in name resolution", failures, times=2)
        await here.lab.scale(2)
        known = True
        assert await here.recovered(time.monotonic()) <= LIMIT_S


async def test_a_wrong_certificate(tmp_path: Path) -> None:
    ca_file, right = server_context(tmp_path, "right")
    _, wrong = server_context(tmp_path, "wrong")
    async with post(tls=right, ca_file=ca_file) as here:
        failures = here.reader.failures
        await here.proxy.refuse()
        await here.proxy.listen(wrong)
        await here.failed("certificate verify failed", failures, times=2)
        await here.lab.scale(2)
        await here.proxy.refuse()
        await here.proxy.listen(right)
        assert await here.recovered(time.monotonic()) <= LIMIT_S


async def test_an_event_of_twenty_megabytes(here: Post) -> None:
    attachments = here.reader.attachments
    piece = b"x" * 1_000_000
    here.lab.marathon.world.bus.send_raw(b"event: deployment_info\r\ndata: ", last=False)
    for _ in range(20):
        here.lab.marathon.world.bus.send_raw(piece, last=False)
    here.lab.marathon.world.bus.send_raw(b"\r\n\r\n", last=False)
    began = time.monotonic()
    await until(lambda: here.reader.oversized == 1)
    assert await here.listed_anew(began) <= LIMIT_S
    assert here.ear.losses == ["oversized"]
    assert here.reader.attachments == attachments
    await here.lab.scale(2)
    await until(lambda: here.seen() == here.lab.running())


async def test_twenty_thousand_events_at_once(here: Post) -> None:
    attachments, heard = here.reader.attachments, len(here.ear.heard)
    one = status_event(here)
    here.lab.marathon.world.bus.send_raw(one * EVENTS, last=False)
    await until(lambda: here.reader.events_read >= EVENTS)
    await until(lambda: len(here.ear.heard) - heard == EVENTS)
    assert here.reader.behind == 0
    assert (here.ear.losses, here.reader.attachments) == ([], attachments)
    await here.lab.scale(2)
    await until(lambda: here.seen() == here.lab.running())


async def test_twenty_thousand_events_are_more_than_marathon_keeps(here: Post) -> None:
    failures = here.reader.failures
    [app] = here.lab.marathon.world.every_app()
    [instance] = app.instances.values()
    assert instance.run is not None
    event = events.status_update(instance, instance.run, "TASK_RUNNING")
    for _ in range(EVENTS):  # none of them is written before the last is published: the stream is closed
        here.lab.marathon.world.bus.publish(event)
    ended = time.monotonic()
    await until(lambda: here.reader.failures > failures)
    assert await here.recovered(ended) <= LIMIT_S


@pytest.mark.timeout(90)
async def test_streams_that_fall_silent() -> None:
    """Two at a time, because each takes the reader 25 seconds to notice."""
    root = os.geteuid() == 0
    async with asyncio.TaskGroup() as both:
        both.create_task(stalled())
        if root:
            both.create_task(half_open())
    if not root:
        pytest.skip("only root can make a half-open connection; the stall was tested")


async def stalled() -> None:
    """Nothing passes for a while, on old connections and new ones, and old ones never recover."""

    async def silence(here: Post) -> None:
        here.proxy.stall()
        here.watch.lost("a listing shall be under way")
        await here.lab.scale(2)
        await asyncio.sleep(10)
        here.proxy.heal()

    await falls_silent_and_recovers(silence)


async def half_open() -> None:
    """The other end is gone, and nobody says so."""

    async def silence(here: Post) -> None:
        here.proxy.vanish()
        await here.lab.scale(2)

    await falls_silent_and_recovers(silence)


async def falls_silent_and_recovers(silence: Callable[[Post], Awaitable[None]]) -> None:
    async with post() as here:
        await here.quiet()
        failures, attachments = here.reader.failures, here.reader.attachments
        began, silence_s = time.monotonic(), Pace().silence_s
        await silence(here)
        await asyncio.sleep(silence_s - 12)
        assert here.reader.failures == failures, here.reader.last_failure
        assert await here.recovered(began) <= SILENT_LIMIT_S
        assert here.reader.failures == failures + 1
        assert here.reader.last_failure == f"silent for {silence_s:g} s"
        assert here.reader.attachments == attachments + 1
