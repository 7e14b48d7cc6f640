"""The stream reader against real sockets that misbehave in every way seen in the field.

`FaultServer` speaks raw HTTP: each connection is answered by the next behaviour of its script, the last
one for ever.  Durations are shortened by `Pace`; nothing waits but for a deadline.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mooring.cext import Frame
from mooring.controller.access import Access
from mooring.controller.stream import Pace, StreamReader
from mooring.core.clock import SystemClock
from mooring.core.errors import Refused

PACE = Pace(silence_s=0.4, connect_s=0.5, retry_base_s=0.01, retry_cap_s=0.05)
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=utf-8\r\nConnection: close\r\n\r\n"
ATTACHED = b'event: event_stream_attached\r\ndata: {"remoteAddress":"127.0.0.1"}\r\n\r\n'
Behaviour = Callable[["FaultServer", asyncio.StreamWriter], Awaitable[None]]


def event(name: str, data: bytes = b"{}") -> bytes:
    return b"event: %s\r\ndata: %s\r\n\r\n" % (name.encode(), data)


@dataclass
class Request:
    target: str
    headers: dict[str, str]


@dataclass
class FaultServer:
    """Answers connections by a script; `script[-1]` repeats."""

    script: list[Behaviour]
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = (line.split(": ", 1) for line in head[1:] if line)
            self.requests.append(Request(head[0].split()[1], {name.lower(): value for name, value in pairs}))
            behaviour = self.script.pop(0) if len(self.script) > 1 else self.script[0]
            await behaviour(self, writer)
            await writer.drain()
        writer.close()
        self._connections.discard(connection)


def say(*pieces: bytes) -> Behaviour:
    """Send the pieces, each flushed on its own, and close."""

    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.001)

    return behave


def serve(*pieces: bytes) -> Behaviour:
    """A healthy stream: attached, the pieces, then split heartbeats for ever."""

    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        await say(OK, ATTACHED, *pieces)(server, writer)
        while True:
            await say(b"\r", b"\n")(server, writer)
            await asyncio.sleep(0.05)

    return behave


def stall(*pieces: bytes) -> Behaviour:
    """Send the pieces, then keep the connection open and silent."""

    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        await say(*pieces)(server, writer)
        await asyncio.sleep(60)

    return behave


def redirect(location: Callable[[], str]) -> Behaviour:
    async def behave(server: FaultServer, writer: asyncio.StreamWriter) -> None:
        target = server.requests[-1].target
        writer.write(
            f"HTTP/1.1 302 Found\r\nLocation: {location()}{target}\r\nContent-Length: 0\r\n\r\n".encode()
        )

    return behave


def answer(status: str, content_type: str = "text/plain", body: bytes = b"no") -> Behaviour:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return say(head.encode() + body)


class Heard:
    """A listener that writes down what it hears, and can be waited for."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.frames: list[Frame] = []

    def attached(self) -> None:
        self.notes.append("attached")

    def event(self, frame: Frame) -> None:
        self.notes.append(frame.event)
        self.frames.append(frame)

    def lost(self, reason: str) -> None:
        self.notes.append(f"lost {reason}")

    def detached(self, reason: str) -> None:
        self.notes.append("detached")
        self.reason = reason

    async def until(self, note: str, times: int = 1, deadline_s: float = 5.0) -> None:
        async with asyncio.timeout(deadline_s):
            while self.notes.count(note) < times:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def servers(*scripts: list[Behaviour]) -> AsyncIterator[list[FaultServer]]:
    started = [FaultServer(list(script)) for script in scripts]
    for server in started:
        await server.start()
    try:
        yield started
    finally:
        for server in started:
            await server.stop()


@asynccontextmanager
async def reading(
    *endpoints: str, pace: Pace = PACE, heard: Heard | None = None, **access: str
) -> AsyncIterator[tuple[Heard, StreamReader]]:
    heard = heard or Heard()
    where = Access(endpoints, **access)  # type: ignore[arg-type]
    reader = StreamReader(where, heard, SystemClock(), random.Random(1), wanted=["a", "b"], pace=pace)
    task = asyncio.create_task(reader.run())
    try:
        yield heard, reader
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_healthy_stream_outlives_many_heartbeats() -> None:
    async with (
        servers([serve(event("a", b"1"), event("b", b"2"))]) as [marathon],
        reading(marathon.url) as (
            heard,
            reader,
        ),
    ):
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
        assert "authorization" not in request.headers


