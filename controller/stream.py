"""The reader of Marathon's event stream.

One attachment after the other, for ever: connect to the next endpoint, follow a standby's redirect to
the leader by hand, read until the stream ends, is cut or falls silent, tell the listener, try again.

  * Marathon sends a heartbeat every 10 s.  A stream silent for `silence_s` (2.5 of them) is dead, even
    if TCP has not noticed; any byte counts as life.
  * The body is close-delimited: an orderly-looking end may be a crash.  Every end is therefore a loss,
    and whatever was missed is made up by a snapshot.
  * The subscription begins with `event_stream_attached`, which comes after the headers.  From that event
    on nothing is skipped; so that is when the listener hears `attached` and should take its snapshot.
  * Until then bytes prove nothing: a proxy may drip headers or pass on heartbeats of its own.  Every step
    of an attempt is bounded: the connection (name, TCP and TLS) by `connect_s`, each answer's headers by
    `answer_s`, everything up to the attachment by `silence_s`.
  * Every endpoint gets one attempt before the reader sleeps; then it sleeps with full jitter, at most
    `retry_cap_s`.  Only a stream that lived longer than that starts the count afresh, so a leader that
    accepts and closes at once is not hammered.

Reading never waits on applying: Marathon closes a consumer that falls 1,024 events behind.  What has been
read goes into the `inbox` in slices, and a task of its own applies it.  Reading in turn leaves the loop to
others after every piece, because it takes all that has arrived and then has to wait for the socket.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import structlog
from aiohttp import (
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    TCPConnector,
)
from yarl import URL

from mooring.cext import DEFAULT_LIMIT, Frame, Framer
from mooring.controller.access import Access
from mooring.controller.events import ATTACHED, WANTED
from mooring.controller.inbox import DEFAULT_INBOX, Inbox, Listener
from mooring.core.clock import Clock, full_jitter
from mooring.core.errors import Retryable

__all__ = ["Listener", "Pace", "StreamReader"]

log = structlog.get_logger()

_REDIRECTS = (301, 302, 303, 307, 308)
_CREDENTIALS = "; check marathon.user and password_file, or token_file"
_REMEDIES = {401: _CREDENTIALS, 403: _CREDENTIALS}
_READ_SIZE = 256 * 1024
_NAMES_KEPT_S = 1  # an address is looked up anew for nearly every attempt, but never twice at a time
_type = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Pace:
    """The reader's durations in seconds, and its limits."""

    silence_s: float = 25.0
    connect_s: float = 3.0
    answer_s: float = 10.0  # without a leader, Marathon answers after 2.5 s
    retry_base_s: float = 0.25
    retry_cap_s: float = 4.0
    event_limit: int = DEFAULT_LIMIT  # bytes
    inbox_limit: int = DEFAULT_INBOX  # bytes
    redirects: int = 3


