"""The daemon's side: flights go to the server, and one answer comes back for each.

The server is started with the first thing that is asked of it, and anew if it has ended; flights that were in
the air then fail, and whoever wanted them asks again.  A flight that takes too long, or that nobody waits for
any more, is given up: the server answers when nothing of it is left, and only then does `run` return.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from mooring.handlers.helper import helper_version
from mooring.handlers.plays import (
    FLIGHT_MARK,
    Flying,
    Helped,
    HostUnreachable,
    Operations,
    PlayFailed,
    Results,
    check_host,
    close_connections,
    nobody_told,
)
from mooring.handlers.processes import kill_marked
from mooring.handlers.warm.frames import Frames, Message, pack

log = structlog.get_logger(__name__)

SERVER = "mooring.handlers.warm.server"
_SERVER_ENDED = "stopped: the Ansible server has ended"
_CHUNK = 1 << 18
_TAIL = 1000
_FAREWELL_S = 15.0  # how long the server has to end when the daemon does


class WarmRunner:
    """Runs `host.yml` for one host at a time, with plays that stand by; a `Runner` (see `hosts`).

    A play stands by for `linger_s` after its last flight; at most `standing` do at a time.  `helped` is told
    after each flight which version of the program did it on the host, or "" if the module had to.
    """

    def __init__(
        self,
        flying: Flying,
        *,
        linger_s: float = 20.0,
        standing: int = 32,
        helped: Helped = nobody_told,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        # Below a short path: the sockets of shared ssh connections may not have long ones.
        self._work_dir = Path(tempfile.mkdtemp(prefix="mooring-"))
        self._flying = flying
        self._helped = helped
        self._monotonic = monotonic
        self._environment = {
            **flying.environment(self._work_dir),
            "ANSIBLE_LOCAL_TEMP": str(self._work_dir / "local"),
        }
        self._orders: Message = {
            "playbook": str(flying.playbook("host")),
            "inventory": str(flying.inventory.resolve()),
            "variables": flying.variables(helper_version(flying.playbook_dir)),
            "work_dir": str(self._work_dir),
            "grace_s": flying.grace_s,
            "linger_s": linger_s,
            "standing": standing,
        }
        self._numbers = itertools.count(1)
        self._answering = asyncio.Semaphore(flying.parallel)
        self._failing = asyncio.Semaphore(max(1, flying.parallel // 4))
        self._failed: set[str] = set()
        self._starting = asyncio.Lock()
        self._line: _Line | None = None
        self._closing = False

    async def prepare(self, host: str) -> None:
        """Have a play stand by for the host, with its connection open; what goes wrong shows later."""
        check_host(host)
        if host not in self._failed:
            (await self._server()).send({"stand": host})

    async def run(self, host: str, operations: Operations, epoch: int) -> Results:
        """Perform the operations on the host; returns one result for each, in order.

        Raises HostUnreachable or PlayFailed.  When cancelled, it first makes sure that the flight has ended.
        """
        check_host(host)
        job = {"settings": {"epoch": epoch}, "operations": [dict(one) for one in operations]}
        async with self._failing if host in self._failed else self._answering:
            self._failed.add(host)  # unless its results say otherwise
            began = self._monotonic()
            answer = await self._fly(host, job)
            kinds = sorted({str(one.get("op")) for one in operations})
            took_s, on_host = self._monotonic() - began, answer.get("on_host")
            log.debug("flight", host=host, kinds=kinds, count=len(operations), took_s=took_s, on_host=on_host)
            results = _results(host, answer)
            if len(results) != len(operations):
                raise PlayFailed(f"host {host} gave {len(results)} results for {len(operations)} operations")
            self._failed.discard(host)
        self._helped(host, str(answer.get("helper", "")))
        return results

    async def close(self) -> None:
        """End all flights, the server and shared ssh connections; no process of ours is left afterwards."""
        self._closing = True
        if self._line is not None:
            await self._line.close()
        await asyncio.to_thread(close_connections, self._work_dir)
        shutil.rmtree(self._work_dir, ignore_errors=True)

    async def _fly(self, host: str, job: Message) -> Message:
        line = await self._server()
        number = next(self._numbers)
        landed = line.fly(number, host, job)
        try:
            async with asyncio.timeout(self._flying.timeout_s):
                return await asyncio.shield(landed)
        except TimeoutError as error:
            await line.give_up(number, self._flying.grace_s)
            raise PlayFailed(f"the play on host {host}: no end after {self._flying.timeout_s:g} s") from error
        except asyncio.CancelledError:
            await line.give_up(number, self._flying.grace_s)
            raise

    async def _server(self) -> _Line:
        async with self._starting:
            if self._closing:
                raise PlayFailed("stopped: the daemon is ending")
            if self._line is None or self._line.ended:
                self._line = await _Line.open(self._orders, self._environment, self._work_dir)
            return self._line


def _results(host: str, answer: Message) -> Results:
    """The module's results; raises what kept the play from giving them."""
    if "results" in answer:
        return [dict(result) for result in answer["results"]]
    if "unreachable" in answer:
        raise HostUnreachable(f"host {host} cannot be reached: {answer['unreachable']}")
    raise PlayFailed(f"the play on host {host} gave no result: {answer.get('failed') or 'no reason given'}")


