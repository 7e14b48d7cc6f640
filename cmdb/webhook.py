"""An inventory elsewhere that takes signed HTTP requests.

Each item is one resource: `PUT <base>/items/<key>` with its whole state as JSON, so that repeating a request
is harmless; `owner` in it tells several Moorings apart.  Retiring an item is the same request with the status
"retired" and `ended_at` (Unix seconds); nothing is ever deleted over there.

A receiver may also tell what it holds: `GET <base>/items` answers with one JSON object, the state of each
item by key, as it was sent.  Then lost and altered items are found and sent again; one that answers 404, 405
or 501 is taken at its word.

    X-Mooring-Signature   sha256=<HMAC-SHA256 of the body, in hex>; the body holds the key, so it cannot be
                          used for another item
    X-Mooring-Epoch       which daemon speaks; with `generation` in the body a receiver can ignore what is
                          older than what it has: compare (epoch, generation)
    Idempotency-Key       the same for each attempt of one change, another for each other change

Answers: 2xx is success.  408, 409, 425, 429 and 5xx are tried again, after `Retry-After` if it is given.
Anything else needs a person, also a redirect: following one could carry the body to somebody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from yarl import URL

from mooring.cmdb.items import Entry, Roll
from mooring.cmdb.reading import read_listing
from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.model import BindingId, SinkName
from mooring.core.sink import Change, Done, NotPossible, Observation, Outcome, RetryAfter, Unreadable
from mooring.core.specs import ItemSpec, Spec

_AGAIN = frozenset({408, 409, 425, 429})
_NO_LISTING = frozenset({404, 405, 501})
_LONGEST_WAIT_S = 3600.0  # a receiver must not be able to park us for ever
_EXCERPT = 200  # bytes of an error answer that a message quotes


@dataclass(slots=True)
class _Flight:
    """What the requests of one batch share."""

    slots: asyncio.Semaphore
    in_turn: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))
    fruitless: int = 0  # requests without an answer since the last one with an answer
    down: str | None = None  # the receiver is away: the rest of the batch need not find out one by one


class Webhook:
    """The sink over HTTP."""

    name = SinkName("webhook")

    def __init__(
        self,
        session: aiohttp.ClientSession,
        base_url: str,
        *,
        secret: str,
        owner: str,
        clock: Clock,
        timeout_s: float = 10.0,
        parallel: int = 8,
    ) -> None:
        """The session stays the caller's to close; a request takes at most `timeout_s` seconds.

        `owner` is the mark in every item.
        """
        parts = urlsplit(base_url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Refused(f"webhook: {base_url!r} is not an http or https address")
        if not secret:
            raise Refused("webhook: the secret of the signature is empty")
        self._session = session
        self._base = base_url.rstrip("/")
        self._secret = secret.encode()
        self._owner = owner
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._timeout_s = timeout_s
        self._parallel = parallel
        self._roll = Roll()

    def lane(self, change: Change) -> str:
        """One receiver, one lane; requests of a batch go in parallel."""
        return "webhook"

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """See `core.sink`."""
        entries = self._roll.entries(changes)
        flight = _Flight(asyncio.Semaphore(self._parallel))
        outcomes = await asyncio.gather(
            *(self._show(change, entry, flight) for change, entry in zip(changes, entries, strict=True))
        )
        self._roll.settled(changes, outcomes)
        return outcomes

    async def observe(self) -> Observation:
        """What the receiver says it holds, by item key."""
        url = f"{self._base}/items"
        headers = {"Accept": "application/json", "X-Mooring-Signature": self._signature(b"")}
        try:
            async with self._session.get(
                URL(url, encoded=True), headers=headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                if answer.status in _NO_LISTING:
                    raise Unreadable(f"webhook {url} offers no listing ({answer.status})")
                if answer.status != 200:
                    raise _unread(url, answer.status)
                body = await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Retryable(f"webhook {url}: {self._described(error)}") from error
        try:
            return await read_listing(body, self._owner)
        except Refused as error:
            raise Refused(f"webhook {url}: {error}") from error

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """See `core.sink`."""
        self._roll.prime(shown)

    async def check(self) -> str:
        """Ask with OPTIONS, which changes nothing; any answer but a refusal of us or a failure will do."""
        url = f"{self._base}/items"
        headers = {"X-Mooring-Signature": self._signature(b"")}
        try:
            async with self._session.options(
                URL(url, encoded=True), headers=headers, timeout=self._timeout, allow_redirects=False
            ) as answer:
                status = answer.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Retryable(f"webhook {url}: {self._described(error)}") from error
        if status in {401, 403}:
            raise Refused(f"webhook {url} does not accept us ({status}); compare the secret on both sides")
        if status >= 500:
            raise Retryable(f"webhook {url} fails ({status})")
        return f"webhook {url}: answered {status} to OPTIONS"

    async def _show(self, change: Change, entry: Entry, flight: _Flight) -> Outcome:
        for item in entry.retire:
            outcome = await self._put(change, item, flight, retired=True)
            if not isinstance(outcome, Done):
                return outcome
        if entry.put is not None:
            return await self._put(change, entry.put, flight, retired=False)
        return Done(changed=bool(entry.retire))

    async def _put(self, change: Change, item: ItemSpec, flight: _Flight, *, retired: bool) -> Outcome:
        state = {
            **msgspec.structs.asdict(item),
            **({"status": "retired"} if retired else {}),
            "owner": self._owner,
            "epoch": change.epoch,
            "generation": change.generation,
        }
        # When it ended differs between attempts, the identity of the request must not.
        identity = hashlib.sha256(_encoded(state)).hexdigest()
        body = _encoded({**state, "ended_at": self._clock.now()} if retired else state)
        headers = {
            "Content-Type": "application/json",
            "Idempotency-Key": identity,
            "X-Mooring-Epoch": str(change.epoch),
            "X-Mooring-Signature": self._signature(body),
        }
        # Two requests for one item, by bindings that hand a seat over, keep their order.
        async with flight.in_turn[item.key], flight.slots:
            return (
                RetryAfter(flight.down) if flight.down else await self._send(item.key, body, headers, flight)
            )

    async def _send(self, key: str, body: bytes, headers: Mapping[str, str], flight: _Flight) -> Outcome:
        url = f"{self._base}/items/{quote(key, safe='')}"
        try:
            async with self._session.put(
                URL(url, encoded=True),
                data=body,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
            ) as answer:
                flight.fruitless = 0
                return await _verdict(url, answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = f"webhook {url}: {self._described(error)}"
            flight.fruitless += 1
            if flight.fruitless >= self._parallel:  # not one poisonous item but the receiver itself
                flight.down = reason
            return RetryAfter(reason)

    def _described(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer in {self._timeout_s} s"
        return str(error) or type(error).__name__

    def _signature(self, body: bytes) -> str:
        return "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()


def _unread(url: str, status: int) -> Refused | Retryable:
    if status in _AGAIN or status >= 500:
        return Retryable(f"webhook {url} fails ({status})")
    return Refused(f"webhook {url} does not let us read it ({status}); compare the secret on both sides")


async def _verdict(url: str, answer: aiohttp.ClientResponse) -> Outcome:
    if 200 <= answer.status < 300:
        return Done()
    excerpt = (await answer.content.read(_EXCERPT)).decode("utf-8", "replace")
    reason = f"webhook {url} answered {answer.status}: {excerpt!r}"
    if answer.status in _AGAIN or answer.status >= 500:
        return RetryAfter(reason, _wait(answer.headers.get("Retry-After")))
    if 300 <= answer.status < 400:
        target = answer.headers.get("Location", "")
        return NotPossible(f"webhook {url} redirects ({answer.status}) to {target!r}; configure that address")
    return NotPossible(reason)


def _wait(header: str | None) -> float | None:
    """Seconds from a `Retry-After`; its other form, a date, is left to the queue's back-off."""
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    return min(float(header), _LONGEST_WAIT_S)


def _encoded(state: Mapping[str, object]) -> bytes:
    return msgspec.json.encode(state, order="deterministic")
