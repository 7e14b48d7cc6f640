"""Docker containers: found by the label Mesos gives them, entered by descriptors that survive their death.

The engine is asked over its own socket.  A container's process id may be reused the moment it dies, so an
id is never trusted on its own: the sandbox file of the engine names the network namespace for good, and
where that file cannot be seen (an engine in another mount namespace) `/proc/PID` is opened first and the
container asked again afterwards; only if it still runs as the same process since the same moment was the
right thing opened.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from .errors import Refused, Retry
from .namespaces import NetworkNamespace, Place

TASK_LABEL = "MESOS_TASK_ID"
LONGEST_ANSWER = 32 << 20  # bytes; commands print what they like


@dataclass(frozen=True)
class Container:
    """One start of one container; `incarnation` differs after every restart."""

    id: str
    task_id: str
    pid: int
    started_at: str
    sandbox: str
    network_mode: str

    @property
    def incarnation(self) -> str:
        """What identifies this start, for marks and port names."""
        return f"{self.id}@{self.started_at}"


@dataclass(frozen=True)
class Run:
    """A command inside a container; `code` is None before its end, and if it was never started."""

    running: bool
    code: int | None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over the engine's Unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Engine:
    """The Docker engine of this host; containers are listed once and kept for the run."""

    def __init__(self, path: str, timeout_s: float = 10.0) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._connection: _UnixConnection | None = None
        self._listed: list[dict[str, Any]] | None = None
        self._silent: Retry | None = None
        self.unfinished: list[socket.socket] = []  # connections to commands that did not end in time

    def close(self) -> None:
        """Close the kept-open connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def version(self) -> str:
        """The engine's own version; raises Retry if it does not answer."""
        return str(self._get("/version")["Version"])

    # Finding

    def running_ids(self) -> set[str]:
        """Full ids of all running containers that carry a task id."""
        return {str(item["Id"]) for item in self._list()}

    def running_tasks(self) -> set[str]:
        """The task ids of all running containers."""
        return {str(item["Labels"].get(TASK_LABEL)) for item in self._list()}

    def find(self, task_id: str) -> Container:
        """The running container of a task; raises Retry while there is none."""
        ids = [item["Id"] for item in self._list() if item["Labels"].get(TASK_LABEL) == task_id]
        found = [container for container in map(self._inspect, ids) if container is not None]
        if not found:
            raise Retry(f"no running container carries the label {TASK_LABEL}={task_id}")
        return max(found, key=lambda container: container.started_at)

    def containers(self) -> list[Container]:
        """Every running container that carries a task id."""
        found = map(self._inspect, [item["Id"] for item in self._list()])
        return [container for container in found if container is not None]

    def _list(self) -> list[dict[str, Any]]:
        if self._silent is not None:
            raise self._silent  # a hanging engine must cost a call its time once, not once for each operation
        if self._listed is None:
            filters = quote(json.dumps({"label": [TASK_LABEL]}))
            try:
                self._listed = self._get(f"/containers/json?filters={filters}")
            except Retry as error:
                self._silent = error
                raise
        return self._listed

    def _inspect(self, container_id: str) -> Container | None:
        """The container as it runs now, or None if it does not run."""
        status, data = self.request("GET", f"/containers/{container_id}/json")
        if status == 404:
            return None
        described = self._checked(status, data)
        state = described["State"]
        if not state["Running"] or not state["Pid"]:
            return None
        return Container(
            id=described["Id"],
            task_id=described["Config"]["Labels"].get(TASK_LABEL, ""),
            pid=int(state["Pid"]),
            started_at=state["StartedAt"],
            sandbox=described["NetworkSettings"].get("SandboxKey") or "",
            network_mode=described["HostConfig"].get("NetworkMode", ""),
        )

    # Entering

    def namespace(self, container: Container) -> NetworkNamespace:
        """Open the container's network namespace; raises Refused if it is the host's."""
        if container.network_mode == "host":
            raise Refused("the container uses the host's network; run it with network none")
        try:
            namespace = self._sandbox(container) or self._process_namespace(container)
        except OSError as error:
            raise Retry(f"the container's network namespace cannot be opened: {error}") from error
        if namespace.identity in _host_namespaces():
            namespace.close()
            raise Refused("the container lives in the host's network namespace; run it with network none")
        return namespace

    def _sandbox(self, container: Container) -> NetworkNamespace | None:
        """The engine's own handle; a plain file after death or in another mount namespace, hence None."""
        if not container.sandbox:
            return None
        try:
            namespace = NetworkNamespace(container.sandbox)
        except OSError:
            return None
        try:
            with namespace.entered():
                return namespace
        except OSError:
            namespace.close()
            return None

    def _process_namespace(self, container: Container) -> NetworkNamespace:
        namespace = NetworkNamespace(f"/proc/{container.pid}/ns/net")
        try:
            self._confirm(container)
        except Retry:
            namespace.close()
            raise
        return namespace

    @contextlib.contextmanager
    def files(self, container: Container) -> Iterator[Place]:
        """Open the container's root directory and mount namespace for the time of the body."""
        opened: list[int] = []
        try:
            try:
                for name in ("root", "ns/mnt"):
                    opened.append(os.open(f"/proc/{container.pid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
            except OSError as error:
                raise Retry(f"the container's files cannot be reached: {error}") from error
            self._confirm(container)
            yield Place(*opened)
        finally:
            for descriptor in opened:
                os.close(descriptor)

    def _confirm(self, container: Container) -> None:
        """Make sure that what was opened by process id belongs to this start of the container."""
        now = self._inspect(container.id)
        if now is None or (now.pid, now.incarnation) != (container.pid, container.incarnation):
            raise Retry("the container stopped or restarted meanwhile")

    # Acting

    def signal(self, container: Container, name: str) -> None:
        """Send a signal, e.g. `HUP`, to the container's first process."""
        status, data = self.request("POST", f"/containers/{container.id}/kill?signal={quote(name)}")
        if status != 204:
            raise Retry(f"the signal {name} was not delivered: {_message(data)}")

    def prepare(self, container: Container, command: list[str]) -> str:
        """Make a command ready to run without a shell; returns the id of its run."""
        order = {"Cmd": command, "AttachStdout": True, "AttachStderr": True}
        status, data = self.request("POST", f"/containers/{container.id}/exec", order)
        if status != 201:
            raise Retry(f"the command could not be started: {_message(data)}")
        return str(json.loads(data)["Id"])

    def execute(self, run: str, timeout_s: float) -> tuple[int, str]:
        """Run a prepared command; returns (exit code, last 2,000 characters of output).

        Raises Retry if it does not end in time.  It then goes on, since the engine cannot end it, and its
        connection is left in `unfinished`: a command that prints dies when nobody listens any more.
        """
        try:
            _, output = self.request("POST", f"/exec/{run}/start", {"Detach": False, "Tty": False}, timeout_s)
        except Retry as error:
            raise Retry(f"the command did not end within {timeout_s:g} s ({error.__cause__})") from error
        code = self._get(f"/exec/{run}/json")["ExitCode"]
        return (-1 if code is None else int(code)), demultiplex(output)[-2000:]

    def look_at(self, run: str) -> Run | None:
        """What became of a command; None if the engine does not know it (any more)."""
        status, data = self.request("GET", f"/exec/{run}/json")
        if status != 200:
            return None
        told = json.loads(data)
        return Run(bool(told["Running"]), told["ExitCode"])

    # Transport

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, timeout_s: float | None = None
    ) -> tuple[int, bytes]:
        """One request to the engine; returns (HTTP status, body), raises Retry if it does not answer.

        With `timeout_s` the whole answer must arrive in that time, over a connection of its own, because the
        engine ends an attached stream by closing.
        """
        limit_s = timeout_s or self._timeout_s
        if self._connection is None or timeout_s is not None:
            self.close()
            self._connection = _UnixConnection(self._path, limit_s)
        if self._connection.sock is not None:
            self._connection.sock.settimeout(limit_s)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        data = json.dumps(body).encode() if body is not None else None
        deadline = time.monotonic() + limit_s
        connected: socket.socket | None = None
        try:
            self._connection.request(method, path, data, headers)
            connected = self._connection.sock  # the connection lets go of it when the engine will close it
            response = self._connection.getresponse()
            answer = response.status, _read_until(response, connected, deadline)
        except (OSError, http.client.HTTPException) as error:
            if connected is not None and timeout_s is not None:
                self.unfinished.append(connected.dup())
            self.close()
            raise Retry(f"the Docker engine at {self._path} does not answer: {error}") from error
        if timeout_s is not None:
            self.close()
        return answer

    def _get(self, path: str) -> Any:
        return self._checked(*self.request("GET", path))

    @staticmethod
    def _checked(status: int, data: bytes) -> Any:
        if status != 200:
            raise Retry(f"the Docker engine answered {status}: {_message(data)}")
        return json.loads(data)


def _host_namespaces() -> set[tuple[int, int]]:
    """The namespaces a container must not live in: the one we work in, and that of the first process.

    They differ only where a host is itself a namespace, and there the first process may be out of our reach.
    """
    found = {_identity("/proc/thread-self/ns/net")}
    with contextlib.suppress(PermissionError):
        found.add(_identity("/proc/1/ns/net"))
    return found


def _identity(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _read_until(response: http.client.HTTPResponse, connected: socket.socket, deadline: float) -> bytes:
    """Read the whole body; a body that trickles past the deadline, or never ends, is an error, too."""
    parts: list[bytes] = []
    size = 0
    while size <= LONGEST_ANSWER:
        left = deadline - time.monotonic()
        if left <= 0:
            raise OSError("the answer did not end in time")
        if not response.isclosed():
            connected.settimeout(left)
        part = response.read1(1 << 16)
        if not part:
            response.read()  # lets the connection know that it is free for the next request
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    raise OSError(f"the answer is longer than {LONGEST_ANSWER} bytes")


def _message(data: bytes) -> str:
    try:
        return str(json.loads(data)["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return data[:500].decode(errors="replace")


def demultiplex(stream: bytes) -> str:
    """Join the output of an attached command: frames of (stream, three zeros, 32-bit length) and payload."""
    parts: list[bytes] = []
    while len(stream) >= 8:
        length = int.from_bytes(stream[4:8], "big")
        parts.append(stream[8 : 8 + length])
        stream = stream[8 + length :]
    return b"".join(parts).decode(errors="replace")
