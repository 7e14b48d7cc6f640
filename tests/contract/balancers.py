"""Balancers for tests: real HAProxy and Nginx as ordinary processes on loopback, and the twin.

Every bench offers the same few handles: a new sink (as after a restart of the daemon), a request through
the balancer, a restart behind our back, a count of reloads.  Members are addresses 127.10.x.y on which
one small server answers with the address it was reached at.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Protocol

import aiohttp
from aiohttp import web

from mooring.core.clock import SystemClock
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, Sink
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec, Spec
from mooring.lb.haproxy import HaproxySink
from mooring.lb.haproxy_render import HaproxySettings
from mooring.lb.haproxy_runtime import Cli, parse_processes
from mooring.lb.listeners import children
from mooring.lb.memory import MemoryBalancer, MemoryProxy
from mooring.lb.nginx import NginxSink
from mooring.lb.nginx_render import NginxSettings

WEB = ServiceSpec(app="/shop/web", index=0, mode="http", port=10000, vhosts=("web.example.org",))
DEADLINE_S = 20.0


def free_port() -> int:
    """A TCP port on loopback that nobody uses at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require(binary: str, package: str) -> str:
    """The path of a program; one line that names the package if it is missing."""
    found = shutil.which(binary)
    assert found, f"{binary} is missing: apt-get install {package}"
    return found


def address(number: int) -> str:
    return f"127.10.{number // 250}.{number % 250 + 1}"


class Members:
    """A small server on many loopback addresses; it answers with the address it was reached at."""

    def __init__(self, count: int) -> None:
        self.port = free_port()
        self.addresses = [address(number) for number in range(count)]
        self.hold = asyncio.Event()  # requests for /held wait for it
        self.held = 0
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        for one in self.addresses:
            await web.TCPSite(self._runner, one, self.port).start()

    async def stop(self) -> None:
        self.hold.set()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        if request.path == "/held":
            self.held += 1
            await self.hold.wait()
        assert request.transport is not None
        response = web.Response(text=request.transport.get_extra_info("sockname")[0])
        response.force_close()  # an idle connection would keep HAProxy from deleting its server
        return response

    def spec(self, numbers: int | Sequence[int], state: str, service: ServiceSpec = WEB) -> MemberSpec:
        """A share with these members of one service."""
        chosen = [numbers] if isinstance(numbers, int) else numbers
        return MemberSpec(tuple(Endpoint(service, self.addresses[n], self.port) for n in chosen), state)


class Bench(Protocol):
    """What a contract test may do with a balancer."""

    shows_down: bool  # whether members that take no traffic are visible

    def sink(self) -> Sink: ...

    async def get(self, host: str, path: str = "/") -> str | None:
        """The body fetched for a host name; None if the balancer has nobody to ask."""

    async def get_port(self, port: int) -> str | None:
        """The body fetched from a service's own port; None if nobody answers there."""

    async def restart(self) -> None:
        """Somebody starts the balancer anew."""

    async def lose(self) -> None:
        """The balancer dies."""

    async def reloads(self) -> int: ...


def change(binding: str, wanted: Spec | None, *was: Spec, generation: int = 1, epoch: int = 1) -> Change:
    return Change(BindingId(binding), wanted, was, generation, Epoch(epoch))


async def eventually(done: Callable[[], Awaitable[bool]], what: str) -> None:
    """Poll until it holds; fails by name at the deadline."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + DEADLINE_S
    while not await done():
        assert loop.time() < deadline, f"{what} did not happen in {DEADLINE_S:g} s"
        await asyncio.sleep(0.02)


async def _fetch(port: int, host: str, path: str = "/") -> str | None:
    timeout = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.get(
            f"http://127.0.0.1:{port}{path}", headers={"Host": host, "Connection": "close"}
        ) as answer,
    ):
        if answer.status == 503:
            return None
        answer.raise_for_status()
        return await answer.text()


class _Process:
    """One server process in a group of its own."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._command = list(command)
        self._log = directory / "process.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, start_new_session=True)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, how)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(5)
        with suppress(ProcessLookupError):  # old workers that hold a session
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None

    def describe(self) -> str:
        return self._log.read_text()[-2000:] if self._log.exists() else "no log"


class _RealBench(ABC):
    """A real balancer, as a process of its own."""

    process: _Process
    http_port: int

    @abstractmethod
    async def start(self) -> None:
        """Start it and wait until it answers."""

    async def stop(self) -> None:
        await asyncio.to_thread(self.process.stop)

    async def lose(self) -> None:
        await asyncio.to_thread(self.process.stop, signal.SIGKILL)

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def get(self, host: str, path: str = "/") -> str | None:
        return await _fetch(self.http_port, host, path)

    async def get_port(self, port: int) -> str | None:
        try:
            return await _fetch(port, "any")
        except aiohttp.ClientError:
            return None


