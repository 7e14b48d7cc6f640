"""The REST side of Marathon: complete listings, and one app's listing.

A listing counts only if it shows one Marathon, ours: the framework id and the leader are asked before and
after, and if either changed in between, or the framework is not the one we first saw, it is thrown away.
So is a reply of the wrong type, a truncated one, and anything that does not decode.  What is thrown away
raises `Retryable`, or `OtherCluster` if waiting cannot help; it never becomes an empty listing.  One app that
is listed in a way we cannot read is named as such and left as it was known; the others count.

A listing of fifty thousand tasks is thirty megabytes.  It is never held as a whole: it is cut into its apps
while it arrives, each is decoded by itself, and the event loop runs in between.

Any endpoint will do, because standbys proxy to the leader.  All of one listing is asked of one endpoint, the
first that proves to be ours; that one is asked first the next time, unless it failed meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import TypeVar

import msgspec
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, TCPConnector

from mooring.cext import ArraySplitter, ElementTooLong
from mooring.controller.access import Access
from mooring.controller.breath import Breath
from mooring.controller.listing import (
    AppListing,
    Snapshot,
    app_steps,
    listed_app_steps,
    read_listed_id,
    read_listed_pod,
)
from mooring.core.clock import Clock
from mooring.core.errors import Refused, Retryable
from mooring.core.model import AppId, InstanceId

_Reply = TypeVar("_Reply")
_READ_SIZE = 256 * 1024
_LONGEST_MIB = 128  # of one app or pod with all its tasks: some 200,000 of them
_AT_ONCE = 8  # listings of single apps
_CONNECT_S = 3.0  # the look-up of the name and TLS included


class OtherCluster(Refused):
    """The endpoint serves another Marathon than the one this daemon follows."""


class _Info(msgspec.Struct, rename="camel"):
    framework_id: str | None = None
    leader: str | None = None
    version: str = ""


class _Leader(msgspec.Struct):
    leader: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Which Marathon answered."""

    framework: str
    leader: str
    version: str


