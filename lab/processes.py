"""An engine of plain processes, for machines where no Docker engine can run, and for tests.

Each workload is a process in a fresh network namespace (or, for host networking, in its agent's),
leader of its own process group; "container" names are `mesos-<uuid>` as everywhere.  There is no
file system of its own and no PID namespace.  A launch returns only after the process has entered
its namespace, because whoever asks for its pid next may act on that namespace at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from mooring.lab.engine import Exit, Workload

ENTER_TIMEOUT_S = 10.0
TOOK_TOO_LONG = 124
_LOOPBACK_UP = 'ip link set lo up && exec "$@"'


class LaunchError(Exception):
    """A workload could not be started; the message says why."""


@dataclass(slots=True)
class _Container:
    name: str
    workload: Workload
    process: asyncio.subprocess.Process
    env: dict[str, str]
    reaped: asyncio.Event


class ProcessEngine:
    """Starts and stops processes; satisfies `Engine`."""

    def __init__(self, lab_name: str, host_netns: Mapping[str, str]) -> None:
        """Mark processes with the lab's name; `host_netns` maps agents to namespace paths."""
        self._lab_name = lab_name
        self._host_netns = dict(host_netns)
        self._containers: dict[str, _Container] = {}
        self._listeners: list[asyncio.Queue[Exit]] = []
        self._reapers: set[asyncio.Task[None]] = set()

    async def launch(self, workload: Workload) -> str:
        """Start the workload in its namespace and return its container name.

        Raises:
            LaunchError: nothing to execute, or it did not get into its namespace.
        """
        if not workload.argv:
            raise LaunchError("a plain process needs a command: give the app `cmd` or `args`")
        name = f"mesos-{uuid.uuid4()}"
        env = {"PATH": os.environ.get("PATH", os.defpath), **workload.env}
        env.update(MOORING_LAB=self._lab_name, MESOS_CONTAINER_NAME=name)
        process = await asyncio.create_subprocess_exec(
            *self._wrapped(workload),
            env=env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        container = _Container(name, workload, process, env, asyncio.Event())
        self._containers[name] = container
        reaper = asyncio.create_task(self._reap(container), name=f"reap {name}")
        self._reapers.add(reaper)
        reaper.add_done_callback(self._reapers.discard)
        await self._entered(container)
        return name

    async def kill(self, container: str, grace_s: float) -> None:
        """SIGTERM to the process, after `grace_s` SIGKILL to its whole group; no error when it is gone."""
        found = self._containers.get(container)
        if found is None:
            return
        with contextlib.suppress(ProcessLookupError):  # it may end by itself at any moment
            found.process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await found.reaped.wait()
        _kill_group(found.process.pid)
        await found.reaped.wait()

    def containers(self) -> list[str]:
        """Names of all that run now."""
        return list(self._containers)

    async def pid(self, container: str) -> int:
        """Process id of the workload; LookupError when it is gone."""
        return self._find(container).process.pid

    async def execute(self, container: str, argv: Sequence[str], timeout_s: float) -> int:
        """Run a command in the workload's namespace and environment; 124 when it took too long."""
        found = self._find(container)
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net=/proc/{found.process.pid}/ns/net",
            "--",
            *argv,
            env=found.env,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_s):
                return await process.wait()
        except TimeoutError:
            return TOOK_TOO_LONG
        finally:
            if process.returncode is None:
                _kill_group(process.pid)
                await process.wait()

    def exits(self) -> AsyncIterator[Exit]:
        """Every process that ends from this call on."""
        queue: asyncio.Queue[Exit] = asyncio.Queue()
        self._listeners.append(queue)
        return self._listen(queue)

    async def _listen(self, queue: asyncio.Queue[Exit]) -> AsyncIterator[Exit]:
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.remove(queue)

    def _find(self, container: str) -> _Container:
        if container not in self._containers:
            raise LookupError(f"no container {container}: it has ended")
        return self._containers[container]

    def _wrapped(self, workload: Workload) -> list[str]:
        if workload.network == "host":
            path = self._host_netns.get(workload.host)
            return [*(["nsenter", f"--net={path}", "--"] if path else []), *workload.argv]
        return ["unshare", "--net", "--", "/bin/sh", "-c", _LOOPBACK_UP, "sh", *workload.argv]

    async def _entered(self, container: _Container) -> None:
        workload, pid = container.workload, container.process.pid
        path = self._host_netns.get(workload.host)
        if workload.network == "host" and path is None:
            return
        own = os.stat("/proc/self/ns/net").st_ino
        wanted = os.stat(path).st_ino if workload.network == "host" and path else None
        try:
            async with asyncio.timeout(ENTER_TIMEOUT_S):
                while not container.reaped.is_set():
                    inode = os.stat(f"/proc/{pid}/ns/net").st_ino
                    if inode == wanted or (wanted is None and inode != own):
                        return
                    await asyncio.sleep(0.005)
        except TimeoutError as error:
            _kill_group(pid)
            raise LaunchError(f"the process did not enter its namespace in {ENTER_TIMEOUT_S:g} s") from error
        except FileNotFoundError:
            return  # it has already ended; its exit tells the rest

    async def _reap(self, container: _Container) -> None:
        status = await container.process.wait()
        _kill_group(container.process.pid)  # nothing of a container outlives its first process
        del self._containers[container.name]
        container.reaped.set()
        code = 128 - status if status < 0 else status
        for queue in self._listeners:
            queue.put_nowait(Exit(container.name, container.workload.task_id, code))


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # the group may be empty already
        os.killpg(pid, signal.SIGKILL)
