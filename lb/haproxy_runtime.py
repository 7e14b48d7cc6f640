"""Talking to a running HAProxy: the worker's runtime socket and the master's socket.

The protocol is one line of commands per connection, joined by semicolons; the answer ends with the
connection.  Replies carry no status and a failed command does not stop the line, so nothing is ever
believed from a reply: the state is read back.

`reload` on the master socket is asynchronous up to 2.6, and after a failed reload the connection may
stay open for ever.  Hence we close our half, wait a bounded time, and take as proof only what the
process list and the new worker's own description say.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mooring.core.clock import Clock
from mooring.core.errors import Retryable

_COMMANDS_PER_LINE = 100
_POLL_S = 0.01

# Bits of srv_admin_state. 0x04 only remembers that the configuration said `disabled`.
_MAINTENANCE = 0x01 | 0x02 | 0x20 | 0x40
_DRAIN = 0x08 | 0x10


class SocketAway(Retryable):
    """Nothing answers on one of HAProxy's sockets."""


class ReloadFailed(Retryable):
    """The master could not start a worker with the new file; the old worker goes on."""


@dataclass(frozen=True, slots=True)
class Info:
    """What a worker says about itself."""

    pid: int
    version: str
    structure: str | None  # which of our renderings it runs; None if it is not ours


@dataclass(frozen=True, slots=True)
class Server:
    """One server as the worker has it."""

    backend: str
    name: str
    address: str
    port: int
    admin: int  # srv_admin_state
    running: bool  # its health checks pass, as far as there are any

    @property
    def state(self) -> str:
        """In the words of a member: "declared" (maintenance), "drain" or "up"."""
        if self.admin & _MAINTENANCE:
            return "declared"
        return "drain" if self.admin & _DRAIN else "up"


ServerKey = tuple[str, str]  # backend, server


@dataclass(frozen=True, slots=True)
class Processes:
    """The master's view: how often it reloaded, how often in vain since the last success, its workers."""

    reloads: int
    failed: int
    workers: frozenset[int]


def parse_info(text: str) -> Info:
    """Read `show info`."""
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    found = re.search(r"\bstructure=(\S+)", fields.get("description", ""))
    return Info(int(fields["Pid"]), fields.get("Version", "?"), found[1] if found else None)


def parse_servers(text: str) -> dict[ServerKey, Server]:
    """Read `show servers state`; columns are found by their names."""
    columns: list[str] = []
    servers: dict[ServerKey, Server] = {}
    for line in text.splitlines():
        if line.startswith("# "):
            columns = line[2:].split()
        elif columns and len(fields := line.split()) == len(columns):
            row = dict(zip(columns, fields, strict=True))
            server = Server(
                row["be_name"],
                row["srv_name"],
                row["srv_addr"],
                int(row["srv_port"]),
                int(row["srv_admin_state"]),
                row["srv_op_state"] == "2",
            )
            servers[server.backend, server.name] = server
    return servers


def parse_unused(text: str) -> set[ServerKey]:
    """Read `show servers conn`: the servers without any connection in use or idle."""
    unused: set[ServerKey] = set()
    columns: list[str] = []
    for line in text.splitlines():
        if line.startswith("# "):
            columns = line[2:].split()
        elif columns and len(fields := line.split()) >= len(columns):
            row = dict(zip(columns, fields, strict=False))
            if row["used_cur"] == "0" and row["idle_cur"] == "0":
                backend, _, server = row["bkname/svname"].partition("/")
                unused.add((backend, server))
    return unused


def parse_processes(text: str) -> Processes:
    """Read `show proc` of the master; workers left over from earlier reloads do not count."""
    current = text.split("# old workers")[0]
    rows = [line.split() for line in current.splitlines() if line.strip() and not line.startswith("#")]
    counters = re.search(r"^\d+\s+master\s+(\d+)(?:\s+\[failed: (\d+)\])?", current, re.MULTILINE)
    if counters is None:
        raise Retryable(f"HAProxy's master gave no process list: {text.strip()[:200]!r}")
    workers = frozenset(int(row[0]) for row in rows if len(row) > 1 and row[1] == "worker")
    return Processes(int(counters[1]), int(counters[2] or 0), workers)


