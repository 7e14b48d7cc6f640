"""The control socket: every command reaches the daemon through here.

A Unix socket needs no password: the kernel says who is at the other end (`SO_PEERCRED`), and that cannot
be forged.  Admitted are root, the daemon's own user, and the members of one configured group; membership
is looked up at each request, so that taking a person out of the group takes effect at once.

The file's mode keeps strangers out before that, and it is right from the first instant: the mode is set
before `bind`, the group before `listen`.  A socket file left by a daemon that died is replaced; one that
still answers is not, because its daemon is alive.
"""

from __future__ import annotations

import asyncio
import grp
import os
import pwd
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import msgspec
import structlog
from aiohttp import web

from mooring.controller.replies import BadRequest, body_of, json_reply
from mooring.core.errors import ConfigRefused, Fatal, MooringError, Refused, Retryable
from mooring.core.model import AppId
from mooring.core.readmodel import ReadModel, Status

log = structlog.get_logger(__name__)

_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """The process at the other end of a connection, as the kernel knows it."""

    pid: int
    uid: int
    gid: int


Policy = Callable[[Peer], str | None]
"""Why a peer may not command; None: it may. May block on the name service."""


class Commands(Protocol):
    """What can be asked of the daemon besides looking at it. May raise `Refused` or `Retryable`."""

    async def pause(self, app: AppId | None) -> None:
        """Let effects wait for one app, or for all (None). Stored before it returns."""

    async def resume(self, app: AppId | None) -> None:
        """End that pause."""

    async def release_brake(self, held: int) -> None:
        """An operator confirms that what is held is gone: `held` instances and apps, or fewer.

        `Refused` while the brake is off, or if more are held.
        """


def policy_of(group: str | None, own_uid: int) -> Policy:
    """Root, `own_uid` and the group's members are admitted. Raises `ConfigRefused` for an unknown group."""
    gid = _gid(group)

    def refusal(peer: Peer) -> str | None:
        if peer.uid in (0, own_uid) or (gid is not None and _is_member(peer, gid)):
            return None
        remedy = f"ask to join group {group}" if group else "ask for control.group to be set"
        return f"user {_user(peer.uid)} may not command this daemon; use root or its own user, or {remedy}"

    return refusal