class HaproxyBench(_RealBench):
    """A real HAProxy in master-worker mode."""

    shows_down = True

    def __init__(self, directory: Path) -> None:
        binary = require("haproxy", "haproxy")
        self.http_port = free_port()
        self.settings = HaproxySettings(
            config=directory / "haproxy.cfg",
            runtime_socket=directory / "runtime.sock",
            master_socket=directory / "master.sock",
            binary=binary,
            http_bind=f"127.0.0.1:{self.http_port}",
            service_bind="127.0.0.1",
            owner="contract",
            hard_stop_after="10s",
            reload_timeout_s=DEADLINE_S,
        )
        self.settings.config.write_text(
            f"# mooring: initial\nglobal\n    stats socket {self.settings.runtime_socket} level admin\n"
            "defaults\n    timeout connect 1s\n    timeout client 5s\n    timeout server 5s\n"
            "frontend initial\n    mode http\n    bind "
            f"{self.settings.http_bind}\n"
        )
        command = [binary, "-W", "-S", str(self.settings.master_socket), "-f", str(self.settings.config)]
        self.process = _Process(command, directory)
        self.master = Cli(self.settings.master_socket, 5.0)

    def sink(self) -> HaproxySink:
        return HaproxySink(self.settings, SystemClock())

    async def start(self) -> None:
        self.process.start()
        worker = Cli(self.settings.runtime_socket, 5.0)

        async def answers() -> bool:
            with suppress(Exception):
                return "Pid:" in await worker.ask("show info") and bool(await self.master.ask("show proc"))
            return False

        await eventually(answers, f"HAProxy's start ({self.process.describe()})")

    async def reloads(self) -> int:
        return parse_processes(await self.master.ask("show proc")).reloads

    async def workers(self) -> frozenset[int]:
        return parse_processes(await self.master.ask("show proc")).workers


class NginxBench(_RealBench):
    """A real Nginx with its master in the foreground."""

    shows_down = False

    def __init__(self, directory: Path) -> None:
        binary = require("nginx", "nginx-light")
        self.http_port = free_port()
        self.settings = NginxSettings(
            root=directory / "nginx",
            pid_file=directory / "nginx.pid",
            status_socket=directory / "status.sock",
            binary=binary,
            http_listen=f"127.0.0.1:{self.http_port}",
            service_listen="127.0.0.1",
            owner="contract",
            workers="2",
            worker_shutdown_timeout="10s",
            reload_timeout_s=DEADLINE_S,
            reload_gap_s=0.0,
        )
        initial = self.settings.root / "generations" / "initial"
        initial.mkdir(parents=True)
        (self.settings.root / "current").symlink_to("generations/initial")
        (initial / "nginx.conf").write_text(
            f"# mooring: initial\npid {self.settings.pid_file};\nerror_log {directory}/initial.log;\n"
            "events {}\nhttp { access_log off; "
            f"server {{ listen {self.settings.http_listen}; return 503; }} }}\n"
        )
        config = self.settings.root / "current" / "nginx.conf"
        command = [
            binary, "-g", "daemon off;", "-e", str(directory / "early.log"), "-c", str(config),
        ]  # fmt: skip
        self.process = _Process(command, directory)

    def sink(self) -> NginxSink:
        return NginxSink(self.settings, SystemClock())

    async def start(self) -> None:
        self.process.start()

        async def answers() -> bool:
            try:
                return await self.get("nobody.example.org") is None
            except aiohttp.ClientError:
                return False

        await eventually(answers, f"Nginx's start ({self.process.describe()})")

    async def reloads(self) -> int:
        return max((int(p.name[:8]) for p in (self.settings.root / "generations").glob("0*")), default=0)

    def workers(self) -> frozenset[int]:
        return frozenset(children(int(self.settings.pid_file.read_text())))


class MemoryBench:
    """The twin, with traffic played over its table."""

    shows_down = True

    def __init__(self) -> None:
        self.proxy = MemoryProxy()
        self._turn = 0

    def sink(self) -> MemoryBalancer:
        return MemoryBalancer(self.proxy)

    async def start(self) -> None:
        self.proxy.away = False

    async def stop(self) -> None:
        self.proxy.away = True

    async def lose(self) -> None:
        self.proxy.away = True

    async def restart(self) -> None:
        self.proxy.members.clear()
        self.proxy.away = False

    async def get(self, host: str, path: str = "/") -> str | None:
        return self._pick(f"host {host}")

    async def get_port(self, port: int) -> str | None:
        return self._pick(f"port {port}")

    async def reloads(self) -> int:
        return self.proxy.reloads

    def _pick(self, claim: str) -> str | None:
        serving = self.proxy.up(claim)
        self._turn += 1
        return serving[self._turn % len(serving)].address if serving else None


BENCHES: dict[str, Callable[[Path], HaproxyBench | NginxBench | MemoryBench]] = {
    "memory": lambda _: MemoryBench(),
    "haproxy": HaproxyBench,
    "nginx": NginxBench,
}


@asynccontextmanager
async def running(kind: str, directory: Path) -> AsyncIterator[HaproxyBench | NginxBench | MemoryBench]:
    """One balancer, started, and gone afterwards."""
    bench = BENCHES[kind](directory)
    try:
        await bench.start()
        yield bench
    finally:
        await bench.stop()