class Cli:
    """One of HAProxy's command sockets."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        self.path = path
        self._timeout_s = timeout_s

    async def ask(self, *commands: str) -> str:
        """The answer to these commands; raises `SocketAway` if nobody answers in time."""
        try:
            async with asyncio.timeout(self._timeout_s):
                reader, writer = await asyncio.open_unix_connection(self.path)
                try:
                    writer.write((";".join(commands) + "\n").encode())
                    writer.write_eof()
                    return (await reader.read()).decode(errors="replace")
                finally:
                    writer.close()
        except TimeoutError as error:
            raise SocketAway(f"HAProxy gives no answer on {self.path} in {self._timeout_s:g} s") from error
        except OSError as error:
            raise SocketAway(f"HAProxy does not answer on {self.path}: {error}") from error

    async def run(self, commands: Sequence[str]) -> list[str]:
        """Run any number of commands; returns every line that was said, praise and complaint alike."""
        said: list[str] = []
        for start in range(0, len(commands), _COMMANDS_PER_LINE):
            reply = await self.ask(*commands[start : start + _COMMANDS_PER_LINE])
            said.extend(line for line in reply.splitlines() if line.strip())
        return said


class Runtime:
    """A running HAProxy, asked and told."""

    def __init__(self, runtime: Cli, master: Cli, clock: Clock, reload_timeout_s: float) -> None:
        self.worker = runtime
        self.master = master
        self._clock = clock
        self._reload_timeout_s = reload_timeout_s

    async def info(self) -> Info:
        """Which worker answers; raises `SocketAway`."""
        return parse_info(await self.worker.ask("show info"))

    async def servers(self) -> dict[ServerKey, Server]:
        """Every server of every backend with its real state."""
        return parse_servers(await self.worker.ask("show servers state"))

    async def backends(self) -> set[str]:
        """Names of the backends that are running."""
        return {line for line in (await self.worker.ask("show backend")).split() if line not in ("#", "name")}

    async def unused(self) -> set[ServerKey]:
        """Servers that no connection needs any more."""
        return parse_unused(await self.worker.ask("show servers conn"))

    async def tell(self, commands: Iterable[str]) -> list[str]:
        """Run commands at the worker; what it says is for people only."""
        return await self.worker.run(list(commands))

    async def processes(self) -> Processes:
        """Master and workers."""
        return parse_processes(await self.master.ask("show proc"))

    async def reload(self, structure: str) -> Info:
        """Load the file on disk; returns when a new worker that runs `structure` answers.

        Raises `ReloadFailed` if the master refused the file or no such worker appeared in time; then the
        old worker serves on.
        """
        before = await self.processes()
        await self._ask_for_reload()
        deadline = self._clock.monotonic() + self._reload_timeout_s
        while self._clock.monotonic() < deadline:
            if (info := await self._progress(before, structure)) is not None:
                return info
            await self._clock.sleep(_POLL_S)
        raise ReloadFailed(
            f"HAProxy has no new worker {self._reload_timeout_s:g} s after a reload on {self.master.path}"
        )

    async def _ask_for_reload(self) -> None:
        try:
            await self.master.ask("reload")
        except SocketAway as error:
            # The master replaces itself while we are connected; whether it heard us, its counters tell.
            if isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError | PermissionError):
                raise

    async def _progress(self, before: Processes, structure: str) -> Info | None:
        try:
            now = await self.processes()
            if now.reloads > before.reloads and now.failed > 0:
                raise ReloadFailed("HAProxy could not load its new file and runs the old one; see its log")
            info = await self.info()
        except SocketAway:
            return None  # both sockets are handed over during a reload
        fresh = now.reloads > before.reloads and info.pid in now.workers - before.workers
        return info if fresh and info.structure == structure else None