FAULTS = {
    "cut between events": say(OK, ATTACHED, event("a")),
    "cut in the middle of an event": say(OK, ATTACHED, event("a"), b"event: b\r\ndata: {"),
    "stalled": stall(OK, ATTACHED, event("a")),
    "stalled before the headers": stall(),
    "stalled before the attachment": stall(OK),
    "closed at once": say(),
    "accepted and closed": say(OK),
    "503 at failover": answer("503 Service Unavailable"),
    "401": answer("401 Unauthorized"),
    "wrong content type": answer("200 OK", "text/html", b"<html>login</html>"),
    "not HTTP": say(b"\x00\x01\x02garbage\r\n\r\n"),
    "gzip garbage": say(OK[:-2] + b"Content-Encoding: gzip\r\n\r\n", b"not gzip at all" * 100),
    "chunked and torn": say(OK[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nab"),
    "redirect without a place": say(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"),
    "redirect to nonsense": say(b"HTTP/1.1 302 Found\r\nLocation: ftp://x/\r\nContent-Length: 0\r\n\r\n"),
    "redirect to a dead host": redirect(lambda: "http://127.0.0.1:1"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_after_a_fault_the_reader_attaches_again(fault: str) -> None:
    healthy = serve(event("b", b"after"))
    async with (
        servers([FAULTS[fault], FAULTS[fault], healthy]) as [marathon],
        reading(marathon.url) as (
            heard,
            reader,
        ),
    ):
        await heard.until("b")
        assert heard.notes[-2:] == ["attached", "b"]
        assert heard.frames[-1].data == b"after"
        assert len(marathon.requests) >= 3
        assert reader.last_failure
        assert heard.notes.count("detached") == heard.notes.count("attached") - 1


async def test_an_endless_redirect_is_given_up() -> None:
    async with (
        servers([redirect(lambda: loop[0].url)] * 4 + [serve()]) as loop,
        reading(loop[0].url) as (
            heard,
            reader,
        ),
    ):
        await heard.until("attached")
        assert len(loop[0].requests) == 5
        assert "redirected more than 3 times" in (reader.last_failure or "")


async def test_a_large_event_passes_whole() -> None:
    big = b'{"x":"' + b"y" * 20_000_000 + b'"}'
    pace = Pace(silence_s=5, event_limit=32 * 1024 * 1024)
    async with (
        servers([serve(event("a", big), event("b"))]) as [marathon],
        reading(marathon.url, pace=pace) as (heard, reader),
    ):
        await heard.until("b", deadline_s=20)
        assert len(heard.frames[0].data) == len(big)
        assert reader.oversized == 0


async def test_an_oversized_event_is_counted_and_the_stream_goes_on() -> None:
    pieces = (event("a", b"x" * 20_000_000), event("b", b"small"))
    pace = Pace(silence_s=5)
    async with servers([serve(*pieces)]) as [marathon], reading(marathon.url, pace=pace) as (heard, reader):
        await heard.until("b", deadline_s=20)
        assert heard.notes == ["attached", "lost oversized", "b"]
        assert (reader.oversized, reader.attachments) == (1, 1)


async def test_a_refusing_endpoint_costs_nothing_while_another_serves() -> None:
    async with servers([serve()], [say()]) as [good, closed]:
        await closed.stop()
        await closed.start()
        dead = "http://127.0.0.1:1"
        async with reading(dead, closed.url, good.url) as (heard, reader):
            await heard.until("attached", deadline_s=2)
            assert reader.attached_to == good.url


async def test_a_name_that_does_not_resolve_is_passed_over() -> None:
    async with servers([serve()]) as [good], reading("http://nowhere.invalid:8080", good.url) as (heard, _):
        await heard.until("attached")


async def test_the_reader_goes_on_to_the_next_endpoint_when_its_own_dies() -> None:
    async with (
        servers([stall(OK, ATTACHED)], [serve()]) as [first, second],
        reading(first.url, second.url) as (heard, reader),
    ):
        await heard.until("attached", times=2)
        assert reader.attached_to == second.url


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


async def test_a_burst_is_read_in_order() -> None:
    burst = b"".join(event("a", b"%d" % number) for number in range(20_000))
    async with servers([serve(burst, event("b"))]) as [marathon], reading(marathon.url) as (heard, _):
        await heard.until("b")
        assert [frame.data for frame in heard.frames[:-1]] == [b"%d" % number for number in range(20_000)]


async def test_a_listener_that_breaks_costs_one_attachment() -> None:
    class Broken(Heard):
        def event(self, frame: Frame) -> None:
            super().event(frame)
            if self.notes.count("a") == 1:
                raise KeyError("defect")

    async with (
        servers([serve(event("a"))]) as [marathon],
        reading(marathon.url, heard=Broken()) as (
            heard,
            reader,
        ),
    ):
        await heard.until("a", times=2)
        assert heard.notes == ["attached", "a", "detached", "attached", "a"]
        assert reader.last_failure == "listener failed: KeyError: 'defect'"


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


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "marathon")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2120, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(signed.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return folder / "cert.pem", folder / "key.pem"


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_is_verified_against_the_ca_file(certificate: tuple[Path, Path], trusted: bool) -> None:
    marathon = FaultServer([serve()])
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    await marathon.start(context)
    access = {"ca_file": str(certificate[0])} if trusted else {}
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
    reader = StreamReader(
        Access(("https://127.0.0.1:1",), ca_file="/nonexistent/ca.pem"),  # type: ignore[arg-type]
        Heard(),
        SystemClock(),
        random.Random(1),
    )
    with pytest.raises(Refused, match=r"CA file /nonexistent/ca\.pem"):
        await reader.run()
