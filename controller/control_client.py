"""The commands' end of the control socket.

Plain blocking HTTP over a Unix socket: a command asks once and prints.  Whatever goes wrong becomes one of
three errors, because a script wants to know no more: the daemon is not there, you may not, it said no.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from mooring.core.errors import Refused, Retryable
from mooring.core.model import Lease
from mooring.core.readmodel import Overview, PoolRow, Status

T = TypeVar("T")
_PART = 65536  # bytes of a long answer that are held at a time


class Unreachable(Retryable):
    """No daemon answers on the socket."""


class NotPermitted(Refused):
    """The daemon, or the socket's mode, does not admit this user."""


class ControlClient:
    """Asks the daemon.

    Methods raise `Unreachable` or `NotPermitted`, and `Refused` or `Retryable` when that was its answer.
    """

    def __init__(self, socket_path: Path, timeout_s: float = 10.0) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s

    def status(self) -> Status:
        """Instances, refusals and the daemon itself."""
        return self.ask("GET", "/status", Status)

    def leases(self) -> list[Lease]:
        """Every address that is not free."""
        return self.ask("GET", "/leases", list[Lease])

    def pools(self) -> list[PoolRow]:
        """Every pool."""
        return self.ask("GET", "/pools", list[PoolRow])

    def overview(self) -> Overview:
        """The daemon itself."""
        return self.ask("GET", "/overview", Overview)

    def pause(self, app: str | None = None) -> Overview:
        """Let effects wait, for one app or all."""
        return self.ask("POST", "/pause", Overview, {"app": app})

    def resume(self, app: str | None = None) -> Overview:
        """End that pause."""
        return self.ask("POST", "/resume", Overview, {"app": app})

    def release_brake(self, held: int) -> Overview:
        """Confirm that what the brake holds is gone. `Refused` if that is more than `held`."""
        return self.ask("POST", "/brake/release", Overview, {"held": held})

    def ask(self, method: str, path: str, reply: type[T], body: Any = None) -> T:
        """One request; the answer as that type. For the commands of topics that have routes of their own."""
        status, content = self._exchange(method, path, None if body is None else msgspec.json.encode(body))
        if status != 200:
            raise _error(status, content)
        try:
            return msgspec.json.decode(content, type=reply)
        except msgspec.DecodeError as error:
            raise Refused(
                f"{self._path}: cannot understand the answer to {path}: {error}; "
                "is the daemon of another version than this command?"
            ) from error

    def save(self, path: str, into: BinaryIO) -> None:
        """The body of an answer, written to a file as it comes."""

        def copy(reply: http.client.HTTPResponse) -> bytes:
            if reply.status != 200:
                return reply.read()
            while part := reply.read(_PART):
                _write(into, part)
            return b""

        status, content = self._exchange("GET", path, None, copy)
        if status != 200:
            raise _error(status, content)

    def _exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        read: Callable[[http.client.HTTPResponse], bytes] = http.client.HTTPResponse.read,
    ) -> tuple[int, bytes]:
        connection = _UnixConnection(self._path, self._timeout_s)
        try:
            connection.request(method, path, body)
            reply = connection.getresponse()
            return reply.status, read(reply)
        except PermissionError as error:
            raise NotPermitted(
                f"{self._path}: you may not use this socket; use root, the daemon's user or its group"
            ) from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise Unreachable(
                f"{self._path}: no daemon listens there; start it with `mooring run`, "
                "or give the --config or --socket that it runs with"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(
                f"{self._path}: the daemon does not answer: {error or type(error).__name__}"
            ) from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """`HTTPConnection` to a path in place of a host."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _write(into: BinaryIO, part: bytes) -> None:
    try:
        into.write(part)
    except OSError as error:  # not the daemon's fault
        raise Refused(f"{into.name} cannot be written: {error.strerror}") from error


class _Failure(msgspec.Struct):
    error: str


def _error(status: int, content: bytes) -> Refused | Retryable:
    try:
        message = msgspec.json.decode(content, type=_Failure).error
    except msgspec.DecodeError:
        message = f"the daemon answered with status {status}"
    if status == 403:
        return NotPermitted(message)
    if status == 503:
        return Retryable(message)
    return Refused(message)