class Marathon:
    """Asks Marathon what there is. Use as an async context manager."""

    def __init__(
        self, access: Access, clock: Clock, *, framework: str | None = None, timeout_s: float = 30.0
    ) -> None:
        """`framework` is the id seen in an earlier life; None accepts the first one that answers."""
        self.framework = framework
        self._access = access
        self._clock = clock
        self._endpoints = list(access.endpoints)
        self._timeout = ClientTimeout(total=timeout_s, connect=min(_CONNECT_S, timeout_s))
        self._session: ClientSession | None = None

    async def __aenter__(self) -> Marathon:
        self._session = ClientSession(
            connector=TCPConnector(ssl=self._access.tls()),
            timeout=self._timeout,
            read_bufsize=_READ_SIZE,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def identity(self) -> Identity:
        """Who answers. Raises `Retryable`, or `OtherCluster` if it is not the Marathon we follow."""
        return (await self._ours())[1]

    async def _ours(self) -> tuple[str, Identity]:
        """The first endpoint that serves the Marathon that this daemon follows, and who answers there."""
        problems, strangers = [], []
        for endpoint in list(self._endpoints):
            try:
                found = await self._identity(endpoint)
            except Retryable as error:
                problems.append(str(error))
                continue
            if self.framework in (None, found.framework):
                self._endpoints.remove(endpoint)
                self._endpoints.insert(0, endpoint)
                return endpoint, found
            strangers.append(f"{endpoint} serves framework {found.framework}")
        if strangers:
            raise OtherCluster(
                f"{', '.join(strangers)}, but this daemon follows {self.framework}; "
                "correct the endpoints, or start with an empty store"
            )
        raise Retryable("; ".join(problems))

    async def _identity(self, endpoint: str) -> Identity:
        info = _decode(_Info, await self._get(endpoint, "/v2/info"), "/v2/info")
        leader = info.leader
        if leader is None:
            leader = _decode(_Leader, await self._get(endpoint, "/v2/leader"), "/v2/leader").leader
        if not info.framework_id:
            raise Retryable("/v2/info: Marathon is not registered with Mesos yet")
        return Identity(info.framework_id, leader, info.version)

    @asynccontextmanager
    async def _listing(self) -> AsyncIterator[tuple[str, Identity]]:
        """What is read inside comes from one endpoint, and that from one Marathon, ours."""
        endpoint, before = await self._ours()
        try:
            yield endpoint, before
            after = await self._identity(endpoint)
            if after != before:
                raise Retryable(f"Marathon changed while it was read: {before} became {after}")
        except Retryable:
            self._postpone(endpoint)
            raise

    def _postpone(self, endpoint: str) -> None:
        """The next time another endpoint is asked first."""
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)

    async def snapshot(self) -> Snapshot:
        """Everything Marathon runs. Raises `Retryable`, or `OtherCluster`."""
        begun = self._clock.monotonic()
        async with self._listing() as (endpoint, before):
            apps, unreadable = await self._listings(endpoint, begun)
            pods = await self._pods(endpoint)
        self.framework = before.framework
        by_id = {listing.id: listing for listing in apps}
        return Snapshot(begun, by_id, dict(pods), before.framework, before.leader, unreadable)

    async def apps(self, ids: Iterable[AppId]) -> dict[AppId, AppListing | Retryable]:
        """Some apps and their instances, or why there is no listing of one. Raises as `snapshot` does.

        `AppListing.app` is None if Marathon has no such app.
        """
        turns, breath = asyncio.Semaphore(_AT_ONCE), Breath(self._clock)
        async with self._listing() as (endpoint, _):

            async def one(id: AppId) -> AppListing | Retryable:
                async with turns:
                    try:
                        return await self._app(endpoint, id, breath)
                    except Retryable as error:
                        return error

            wanted = list(ids)
            return dict(zip(wanted, await asyncio.gather(*map(one, wanted)), strict=True))

    async def _app(self, endpoint: str, id: AppId, breath: Breath) -> AppListing:
        begun = self._clock.monotonic()
        body = await self._get(endpoint, f"/v2/apps{id}?embed=app.tasks", absent=b"")
        if not body:
            return AppListing(id, None, (), begun)
        return await _breathing(app_steps(body, begun), breath)

    async def _listings(self, endpoint: str, begun: float) -> tuple[list[AppListing], dict[AppId, str]]:
        """All apps, and those that are listed in a way that we cannot read, with the reason."""
        path = "/v2/apps?embed=apps.tasks"
        breath = Breath(self._clock)

        async def read(response: ClientResponse) -> tuple[list[AppListing], dict[AppId, str]]:
            listings, unreadable = [], {}
            async for element in _elements(response, "apps", path):
                try:
                    listings.append(await _breathing(listed_app_steps(element, begun), breath))
                except Retryable as error:
                    unreadable[read_listed_id(element)] = str(error)
            return listings, unreadable

        return await self._ask(endpoint, path, read)

    async def _pods(self, endpoint: str) -> list[tuple[AppId, frozenset[InstanceId]]]:
        path = "/v2/pods/::status"
        breath = Breath(self._clock)

        async def read(response: ClientResponse) -> list[tuple[AppId, frozenset[InstanceId]]]:
            pods = []
            async for element in _elements(response, None, path):
                pods.append(read_listed_pod(element))
                await breath.draw()
            return pods

        return await self._ask(endpoint, path, read, absent=[])  # before 1.4 there are none

    async def _get(self, endpoint: str, path: str, absent: bytes | None = None) -> bytes:
        return await self._ask(endpoint, path, ClientResponse.read, absent)

    async def _ask(
        self,
        endpoint: str,
        path: str,
        read: Callable[[ClientResponse], Awaitable[_Reply]],
        absent: _Reply | None = None,
    ) -> _Reply:
        """What `read` makes of the reply; `absent` stands for a proper 404. Raises `Retryable`."""
        try:
            return await self._ask_freely(endpoint, path, read, absent)
        except TimeoutError as error:
            raise Retryable(f"{endpoint}{path}: no complete reply in {self._timeout.total:g} s") from error
        except (ClientError, OSError, ValueError) as error:
            raise Retryable(f"{endpoint}{path}: {type(error).__name__}: {error}") from error

    async def _ask_freely(
        self,
        endpoint: str,
        path: str,
        read: Callable[[ClientResponse], Awaitable[_Reply]],
        absent: _Reply | None,
    ) -> _Reply:
        assert self._session is not None, "use Marathon as an async context manager"
        url = self._access.url(endpoint, path)
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # unpacking thirty megabytes would cost more than receiving them
            **self._access.headers(url),
        }
        async with self._session.get(url, headers=headers, allow_redirects=False) as response:
            if response.content_type != "application/json":
                raise Retryable(
                    f"{endpoint}{path}: {response.status} with {response.content_type} instead of JSON"
                )
            if response.status == HTTPStatus.NOT_FOUND and absent is not None:
                return absent
            if response.status != HTTPStatus.OK:
                said = (await response.read())[:200]
                raise Retryable(f"{endpoint}{path}: {response.status} {response.reason} {said!r}")
            return await read(response)


async def _elements(response: ClientResponse, key: str | None, where: str) -> AsyncIterator[bytes]:
    """The elements of the reply's array, while it arrives. Raises `Retryable` unless it ends well."""
    splitter = ArraySplitter(key, _LONGEST_MIB * 1024 * 1024)
    try:
        async for piece in response.content.iter_any():
            for element in splitter.feed(piece):
                yield element
        splitter.close()
    except ElementTooLong as error:
        raise Retryable(
            f"{where}: one app or pod takes more than the {_LONGEST_MIB} MiB that Mooring reads of one "
            f"({error}): run fewer tasks per app, or report this"
        ) from error
    except ValueError as error:
        raise Retryable(f"{where}: the reply is truncated or not what Marathon sends: {error}") from error


async def _breathing(steps: Generator[None, None, _Reply], breath: Breath) -> _Reply:
    """What the steps return; others run in between."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: _Reply = end.value
            await breath.draw()
            return result
        await breath.draw()


def _decode(kind: type[_Reply], body: bytes, where: str) -> _Reply:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Retryable(f"{where}: the reply is truncated or not what Marathon sends: {error}") from error
