"""One connection to one Redis, and what may be believed of it; only this module knows the client library.

Every call ends in one of four ways, and the store has to know which:

    it was answered                 the reply
    it never ran                    `StoreBusy`: no connection, or Redis turned it away before any write
    nobody knows whether it ran     `ReplyLost`: the connection broke, or the answer took too long
    it cannot run here              `Refused`; `StoreBroken` if a script stopped half-way

Redis counts as a store only if it keeps what it has confirmed.  Each new connection, and each look in
between, asks whether it is a master that writes every command to its append-only file before it answers,
never puts that off, and never evicts.  One that does not is refused, with what to change.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import ConnectionPool
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from mooring.core.errors import Refused, Retryable, StoreBroken, StoreBusy

# Said before the first write of a script, whatever the release; a script that has written is not stopped so.
_NEVER_RAN = re.compile(r"\b(LOADING|READONLY|OOM|MISCONF|NOREPLICAS|MASTERDOWN|BUSY|CLUSTERDOWN|TRYAGAIN)\b")
_KEPT_OUT = re.compile(
    "NOAUTH|WRONGPASS|username|password", re.IGNORECASE
)  # the library has no one class for it
_TURNED_AWAY = (BusyLoadingError, ReadOnlyError, OutOfMemoryError)
_NEEDED = {  # setting: (value, what it does otherwise)
    "appendonly": ("yes", "it forgets everything at a restart"),
    "appendfsync": ("always", "it forgets what it has just confirmed when its machine stops"),
    "no-appendfsync-on-rewrite": ("no", "it forgets what it confirms while it rewrites its file"),
    "maxmemory-policy": ("noeviction", "it drops leases when memory runs short"),
}
_OLDEST = (6, 2)


class ReplyLost(Retryable):
    """The connection broke after something was sent: it may have been carried out."""


class Script:
    """A Lua script that lies beside this module; Redis knows it by its digest once it has seen it."""

    def __init__(self, name: str) -> None:
        self.source = (files("mooring.controller.store") / "lua" / f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()


class RedisLink:
    """Calls, one at a time, over a connection that is made anew when it breaks."""

    def __init__(
        self, url: str, *, password: str | None = None, ca_file: str | None = None, timeout_s: float = 5.0
    ) -> None:
        """`redis://`, `rediss://` or `unix://`; `timeout_s` bounds connecting and each reply.

        Raises `Refused` for any other address.
        """
        self.name = f"redis {_without_secrets(url)}"
        given = {"password": password, "ssl_ca_certs": ca_file}
        more: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        try:
            # Any: the library's annotations are incomplete and differ between its releases
            self._pool: Any = ConnectionPool.from_url(
                url, protocol=2, socket_timeout=None, socket_connect_timeout=timeout_s, **more
            )
        except ValueError as error:
            raise Refused(f"{self.name}: {error}") from error
        # Ours: before Python 3.12 the library's own (`asyncio.wait_for`) may swallow a cancellation.
        self._timeout_s = timeout_s
        self._connection: Any = None
        self._turn = asyncio.Lock()

    async def run(self, script: Script, keys: Sequence[str], *args: str | int | bytes) -> Any:
        """The reply of a script. Raises `StoreBusy`, `ReplyLost`, `StoreBroken` or `Refused`."""
        async with self._turn:
            connection = await self._ready()
            rest = (len(keys), *keys, *args)
            try:
                return await self._call(connection, "EVALSHA", script.digest, *rest)
            except NoScriptError:
                return await self._call(connection, "EVAL", script.source, *rest)

    async def check(self) -> None:
        """Ask again whether this Redis keeps what it confirms. Raises `Refused` if it does not."""
        async with self._turn:
            await self._verify(await self._ready())

    async def close(self) -> None:
        """Leave. Closing twice is harmless."""
        async with self._turn:
            await self._drop()

    async def _ready(self) -> Any:
        if self._connection is None or not self._connection.is_connected:
            await self._connect()
        return self._connection

    async def _connect(self) -> None:
        made = self._pool.make_connection()
        try:
            async with asyncio.timeout(self._timeout_s):
                await made.connect()
            self._connection = made
            await self._verify(made)
        except (RedisError, OSError, TimeoutError, ReplyLost) as error:
            await made.disconnect(nowait=True)
            if isinstance(error, AuthenticationError) or _KEPT_OUT.search(str(error)):
                raise Refused(
                    f"{self.name} does not admit us: {error}: see to redis.password_file"
                ) from error
            reason = str(error) or f"no answer in {self._timeout_s:g} s"
            raise StoreBusy(f"{self.name} cannot be reached: {reason}; nothing was written") from error
        except BaseException:
            await made.disconnect(nowait=True)
            raise

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)

    async def _call(self, connection: Any, *command: str | int | bytes) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_command(*command, check_health=False)
                return await connection.read_response()
        except NoScriptError:
            raise
        except (ResponseError, BusyLoadingError) as error:
            if isinstance(error, ReadOnlyError | BusyLoadingError):
                await self._drop()  # another server may have taken its place
            raise self._meaning(error) from error
        except (RedisError, OSError, TimeoutError) as error:
            await self._drop()
            reason = str(error) or f"none came in {self._timeout_s:g} s"
            raise ReplyLost(f"{self.name}: the answer to {command[0]!s} was lost: {reason}") from error
        except BaseException:  # cancelled: what the connection says next would answer another call
            await self._drop()
            raise

    def _meaning(self, error: RedisError) -> Exception:
        if isinstance(error, _TURNED_AWAY) or _NEVER_RAN.search(str(error)):
            return StoreBusy(f"{self.name}: {error}; nothing was written")
        if isinstance(error, NoPermissionError):
            return Refused(f"{self.name}: {error}: the user needs its own keys and scripts")
        return StoreBroken(f"{self.name}: {error}: start again; the daemon then reads what was kept")

    async def _verify(self, connection: Any) -> None:
        role = (await self._call(connection, "ROLE"))[0].decode()
        if role != "master":
            raise Refused(f"{self.name} is a {role}: give the address of the master")
        server = (await self._call(connection, "INFO", "server")).decode()
        version = re.search(r"^redis_version:(\d+)\.(\d+)", server, re.MULTILINE)
        if version is None or tuple(map(int, version.groups())) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            raise Refused(f"{self.name} is older than Redis {oldest}: use that or a newer one")
        settings = await self._settings(connection)
        for setting, (needed, otherwise) in _NEEDED.items():
            if (found := settings.get(setting)) != needed:
                raise Refused(
                    f"{self.name} has {setting} {found}: {otherwise}; "
                    f"set `{setting} {needed}` in its redis.conf"
                )

    async def _settings(self, connection: Any) -> dict[str, str]:
        try:
            found = []
            for pattern in ("*append*", "maxmemory-policy"):
                found += [text.decode() for text in await self._call(connection, "CONFIG", "GET", pattern)]
        except (Refused, StoreBroken) as error:
            raise Refused(
                f"{self.name} does not say how it keeps data ({error.__cause__}): "
                "allow CONFIG GET (`ACL SETUSER ... +config|get`), without which it is not trusted"
            ) from error
        return dict(zip(found[::2], found[1::2], strict=True))


def _without_secrets(url: str) -> str:
    """The address as it may stand in a log."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
