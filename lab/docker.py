"""The lab's container engine: one dockerd behind all agents, and Marathon's way to use it.

The engine has its own data, run directory, socket and control group, makes no network of its own,
and runs in the machine room (`sshd.py`).  "Network none" gives a container an empty namespace, which
is what Mooring addresses; "network host" shall mean the *agent's* network, not that of the machine
dockerd runs on, so each agent has a runtime of its own (`files/runc-on-host.sh`).

`DockerEngine` runs commands in containers by entering their namespaces directly.  That costs 5 ms
where the engine's own exec costs 50, and a hundred containers with a health check each would
otherwise keep both cores of a small machine busy.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
from aiodocker.events import DockerEvents

from mooring.lab.engine import Exit, Workload
from mooring.lab.plan import IMAGE, LabError, LabPlan
from mooring.lab.sshd import enter_room
from mooring.lab.supervise import MARK, Part, run

_FILES = Path(__file__).parent / "files"
_ALL_NAMESPACES = ("--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd")
_LOG_LIMIT = {"max-size": "1m", "max-file": "1"}


def part(plan: LabPlan) -> Part:
    """The engine's process; needs the machine room."""
    socket = f"unix://{plan.docker_socket}"
    argv = [
        *enter_room(plan),
        *(
            "dockerd",
            "--host",
            socket,
            "--group",
            "root",
            "--config-file",
            str(plan.docker_dir / "daemon.json"),
        ),
        *("--data-root", f"{plan.docker_dir}/data", "--exec-root", f"{plan.docker_dir}/exec"),
        *("--pidfile", f"{plan.docker_dir}/pid", "--iptables=false", "--ip6tables=false", "--bridge=none"),
        *("--cgroup-parent", f"/{plan.cgroup}", "--exec-opt", "native.cgroupdriver=cgroupfs"),
    ]

    async def ready() -> None:
        async with connect(plan.docker_socket) as docker:
            await docker.version()

    return Part("dockerd", argv, ready, where=socket, deadline_s=40)


def write_config(plan: LabPlan) -> None:
    """The engine's configuration, with one runtime for each agent's "host" network."""
    plan.docker_dir.mkdir()
    runtimes = {}
    for agent in plan.agents:
        script = plan.docker_dir / f"runc-{agent.hostname}"
        own, default = f"{plan.state_dir}/netns/{agent.namespace}", f"{plan.docker_dir}/exec/netns/default"
        script.write_text(f'#!/bin/sh\nexec sh {_FILES}/runc-on-host.sh {default} {own} "$@"\n')
        script.chmod(0o755)
        runtimes[agent.hostname] = {"path": str(script)}
    config = {"runtimes": runtimes, "log-driver": "json-file", "log-opts": _LOG_LIMIT}
    (plan.docker_dir / "daemon.json").write_text(json.dumps(config, indent=1))


async def import_image(plan: LabPlan) -> None:
    """Make the lab's image out of the machine's static busybox and two scripts."""
    archive = plan.docker_dir / "image.tar"
    _write_archive(archive, await run(plan, ["busybox", "--list"]))
    docker = ["docker", "--host", f"unix://{plan.docker_socket}"]
    await run(plan, [*docker, "import", "--change", "ENV PATH=/bin", str(archive), IMAGE], timeout_s=60)
    archive.unlink()


def _write_archive(path: Path, applets: str) -> None:
    with tarfile.open(path, "w") as archive:
        for directory in ("bin", "etc", "tmp", "proc", "sys", "dev"):
            entry = tarfile.TarInfo(directory)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
            archive.addfile(entry)
        files = {
            "bin/busybox": _busybox().read_bytes(),
            "bin/mooring-wait": (_FILES / "mooring-wait.sh").read_bytes(),
            "bin/workload": (_FILES / "workload.sh").read_bytes(),
            "etc/passwd": b"root:x:0:0:root:/:/bin/sh\n",
            "etc/group": b"root:x:0:\n",
            "etc/nsswitch.conf": b"hosts: files\n",
            "etc/hosts": b"127.0.0.1 localhost\n",
        }
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            archive.addfile(entry, io.BytesIO(content))
        for applet in set(applets.split()) - {"busybox"}:
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(entry)


def _busybox() -> Path:
    for place in ("/bin/busybox", "/usr/bin/busybox"):
        if Path(place).exists():
            return Path(place)
    raise LabError("no busybox on this machine; install the package busybox-static")


class _Client(aiodocker.Docker):
    """A client without a limit on connections: waiting for a container to end holds one."""

    def __init__(self, socket: Path) -> None:
        # The host name is never looked up; the library wants one to compose addresses with.
        super().__init__("unix://localhost", connector=aiohttp.UnixConnector(path=str(socket), limit=0))

    async def close(self) -> None:
        await super().close()
        await self.connector.close()


def connect(socket: Path) -> aiodocker.Docker:
    """A client of the engine behind that socket; close it, or use it as a context manager."""
    return _Client(socket)