class StreamReader:
    """Keeps one subscription alive. Its attributes are for status and metrics."""

    def __init__(
        self,
        access: Access,
        listener: Listener,
        clock: Clock,
        chance: random.Random,
        *,
        wanted: Sequence[str] = WANTED,
        pace: Pace | None = None,
    ) -> None:
        """Ask for the event types `wanted`, besides the one that marks the attachment."""
        self._access = access
        self._clock = clock
        self._chance = chance
        self._pace = pace or Pace()
        self._wanted = tuple(dict.fromkeys((ATTACHED, *wanted)))
        self._query = [("plan-format", "light"), *(("event_type", name) for name in self._wanted)]
        self._inbox = Inbox(listener, clock, self._pace.inbox_limit, self._listener_broke)
        self._limit: asyncio.Timeout | None = None  # ends the attempt that is under way
        self._broken = ""  # how the listener failed during it
        self.is_attached = False
        self.attached_to: str | None = None  # the URL's origin
        self.attachments = 0
        self.failures = 0  # attempts and streams that ended, each with a reason in the log
        self.last_failure: str | None = None
        self.bytes_read = 0
        self.events_read = 0
        self.oversized = 0  # events over `Pace.event_limit`
        self.unwanted = 0  # events of types we did not ask for

    @property
    def behind(self) -> int:
        """How many events have been read and not yet applied."""
        return self._inbox.behind

    @property
    def max_behind(self) -> int:
        """The most there has been of `behind`."""
        return self._inbox.max_behind

    @property
    def overflowed(self) -> int:
        """Events dropped because too many were waiting to be applied."""
        return self._inbox.overflowed

    async def run(self) -> None:
        """Read until cancelled. Raises `Refused` at once if the CA file is unusable."""
        tls = self._access.tls()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._inbox.apply(), name="stream inbox")
            group.create_task(self._stay_attached(tls), name="stream reader")

    async def _stay_attached(self, tls: ssl.SSLContext | bool) -> None:
        async with self._session(tls) as session:
            turn = 0
            attempt = 0
            while True:
                endpoint = self._access.endpoints[turn % len(self._access.endpoints)]
                began = self._clock.monotonic()
                reason = await self._attempt(session, endpoint)
                lived = self._clock.monotonic() - began
                was_attached = self._detach(reason)
                log.warning("stream ended", endpoint=endpoint, reason=reason, attached=was_attached)
                turn += 1
                if was_attached and lived > self._pace.retry_cap_s:
                    attempt = 0
                if was_attached or turn % len(self._access.endpoints) == 0:
                    await self._back_off(attempt)
                    attempt += 1

    def _session(self, tls: ssl.SSLContext | bool) -> ClientSession:
        return ClientSession(
            connector=TCPConnector(ssl=tls, force_close=True, ttl_dns_cache=_NAMES_KEPT_S),
            timeout=ClientTimeout(total=None, connect=self._pace.connect_s),
            read_bufsize=_READ_SIZE,
            auto_decompress=False,  # a compressed stream is refused; nothing of it shall be inflated before
            cookie_jar=DummyCookieJar(),  # a balancer's cookie would tie us to the node that just failed
            trust_env=False,
        )

    async def _back_off(self, attempt: int) -> None:
        pace = self._pace
        await self._clock.sleep(full_jitter(pace.retry_base_s, attempt, pace.retry_cap_s, self._chance))

    def _detach(self, reason: str) -> bool:
        """Record the end of an attempt; whether it had been attached."""
        was_attached = self.is_attached
        self.failures += 1
        self.last_failure = reason
        self.is_attached = False
        self.attached_to = None
        if was_attached:
            self._inbox.detached(reason)
        return was_attached

    def _listener_broke(self, reason: str) -> None:
        if self._limit is not None and not self._limit.expired():
            self._broken = reason
            self._limit.reschedule(asyncio.get_running_loop().time())

    async def _attempt(self, session: ClientSession, endpoint: str) -> str:
        """Connect and read to the end; returns why it ended."""
        self._broken = ""
        try:
            async with asyncio.timeout(self._pace.silence_s) as self._limit:
                return await self._follow(session, self._access.url(endpoint, "/v2/events"))
        except Retryable as error:
            return str(error)
        except (ClientError, OSError, ValueError) as error:
            if self._limit is not None and self._limit.expired():
                return self._broken or self._overdue()
            return f"{type(error).__name__}: {error}"
        except Exception as error:
            # A defect here costs one attachment and a snapshot, not the daemon's hearing.
            log.exception("stream reader failed")
            return f"reader failed: {type(error).__name__}: {error}"
        finally:
            self._limit = None

    def _overdue(self) -> str:
        if self.is_attached:
            return f"silent for {self._pace.silence_s:g} s"
        return f"not subscribed {self._pace.silence_s:g} s after the attempt began"

    async def _follow(self, session: ClientSession, url: URL) -> str:
        url = url.with_query(self._query)
        for _ in range(self._pace.redirects + 1):
            response = await self._ask(session, url)
            try:
                if response.status not in _REDIRECTS:
                    return await self._read(response)
                url = self._redirected(response)
            finally:
                response.close()  # what its body still holds, perhaps without end, interests nobody
        raise Retryable(f"redirected more than {self._pace.redirects} times, last to {url.origin()}")

    async def _ask(self, session: ClientSession, url: URL) -> ClientResponse:
        headers = {
            "Accept": "text/event-stream",  # exactly this, or Marathon answers 405
            "Accept-Encoding": "identity",
            "Cache-Control": "no-cache",
            **self._access.headers(url),
        }
        try:
            async with asyncio.timeout(self._pace.answer_s):
                return await session.get(url, headers=headers, allow_redirects=False)
        except ConnectionTimeoutError as error:
            raise Retryable(f"{url.origin()}: no connection within {self._pace.connect_s:g} s") from error
        except TimeoutError as error:
            raise Retryable(f"{url.origin()}: no answer within {self._pace.answer_s:g} s") from error

    def _redirected(self, response: ClientResponse) -> URL:
        location = response.headers.get("Location")
        if not location:
            raise Retryable(f"{response.url.origin()} redirected to nowhere")
        url = response.url.join(URL(location)).with_user(None)  # it may not choose who we say we are
        return url if url.query else url.with_query(self._query)

    async def _read(self, response: ClientResponse) -> str:
        _must_be_a_stream(response)
        origin = str(response.url.origin())
        framer = Framer(self._pace.event_limit, wanted=self._wanted)
        async for piece in response.content.iter_any():
            self._take(piece, framer, origin)
        return "closed by the other side"

    def _take(self, piece: bytes, framer: Framer, origin: str) -> None:
        """Cut one piece of the stream into events and hand them over, as one slice."""
        self.bytes_read += len(piece)
        skipped, unwanted = framer.skipped, framer.unwanted
        frames = framer.feed(piece)
        self.events_read += len(frames)
        self.unwanted += framer.unwanted - unwanted
        if ATTACHED in map(_type, frames):
            self._take_attachment(frames, origin)
        else:
            self._inbox.put(frames)
        if framer.skipped > skipped:
            self.oversized += framer.skipped - skipped
            log.warning("event skipped", reason="oversized", limit=self._pace.event_limit)
            self._inbox.lost("oversized")
        if self.is_attached and not self._broken:
            self._postpone_death()

    def _postpone_death(self) -> None:
        # aiohttp has a timeout of its own between two reads, but a body that breaks its chunked encoding
        # stops that timer, and the stream then neither ends nor fails (seen with 3.14).
        assert self._limit is not None, "nothing is read outside of an attempt"
        self._limit.reschedule(asyncio.get_running_loop().time() + self._pace.silence_s)

    def _take_attachment(self, frames: list[Frame], origin: str) -> None:
        """Hand the events over without the attachment; ours is the first, later ones are other consumers'."""
        for is_attachment, some in groupby(frames, lambda frame: frame.event == ATTACHED):
            if not is_attachment:
                self._inbox.put(list(some))
            elif not self.is_attached:
                self._attach(origin)

    def _attach(self, origin: str) -> None:
        self.is_attached = True
        self.attached_to = origin
        self.attachments += 1
        log.info("stream attached", endpoint=origin)
        self._inbox.attached()


def _must_be_a_stream(response: ClientResponse) -> None:
    """Raises `Retryable` for an answer that is no event stream, or not as we can read it."""
    origin = response.url.origin()
    if response.status != 200:
        remedy = _REMEDIES.get(response.status, "")
        raise Retryable(f"{origin} answered {response.status} {response.reason}{remedy}")
    if "Content-Type" not in response.headers:
        raise Retryable(f"{origin} sent something without a content type, not an event stream")
    if response.content_type != "text/event-stream":
        raise Retryable(f"{origin} sent {response.content_type}, not an event stream")
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise Retryable(
            f"{origin} sent the stream as {encoding}, which nobody asked for; a proxy compresses it"
        )
