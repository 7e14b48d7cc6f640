"""A running Nginx: its master by the pid file, its workers by the status socket and /proc.

`HUP` has no result.  With a bad file or a taken port the old workers simply stay, so a reload counts
only when a worker tells the new marker *and* no worker from before still accepts connections: for
about 100 ms both generations do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path

import aiohttp

from mooring.core.clock import Clock
from mooring.core.errors import Retryable
from mooring.lb.listeners import children, command_line
from mooring.lb.nginx_render import MARKER_PATH, NginxSettings

_POLL_S = 0.01


class NginxAway(Retryable):
    """No Nginx runs behind the pid file."""


class ReloadFailed(Retryable):
    """The new generation did not come up in time; the old workers go on."""


class NginxProcess:
    """Master and workers of one Nginx."""

    def __init__(self, settings: NginxSettings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._last_reload: float | None = None

    def master(self) -> int:
        """The master's process id; raises `NginxAway` if there is none or it is a stranger."""
        path = self._settings.pid_file
        try:
            pid = int(path.read_text())
        except (OSError, ValueError) as error:
            raise NginxAway(f"no Nginx runs: the pid file {path} holds no process id") from error
        title = command_line(pid)
        if not title:
            raise NginxAway(f"no Nginx runs: process {pid} of the pid file {path} does not exist")
        if not title.startswith("nginx: master"):
            # The kernel has given the number to somebody else: a signal would hit a stranger.
            raise NginxAway(f"no Nginx runs: process {pid} of the pid file {path} is {title[:80]!r}")
        return pid

    def signal_reload(self) -> None:
        """Ask for a reload without waiting for it."""
        with contextlib.suppress(NginxAway, ProcessLookupError):  # whoever starts it reads the file anyway
            os.kill(self.master(), signal.SIGHUP)

    async def remove_stale_socket(self) -> None:
        """Unlink a status socket that a killed Nginx left: it would keep the next one from starting."""
        path = self._settings.status_socket
        try:
            _, writer = await asyncio.open_unix_connection(path)
            writer.close()  # somebody listens, whatever the pid file says
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError:
            return  # there is none, or it is not ours to judge

    async def marker(self) -> str | None:
        """The marker that a worker tells now; None if nobody tells one of ours."""
        connector = aiohttp.UnixConnector(path=str(self._settings.status_socket))
        timeout = aiohttp.ClientTimeout(total=self._settings.status_timeout_s)
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.get(f"http://status{MARKER_PATH}") as answer,
            ):
                return (await answer.text()).strip() if answer.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None

    async def reload(self, marker: str) -> None:
        """Load what `current` names; returns when only new workers, which tell `marker`, accept requests.

        Raises `NginxAway`, or `ReloadFailed` if that does not happen in time.
        """
        await self._pace()
        master = self.master()
        before = _accepting(master)
        os.kill(master, signal.SIGHUP)
        self._last_reload = started = self._clock.monotonic()
        deadline = started + self._settings.reload_timeout_s
        while self._clock.monotonic() < deadline:
            now = _accepting(master)
            if now and not now & before and await self.marker() == marker:
                return
            await self._clock.sleep(_POLL_S)
        raise ReloadFailed(
            f"Nginx runs no worker of generation {marker} {self._settings.reload_timeout_s:g} s after the "
            f"reload; see {self._settings.root}/error.log"
        )

    async def _pace(self) -> None:
        if self._last_reload is not None:
            since = self._clock.monotonic() - self._last_reload
            await self._clock.sleep(max(0.0, self._settings.reload_gap_s - since))

    async def version(self) -> str:
        """What `nginx -v` says; raises `Retryable` if it cannot be run."""
        try:
            process = await asyncio.create_subprocess_exec(
                self._settings.binary, "-v", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
            )
        except OSError as error:
            raise Retryable(f"cannot run {self._settings.binary}: {error}") from error
        output, _ = await process.communicate()
        return output.decode(errors="replace").strip().rpartition("/")[2]


def _accepting(master: int) -> frozenset[int]:
    titles: Iterable[tuple[int, str]] = children(master).items()
    return frozenset(pid for pid, title in titles if "worker process" in title and "shutting" not in title)


def ensure_directories(root: Path) -> None:
    """Make what Nginx and we write into."""
    for name in ("generations", "temp", "candidate"):
        (root / name).mkdir(parents=True, exist_ok=True)