class _Line:
    """A running server and the line to it."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        log_file: Path,
    ) -> None:
        self.ended = False
        self._process = process
        self._writer = writer
        self._log_file = log_file
        self._flights: dict[int, asyncio.Future[Message]] = {}
        self._listening = asyncio.create_task(self._listen(reader), name="ansible server")

    @classmethod
    async def open(cls, orders: Message, environ: Mapping[str, str], work_dir: Path) -> _Line:
        """Start a server. Raises PlayFailed if that is not possible."""
        ours, theirs = socket.socketpair()
        log_file = work_dir / "server.log"
        words = [sys.executable, "-m", SERVER, str(theirs.fileno()), json.dumps(orders)]
        try:
            with theirs, log_file.open("wb") as output:
                process = await asyncio.create_subprocess_exec(
                    *words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **environ},
                    start_new_session=True,
                )
        except OSError as error:
            ours.close()
            raise PlayFailed(f"the Ansible server cannot be started: {error}") from error
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer, log_file)

    def send(self, message: Message) -> None:
        if not self.ended:
            self._writer.write(pack(message))

    def fly(self, number: int, host: str, job: Message) -> asyncio.Future[Message]:
        """Send a flight off; what it will be answered with. The answer comes in any case."""
        landed: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._flights[number] = landed
        if self.ended:
            self._land(number, {"failed": _SERVER_ENDED})
        self.send({"fly": number, "host": host, "job": job})
        return landed

    async def give_up(self, number: int, grace_s: float) -> None:
        """End a flight; nothing of it is left afterwards. A server that does not answer ends as well."""
        landed = self._flights.get(number)
        if landed is None:
            return
        self.send({"end": number})
        done, _ = await asyncio.wait([landed], timeout=grace_s + _FAREWELL_S)
        if not done:
            self._process.kill()
            await asyncio.wait([landed])

    async def close(self) -> None:
        """Hang up, and wait until the server has ended its plays."""
        self._writer.close()
        try:
            await asyncio.wait_for(self._process.wait(), _FAREWELL_S)
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._listening

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        frames = Frames()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(_CHUNK):
                for message in frames.feed(data):
                    self._land(int(message["flight"]), message)
        self.ended = True
        self._writer.close()
        # What the plays of a server that was killed have started does not notice that they are gone.
        await asyncio.to_thread(kill_marked, f"{FLIGHT_MARK}={self._log_file.parent}/")
        said = self._log_file.read_text(errors="replace").strip()[-_TAIL:] if self._log_file.exists() else ""
        if said:
            log.error("ansible_server_ended", said=said)
        for number in list(self._flights):
            self._land(number, {"failed": f"{_SERVER_ENDED}{': ' + said if said else ''}"})

    def _land(self, number: int, answer: Message) -> None:
        landed = self._flights.pop(number, None)
        if landed is not None and not landed.done():
            landed.set_result(answer)