class DockerEngine:
    """Starts and stops real containers; see `engine.Engine` for what each method promises."""

    def __init__(self, socket: Path, lab: str) -> None:
        self._docker = connect(socket)
        self._lab = lab
        self._pids: dict[str, int] = {}

    async def close(self) -> None:
        """Close the connections; containers go on."""
        await self._docker.close()

    async def launch(self, workload: Workload) -> str:
        """Start the workload and return its container name, `mesos-<uuid>`; `LabError` if it cannot start."""
        name = f"mesos-{uuid.uuid4()}"
        try:
            container = await self._docker.containers.create(_creation(workload, self._lab), name=name)
            await container.start()
            self._pids[name] = await self.pid(name)
        except aiodocker.DockerError as error:
            await self._remove(name)
            raise LabError(
                f"task {workload.task_id} does not start on {workload.host}: {error.message}"
            ) from error
        return name

    async def kill(self, container: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; returns when the container is gone and removed."""
        handle = self._docker.containers.container(container)
        ended = asyncio.create_task(self._ended(container))
        try:
            with suppress(aiodocker.DockerError):  # it has ended already
                await handle.kill(signal="SIGTERM")
            done, _ = await asyncio.wait({ended}, timeout=grace_s)
            if not done:
                with suppress(aiodocker.DockerError):  # it ended just now
                    await handle.kill(signal="SIGKILL")
            await ended
        finally:
            ended.cancel()
        await self._remove(container)

    async def pid(self, container: str) -> int:
        """Process id of the container's first process, as seen from the root PID namespace."""
        try:
            shown = await self._docker.containers.container(container).show()
        except aiodocker.DockerError as error:
            raise LabError(f"container {container}: {error.message}") from error
        pid = int(shown["State"]["Pid"])
        if pid == 0:
            raise LabError(f"container {container}: has ended")
        return pid

    async def execute(self, container: str, argv: Sequence[str], timeout_s: float) -> int:
        """Run a command inside the container; its exit status (124 when it took too long)."""
        status, _ = await execute_in(self._pids.get(container) or await self.pid(container), argv, timeout_s)
        return status

    def exits(self) -> AsyncIterator[Exit]:
        """Every container that ends from now on, whoever ended it (also `docker kill` by hand)."""
        return self._exits(time.time())

    async def _exits(self, since: float) -> AsyncIterator[Exit]:
        filters = json.dumps({"type": ["container"], "event": ["die"], "label": [f"{MARK}={self._lab}"]})
        # Its own listener for each caller: the client's shared one serves a single stream.
        events: Any = DockerEvents(self._docker)  # type: ignore[no-untyped-call]
        subscriber = events.subscribe(create_task=False)
        listening = asyncio.create_task(events.run(since=f"{since:.6f}", filters=filters))
        try:
            while (event := await subscriber.get()) is not None:
                facts = event["Actor"]["Attributes"]
                self._pids.pop(facts["name"], None)
                yield Exit(facts["name"], facts["MESOS_TASK_ID"], int(facts["exitCode"]))
            raise LabError("the container engine has closed its event stream; see dockerd.log of the lab")
        finally:
            listening.cancel()
            with suppress(asyncio.CancelledError, aiodocker.DockerError):  # the engine is gone, and so are we
                await listening

    async def _ended(self, container: str) -> None:
        with suppress(aiodocker.DockerError):  # there is no such container: then it has ended
            await self._docker.containers.container(container).wait(condition="removed")

    async def _remove(self, container: str) -> None:
        self._pids.pop(container, None)
        with suppress(aiodocker.DockerError):  # the engine was faster (AutoRemove)
            await self._docker.containers.container(container).delete(force=True)


def _creation(workload: Workload, lab: str) -> dict[str, Any]:
    """What the engine is asked to create."""
    labels = {
        **workload.labels,
        "MESOS_TASK_ID": workload.task_id,
        MARK: lab,
        "MOORING_LAB_HOST": workload.host,
    }
    env = {**workload.env, "MESOS_TASK_ID": workload.task_id, "HOST": workload.host, MARK: lab}
    host: dict[str, Any] = {
        "NetworkMode": workload.network,
        "AutoRemove": True,
        "Memory": int(workload.memory_mb * 1024 * 1024),
    }
    if workload.network == "host":
        host["Runtime"] = workload.host
    return {
        "Image": workload.image,
        "Cmd": list(workload.argv),
        "Env": [f"{key}={value}" for key, value in env.items()],
        "Labels": labels,
        "HostConfig": host,
    }


async def execute_in(pid: int, argv: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Run a command in all namespaces of a container's first process: exit status (124: too long), output."""
    try:
        env = dict(_environment_of(pid))
    except OSError:
        raise LabError(f"container process {pid} has ended") from None
    # The command is looked up on the container's PATH; nsenter itself is not to be found there.
    nsenter = shutil.which("nsenter") or "/usr/bin/nsenter"
    process = await asyncio.create_subprocess_exec(
        *(nsenter, f"--target={pid}", *_ALL_NAMESPACES, *argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        _end_group(process.pid)
        await process.wait()
        return 124, ""
    return process.returncode or 0, output.decode(errors="replace")


def _end_group(leader: int) -> None:
    """SIGKILL a process group but for its leader.

    The leader is nsenter, which ends by itself once it has collected its child.  Without it the child
    would stay in the container as a zombie, since few containers have a first process that collects.
    """
    for entry in os.listdir("/proc"):
        with suppress(ValueError, ProcessLookupError):  # not a process, or it has ended
            if int(entry) != leader and os.getpgid(int(entry)) == leader:
                os.kill(int(entry), signal.SIGKILL)


def _environment_of(pid: int) -> list[tuple[str, str]]:
    """The environment a process was started with."""
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    pairs = [entry.partition("=") for entry in entries if "=" in entry]
    return [(key, value) for key, _, value in pairs]