def _gid(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigRefused(
            [f"control.group: this machine has no group {group!r}; create it or correct the name"]
        ) from error


def _is_member(peer: Peer, gid: int) -> bool:
    if peer.gid == gid:
        return True
    try:
        user = pwd.getpwuid(peer.uid)
    except KeyError:
        return False
    return gid in os.getgrouplist(user.pw_name, user.pw_gid)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


class ControlServer:
    """Answers on the control socket."""

    def __init__(
        self,
        path: Path,
        model: ReadModel,
        commands: Commands,
        *,
        group: str | None = None,
        policy: Policy | None = None,
        routes: Iterable[web.RouteDef] = (),
    ) -> None:
        """The socket belongs to `group`, whose members `policy_of` admits unless another policy is given.

        `routes` are those of other topics; who is admitted is the same for all.

        Raises `ConfigRefused` for a group that does not exist.
        """
        self._path = path
        self._model = model
        self._commands = commands
        self._gid = _gid(group)
        self._policy = policy or policy_of(group, os.getuid())
        self._routes = tuple(routes)
        self._runner: web.AppRunner | None = None
        self._inode = 0
        self._fatal: asyncio.Queue[Fatal] = asyncio.Queue()

    async def until_fatal(self) -> NoReturn:
        """Wait until a command meets a `Fatal`, which ends the daemon as it would anywhere else; raise it."""
        raise await self._fatal.get()

    async def start(self) -> None:
        """Listen. Raises `Refused` if another daemon listens there or the path cannot be used."""
        listener = _listener(self._path, self._gid)
        self._inode = self._path.stat().st_ino
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """Stop listening and remove the socket, if it is still ours."""
        if self._runner is None:
            return
        await self._runner.cleanup()
        self._runner = None
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._admit, self._answer_errors], client_max_size=65536)
        app.add_routes([
            web.get("/status", self._status),
            web.get("/leases", self._leases),
            web.get("/pools", self._pools),
            web.get("/overview", self._overview),
            web.post("/pause", self._pause),
            web.post("/resume", self._resume),
            web.post("/brake/release", self._release_brake),
            *self._routes,
        ])  # fmt: skip
        return app

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        peer = _peer(request)
        refusal = await asyncio.to_thread(self._policy, peer)  # the name service may be on the network
        if refusal is not None:
            log.warning("command refused", uid=peer.uid, pid=peer.pid, path=request.path)
            return json_reply({"error": refusal}, 403)
        if request.method != "GET":
            log.info("command", uid=peer.uid, pid=peer.pid, path=request.path)
        return await handler(request)

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Every error becomes one JSON line that a command can show."""
        try:
            return await handler(request)
        except web.HTTPException as error:
            return json_reply({"error": f"{request.method} {request.path}: {error.reason}"}, error.status)
        except BadRequest as error:
            return json_reply({"error": str(error)}, 400)
        except Retryable as error:
            return json_reply({"error": str(error)}, 503)
        except Fatal as error:
            self._fatal.put_nowait(error)
            return json_reply({"error": f"the daemon ends: {error}"}, 500)
        except MooringError as error:
            return json_reply({"error": str(error)}, 409)

    async def _status(self, request: web.Request) -> web.Response:
        model = self._model
        return json_reply(Status(model.overview(), model.readiness(), model.instances(), model.refusals()))

    async def _leases(self, request: web.Request) -> web.Response:
        return json_reply(self._model.leases())

    async def _pools(self, request: web.Request) -> web.Response:
        return json_reply(self._model.pools())

    async def _overview(self, request: web.Request) -> web.Response:
        return json_reply(self._model.overview())

    async def _pause(self, request: web.Request) -> web.Response:
        await self._commands.pause(await _app_of(request))
        return json_reply(self._model.overview())

    async def _resume(self, request: web.Request) -> web.Response:
        await self._commands.resume(await _app_of(request))
        return json_reply(self._model.overview())

    async def _release_brake(self, request: web.Request) -> web.Response:
        await self._commands.release_brake(await _held_of(request))
        return json_reply(self._model.overview())


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a command."""

    app: str | None = None


class _Seen(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a release: how many are held, as the operator was told."""

    held: int


async def _held_of(request: web.Request) -> int:
    return (await body_of(request, _Seen)).held


async def _app_of(request: web.Request) -> AppId | None:
    app = (await body_of(request, _Wanted)).app if await request.read() else None
    if app is not None and not app.startswith("/"):
        raise BadRequest(f"app: {app!r:.100} is not an app id; ids begin with /")
    return None if app is None else AppId(app)


def _peer(request: web.Request) -> Peer:
    assert request.transport is not None
    end: socket.socket = request.transport.get_extra_info("socket")
    return Peer(
        *_CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    )


def _listener(path: Path, gid: int | None) -> socket.socket:
    try:
        _make_room(path)
        return _bound(path, gid)
    except OSError as error:
        raise Refused(
            f"control socket {path}: {error.strerror or error}; "
            "change control.socket, or who owns its directory"
        ) from error


def _bound(path: Path, gid: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o660)  # Linux creates the file with this mode, less the umask
        listener.bind(str(path))
        path.chmod(0o660)
        if gid is not None:
            os.chown(path, -1, gid)
    except BaseException:
        listener.close()
        raise
    return listener


def _make_room(path: Path) -> None:
    """A directory for the socket, and no stale socket in it."""
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        path.parent.chmod(0o755)
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise Refused(f"control socket {path}: something else is there; remove it or change control.socket")
    if _is_alive(path):
        raise Refused(
            f"control socket {path}: another daemon answers there; stop it first, or change control.socket"
        )
    path.unlink()


def _is_alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except (BlockingIOError, TimeoutError):
            return True  # somebody listens, and is too busy to accept
        return True
