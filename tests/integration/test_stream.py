"""The stream reader against servers that misbehave on the wire, with durations shortened by `Pace`.

What the whole listening side makes of faults between it and a Marathon is tested beside this, in
`test_stream_against_marathon`.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mooring.cext import Frame
from mooring.controller.access import Access
from mooring.controller.stream import Pace, StreamReader
from mooring.core.clock import SystemClock
from mooring.core.errors import Fatal, Refused
from tests.integration.certificates import server_context
from tests.integration.fault_server import (
    ATTACHED,
    OK,
    PACE,
    Behaviour,
    FaultServer,
    Heard,
    answer,
    drip,
    event,
    reading,
    redirect,
    say,
    serve,
    servers,
    stall,
)


async def test_a_healthy_stream_outlives_many_heartbeats() -> None:
    healthy = serve(event("a", b"1"), ATTACHED, event("b", b"2"))
    async with servers([healthy]) as [marathon], reading(marathon.url) as (heard, reader):
        await heard.until("b")
        await asyncio.sleep(3 * PACE.silence_s)
        assert heard.notes == ["attached", "a", "b"]
        assert (reader.is_attached, reader.attachments, reader.failures) == (True, 1, 0)
        assert reader.attached_to == marathon.url
        [request] = marathon.requests
        assert request.target == (
            "/v2/events?plan-format=light&event_type=event_stream_attached&event_type=a&event_type=b"
        )
        assert request.headers["accept"] == "text/event-stream"
        assert request.headers["accept-encoding"] == "identity"
        assert "authorization" not in request.headers


UNTYPED = OK.replace(b"Content-Type: text/event-stream;charset=utf-8\r\n", b"")
GZIP = OK[:-2] + b"Content-Encoding: gzip\r\n\r\n"
CHUNKED = OK[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNK = b"%x\r\n%s\r\n" % (len(ATTACHED), ATTACHED)
ELSEWHERE = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n"
FAULTS: dict[str, tuple[Behaviour, str]] = {
    "cut between events": (say(OK, ATTACHED, event("a")), "closed by the other side"),
    "stalled": (stall(OK, ATTACHED, event("a")), "silent for 0.5 s"),
    "stalled before the headers": (stall(), "no answer within 0.4 s"),
    "headers that never end": (drip(b"HTTP/1.1 200 OK\r\nX-Slow: ", drop=b"x"), "no answer within 0.4 s"),
    "headers too many": (drip(OK[:-2], drop=b"X-More: x\r\n", every_s=0), "Too many headers"),
    "stalled before the attachment": (stall(OK), "not subscribed 0.5 s after the attempt began"),
    "heartbeats but no attachment": (drip(OK), "not subscribed 0.5 s after the attempt began"),
    "events but no attachment": (drip(OK, drop=event("a")), "not subscribed 0.5 s"),
    "closed at once": (say(), "ServerDisconnectedError"),
    "accepted and closed": (say(OK), "closed by the other side"),
    "401": (answer("401 Unauthorized"), "answered 401 Unauthorized; check marathon.user"),
    "login page": (answer("200 OK", "text/html", b"<html>login</html>"), "sent text/html, not an event"),
    "no content type": (say(UNTYPED, ATTACHED), "without a content type"),
    "not HTTP": (say(b"\x00\x01\x02garbage\r\n\r\n"), "ClientResponseError"),
    "compressed": (say(GZIP + b"whatever it is"), "as gzip, which nobody asked for"),
    "chunked and torn": (say(CHUNKED, b"5\r\nab"), "ClientPayloadError"),
    "chunked and broken": (stall(CHUNKED, b"5\r\n: hi\n\r\n", b"no length\r\n"), "not subscribed 0.5 s"),
    "chunked and broken later": (stall(CHUNKED, CHUNK, b"no length\r\n"), "silent for 0.5 s"),
    "redirect without a place": (say(ELSEWHERE + b"\r\n"), "redirected to nowhere"),
    "redirect to nonsense": (say(ELSEWHERE + b"Location: ftp://x/\r\n\r\n"), "ftp://x"),
    "redirect to an unusable place": (say(ELSEWHERE + b"Location: http://[x\r\n\r\n"), "ValueError"),
    "redirect to a dead host": (redirect(lambda: "http://127.0.0.1:1"), "Cannot connect to host 127.0.0.1:1"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_after_a_fault_the_reader_attaches_again(fault: str) -> None:
    behaviour, reason = FAULTS[fault]
    script = [behaviour, behaviour, serve(event("b", b"after"))]
    async with servers(script) as [marathon], reading(marathon.url) as (heard, reader):
        await heard.until("b")
        assert heard.notes[-2:] == ["attached", "b"]
        assert heard.frames[-1].data == b"after"
        assert len(marathon.requests) >= 3
        assert reason in (reader.last_failure or "")
        assert heard.notes.count("detached") == heard.notes.count("attached") - 1


async def test_an_endless_redirect_is_given_up() -> None:
    script = [redirect(lambda: loop[0].url)] * 4 + [serve()]
    async with servers(script) as loop, reading(loop[0].url) as (heard, reader):
        await heard.until("attached")
        assert len(loop[0].requests) == 5
        assert "redirected more than 3 times" in (reader.last_failure or "")


async def test_the_body_of_a_redirect_is_not_waited_for() -> None:
    async with servers([serve()], [say()]) as [leader, standby]:
        head = f"HTTP/1.1 302 Found\r\nLocation: {leader.url}/v2/events\r\n\r\n".encode()
        standby.script = [drip(head, drop=b"for ever")]
        async with reading(standby.url) as (heard, reader):
            await heard.until("attached")
            assert (reader.failures, reader.attached_to) == (0, leader.url)
            assert leader.requests[0].target.startswith("/v2/events?plan-format=light")
            await standby.deserted()


async def test_a_large_event_passes_whole() -> None:
    big = b'{"x":"' + b"y" * 20_000_000 + b'"}'
    pace = Pace(silence_s=5, event_limit=32 * 1024 * 1024)
    async with (
        servers([serve(event("a", big), event("b"))]) as [marathon],
        reading(marathon.url, pace=pace) as (heard, reader),
    ):
        await heard.until("b", deadline_s=20)
        assert heard.frames[0].data == big
        assert reader.oversized == 0


async def test_an_oversized_event_is_counted_and_the_stream_goes_on() -> None:
    pieces = (event("a"), event("a", b"x" * 20_000), event("b", b"small"))
    pace = Pace(silence_s=5, event_limit=10_000)
    async with servers([serve(*pieces)]) as [marathon], reading(marathon.url, pace=pace) as (heard, reader):
        await heard.until("b")
        assert heard.notes == ["attached", "a", "lost oversized", "b"]
        assert (reader.oversized, reader.attachments) == (1, 1)


async def test_events_nobody_asked_for_are_counted_and_not_told() -> None:
    pieces = (event("c") * 3, b"data: nameless\n\n", event("b"))
    async with servers([serve(*pieces)]) as [marathon], reading(marathon.url) as (heard, reader):
        await heard.until("b")
        assert heard.notes == ["attached", "message", "b"]
        assert reader.unwanted == 3


async def test_a_refusing_endpoint_costs_nothing_while_another_serves() -> None:
    async with servers([serve()], [say()]) as [good, closed]:
        dead = "http://127.0.0.1:1"
        async with reading(dead, closed.url, good.url) as (heard, reader):
            await heard.until("attached")
            assert (reader.attached_to, reader.failures) == (good.url, 2)


async def test_the_reader_goes_on_to_the_next_endpoint_when_its_own_dies() -> None:
    first, second = [stall(OK, ATTACHED)], [serve()]
    async with servers(first, second) as [dying, other], reading(dying.url, other.url) as (heard, reader):
        await heard.until("attached", times=2)
        assert reader.attached_to == other.url


async def test_a_lookup_that_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go, lookups = threading.Event(), []
    ask = socket.getaddrinfo

    def resolve(host: str, *rest: Any, **more: Any) -> Any:
        if host != "marathon.test":
            return ask(host, *rest, **more)
        lookups.append(host)
        let_go.wait(30)
        return ask("127.0.0.1", *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    try:
        async with servers([say(OK, ATTACHED)]) as [good]:
            named = f"http://marathon.test:{good.port}"
            async with reading(named, good.url) as (heard, _):
                await heard.until("attached", times=3)
                assert lookups == ["marathon.test"]  # the attempts share one lookup: threads do not pile up
                let_go.set()
                async with asyncio.timeout(5):
                    while not any(asked.headers["host"] == named[7:] for asked in good.requests):
                        await asyncio.sleep(0.005)
    finally:
        let_go.set()


async def test_a_tls_handshake_that_never_ends_is_given_up() -> None:
    async with servers([serve()]) as [good]:
        silent = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        pace = Pace(connect_s=0.3)
        async with reading(f"https://127.0.0.1:{port}", good.url, pace=pace) as (heard, reader):
            await heard.until("attached")
            assert reader.last_failure == f"https://127.0.0.1:{port}: no connection within 0.3 s"
        silent.close()


async def test_the_leader_is_followed_but_told_no_secret() -> None:
    async with (
        servers([serve()], [redirect(lambda: leader.url)]) as [leader, standby],
        reading(standby.url, user="u", password="p") as (heard, reader),
    ):
        await heard.until("attached")
        assert standby.requests[0].headers["authorization"] == "Basic dTpw"
        assert "authorization" not in leader.requests[0].headers
        assert leader.requests[0].target == standby.requests[0].target
        assert reader.attached_to == leader.url


async def test_a_leader_that_is_configured_is_told() -> None:
    async with (
        servers([serve()], [redirect(lambda: leader.url)]) as [leader, standby],
        reading(standby.url, leader.url, token="t") as (heard, _),
    ):
        await heard.until("attached")
        assert leader.requests[0].headers["authorization"] == "token=t"


async def test_a_redirect_does_not_choose_who_we_say_we_are() -> None:
    async with servers([serve()], [say()]) as [leader, standby]:
        standby.script = [redirect(lambda: leader.url.replace("//", "//eve:secret@"))]
        async with reading(standby.url, user="u", password="p") as (heard, reader):
            await heard.until("attached")
            assert "authorization" not in leader.requests[0].headers
            assert reader.attached_to == leader.url


async def test_no_cookie_ties_the_reader_to_a_node() -> None:
    head = OK[:-2] + b"Set-Cookie: node=dead; Path=/\r\n\r\n"
    async with servers([say(head, ATTACHED), serve()]) as [marathon]:
        named = f"http://localhost:{marathon.port}"  # cookies of bare addresses are never kept
        async with reading(named) as (heard, _):
            await heard.until("attached", times=2)
        assert "cookie" not in marathon.requests[1].headers


def test_credentials_are_for_the_same_scheme_host_and_port() -> None:
    access = Access(("https://Marathon.example", "http://10.0.0.1:8080"), token="t")
    told = {"Authorization": "token=t"}
    for base, headers in {
        "https://marathon.example": told,
        "https://marathon.example:443": told,
        "http://10.0.0.1:8080": told,
        "http://marathon.example": {},
        "http://marathon.example:443": {},
        "https://marathon.example:8443": {},
        "https://10.0.0.1:8080": {},
        "http://10.0.0.1": {},
        "https://marathon.example.evil": {},
    }.items():
        assert access.headers(access.url(base, "/v2/events")) == headers, base


async def test_a_burst_is_read_in_order_while_others_run() -> None:
    burst = b"".join(event("a", b"%d" % number) for number in range(20_000))
    heard = Heard()
    seen = [0]

    async def look() -> None:
        while True:
            seen.append(len(heard.frames))
            await asyncio.sleep(0)

    looking = asyncio.create_task(look())
    async with (
        servers([serve(burst, event("b"))]) as [marathon],
        reading(marathon.url, heard=heard) as (_, reader),
    ):
        await heard.until("b")
        assert [frame.data for frame in heard.frames[:-1]] == [b"%d" % number for number in range(20_000)]
        assert (reader.behind, reader.overflowed) == (0, 0)
    looking.cancel()
    assert max(after - before for before, after in pairwise(seen)) <= 512


class Slow(Heard):
    """A listener that takes a millisecond for each event."""

    def event(self, frame: Frame) -> None:
        time.sleep(0.001)
        super().event(frame)


async def test_reading_does_not_wait_for_a_slow_listener() -> None:
    burst = event("a", b"x" * 1000) * 2000
    async with (
        servers([serve(burst, event("b"))]) as [marathon],
        reading(marathon.url, heard=Slow()) as (heard, reader),
    ):
        async with asyncio.timeout(5):
            while reader.bytes_read < len(burst):
                await asyncio.sleep(0)
        assert len(heard.frames) < 1000
        assert reader.max_behind > 1000
        await heard.until("b", deadline_s=20)
        assert len(heard.frames) == 2001


async def test_what_does_not_fit_is_dropped_and_told() -> None:
    pace = Pace(silence_s=5, inbox_limit=500_000)
    burst = event("a", b"x" * 1000) * 2000
    async with (
        servers([serve(burst)]) as [marathon],
        reading(marathon.url, pace=pace, heard=Slow()) as (heard, reader),
    ):
        await heard.until("lost overflow")
        async with asyncio.timeout(20):
            while reader.bytes_read < len(burst) or reader.behind:
                await asyncio.sleep(0.01)
        assert len(heard.frames) + reader.overflowed == 2000
        assert reader.overflowed > 0
        assert (reader.attachments, reader.failures) == (1, 0)


async def test_a_listener_that_breaks_costs_one_attachment() -> None:
    class Broken(Heard):
        def event(self, frame: Frame) -> None:
            super().event(frame)
            if self.notes.count("a") == 1:
                raise KeyError("defect")

    broken = Broken()
    async with (
        servers([serve(event("a"))]) as [marathon],
        reading(marathon.url, heard=broken) as (heard, reader),
    ):
        await heard.until("a", times=2)
        assert heard.notes == ["attached", "a", "detached", "attached", "a"]
        assert reader.last_failure == "listener failed: KeyError: 'defect'"


async def test_a_listener_that_must_end_the_daemon_does() -> None:
    class Fenced(Heard):
        def attached(self) -> None:
            raise Fatal("another daemon leads")

    async with servers([serve()]) as [marathon]:
        reader = StreamReader(Access((marathon.url,)), Fenced(), SystemClock(), random.Random(1), pace=PACE)
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(reader.run(), 5)
        assert caught.group_contains(Fatal)


async def test_an_answer_that_is_always_wrong_is_not_hammered() -> None:
    pace = Pace(silence_s=1, retry_base_s=0.1, retry_cap_s=0.4)
    async with servers([say(OK, ATTACHED)]) as [marathon], reading(marathon.url, pace=pace):
        await asyncio.sleep(2)
        assert 4 <= len(marathon.requests) <= 25


@pytest.mark.parametrize("endpoints", [(), ("ftp://x",), ("nonsense",), ("http://user:secret@host",)])
def test_unusable_endpoints_are_refused(endpoints: tuple[str, ...]) -> None:
    with pytest.raises(Refused) as caught:
        Access(endpoints)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_is_verified_against_the_ca_file(tmp_path: Path, trusted: bool) -> None:
    ca_file, context = server_context(tmp_path, "marathon")
    marathon = FaultServer([serve()])
    await marathon.start(context)
    access = {"ca_file": str(ca_file)} if trusted else {}
    try:
        async with reading(marathon.url.replace("http:", "https:"), **access) as (heard, reader):
            if trusted:
                await heard.until("attached")
                return
            async with asyncio.timeout(5):
                while reader.failures < 2:
                    await asyncio.sleep(0.005)
            assert "certificate verify failed" in (reader.last_failure or "")
            assert (heard.notes, marathon.requests) == ([], [])
    finally:
        await marathon.stop()


async def test_a_missing_ca_file_is_refused() -> None:
    access = Access(("https://127.0.0.1:1",), ca_file=Path("/nonexistent/ca.pem"))
    reader = StreamReader(access, Heard(), SystemClock(), random.Random(1))
    with pytest.raises(Refused, match=r"CA file /nonexistent/ca\.pem"):
        await reader.run()
