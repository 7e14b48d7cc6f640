"""The reader of Marathon's event stream.

One attachment after the other, for ever: connect to the next endpoint, follow a standby's redirect to
the leader by hand, read until the stream ends, is cut or falls silent, tell the listener, try again.

  * Marathon sends a heartbeat every 10 s.  A stream silent for `silence_s` (2.5 of them) is dead, even
    if TCP has not noticed; any byte counts as life.
  * The body is close-delimited: an orderly-looking end may be a crash.  Every end is therefore a loss,
    and whatever was missed is made up by a snapshot.
  * The subscription begins with `event_stream_attached`, which comes after the headers.  From that event
    on nothing is skipped; so that is when the listener hears `attached` and should take its snapshot.
  * Every endpoint gets one attempt before the reader sleeps; then it sleeps with full jitter, at most
    `retry_cap_s`.  Only a stream that lived longer than that starts the count afresh, so a leader that
    accepts and closes at once is not hammered.

Reading never waits on applying: the listener is called synchronously and must do bounded work for each
event (merge it and mark a key).  Marathon closes a consumer that falls 1,024 events behind.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector
from yarl import URL

from mooring.cext import DEFAULT_LIMIT, Frame, Framer
from mooring.controller.access import Access
from mooring.controller.events import ATTACHED, WANTED
from mooring.core.clock import Clock, full_jitter
from mooring.core.errors import Retryable

log = structlog.get_logger()

_REDIRECTS = (301, 302, 303, 307, 308)
_READ_SIZE = 256 * 1024


class Listener(Protocol):
    """Who hears the stream. Called in order, synchronously; must not block and not raise."""

    def attached(self) -> None:
        """From now on every event arrives: a snapshot is due."""

    def event(self, frame: Frame) -> None:
        """One event."""

    def lost(self, reason: str) -> None:
        """An event's content was lost ("oversized", ...): a snapshot is due."""

    def detached(self, reason: str) -> None:
        """The stream that had been attached ended."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The reader's durations in seconds, and its limits."""

    silence_s: float = 25.0
    connect_s: float = 3.0
    retry_base_s: float = 0.25
    retry_cap_s: float = 4.0
    event_limit: int = DEFAULT_LIMIT  # bytes
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
        self._listener = listener
        self._clock = clock
        self._chance = chance
        self._pace = pace or Pace()
        self._query = [
            ("plan-format", "light"),
            *(("event_type", name) for name in dict.fromkeys((ATTACHED, *wanted))),
        ]
        self.is_attached = False
        self.attached_to: str | None = None  # the URL's origin
        self.attachments = 0
        self.failures = 0  # attempts and streams that ended, each with a reason in the log
        self.last_failure: str | None = None
        self.last_byte_at: float | None = None  # monotonic seconds
        self.bytes_read = 0
        self.events_read = 0
        self.oversized = 0

    async def run(self) -> None:
        """Read until cancelled. Raises `Refused` at once if the CA file is unusable."""
        timeout = ClientTimeout(total=None, sock_connect=self._pace.connect_s, sock_read=self._pace.silence_s)
        connector = TCPConnector(ssl=self._access.tls(), force_close=True)
        async with ClientSession(
            connector=connector, timeout=timeout, read_bufsize=_READ_SIZE, trust_env=False
        ) as session:
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
            self._listener.detached(reason)
        return was_attached

    async def _attempt(self, session: ClientSession, endpoint: str) -> str:
        """Connect and read to the end; returns why it ended."""
        try:
            return await self._follow(session, self._access.url(endpoint, "/v2/events"))
        except Retryable as error:
            return str(error)
        except (ClientError, OSError, ValueError) as error:  # a silent stream is a TimeoutError, an OSError
            return f"{type(error).__name__}: {error}"
        except Exception as error:
            # A defect in the listener costs one attachment and a snapshot, not the daemon's hearing.
            log.exception("listener failed")
            return f"listener failed: {type(error).__name__}: {error}"

    async def _follow(self, session: ClientSession, url: URL) -> str:
        url = url.with_query(self._query)
        for _ in range(self._pace.redirects + 1):
            headers = {
                "Accept": "text/event-stream",  # exactly this, or Marathon answers 405
                "Accept-Encoding": "identity",
                "Cache-Control": "no-cache",
                **self._access.headers(url),
            }
            async with session.get(url, headers=headers, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._read(response)
                location = response.headers.get("Location")
                if not location:
                    raise Retryable(f"{url.origin()} redirected to nowhere")
                url = url.join(URL(location))
                url = url if url.query else url.with_query(self._query)
        raise Retryable(f"redirected more than {self._pace.redirects} times, last to {url.origin()}")

    async def _read(self, response: ClientResponse) -> str:
        if response.status != 200:
            raise Retryable(f"{response.url.origin()} answered {response.status} {response.reason}")
        if response.content_type != "text/event-stream":
            raise Retryable(f"{response.url.origin()} sent {response.content_type}, not an event stream")
        framer = Framer(self._pace.event_limit)
        skipped = 0
        async for piece in response.content.iter_any():
            self.last_byte_at = self._clock.monotonic()
            self.bytes_read += len(piece)
            for frame in framer.feed(piece):
                self._hand_over(frame, response.url)
            if framer.skipped > skipped:
                self.oversized += framer.skipped - skipped
                skipped = framer.skipped
                log.warning("event skipped", reason="oversized", limit=self._pace.event_limit)
                self._listener.lost("oversized")
        return "closed by the other side"

    def _hand_over(self, frame: Frame, url: URL) -> None:
        self.events_read += 1
        if frame.event != ATTACHED:
            self._listener.event(frame)
        elif not self.is_attached:  # the event is sent to every consumer whenever anybody attaches
            self.is_attached = True
            self.attached_to = str(url.origin())
            self.attachments += 1
            log.info("stream attached", endpoint=self.attached_to)
            self._listener.attached()
