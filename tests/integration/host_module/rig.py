"""A host for the module's tests: its own network namespace, a real Open vSwitch, a real Docker engine.

Everything lives below one temporary directory and in one namespace named after it; the engine has
no bridge and no firewall rules of its own.  Only processes started here are ended here.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mooring.playbooks.module_utils import mooring_host
from mooring.playbooks.module_utils.mooring_host.host import Settings
from mooring.playbooks.module_utils.mooring_host.isolation import guardian_turn
from mooring.playbooks.module_utils.mooring_host.namespaces import NetworkNamespace
from mooring.playbooks.module_utils.mooring_host.operations import perform
from mooring.playbooks.module_utils.mooring_host.turns import is_taken

BRIDGE = "br-mooring"
IMAGE = "hm-busybox"
APPLETS = ("sh", "httpd", "sleep", "cat", "ls", "ip", "touch", "ln", "mkfifo", "rm", "mkdir")

# The trap first: a signal that comes before it would be lost on the first process of a container.
WORKLOAD = """#!/bin/sh
trap 'echo told >> /tmp/signals' HUP
mkdir -p /www
echo "$MESOS_TASK_ID" > /www/index.html
httpd -f -p 8080 -h /www &
while true; do wait; done
"""


def run(*words: str, check: bool = True) -> str:
    """Run a command and return its standard output."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout.strip()


def until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Poll until the condition holds; fail naming what was waited for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        time.sleep(0.02)


class HostRig:
    """One host with a switch and an engine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"hm-{directory.name[-8:]}"
        self.database = str(directory / "db.sock")
        self.engine = str(directory / "docker.sock")
        self.state_dir = str(directory / "state")
        self._processes: list[subprocess.Popen[bytes]] = []
        self._containers: list[str] = []
        self.namespace: NetworkNamespace | None = None

    def start(self) -> None:
        """Bring everything up."""
        run("ip", "netns", "add", self.name)
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        self.namespace = NetworkNamespace(f"/run/netns/{self.name}")
        self._start_switch()
        self._start_engine()

    def _spawn(self, log: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.directory / log).open("wb") as output:
            process = subprocess.Popen(
                words,
                stdout=output,
                stderr=output,
                start_new_session=True,
                # For these processes only: other tests of the session have switches of their own.
                env={**os.environ, "OVS_RUNDIR": str(self.directory)},
            )
        self._processes.append(process)
        return process

    def _start_switch(self) -> None:
        schema = "/usr/share/openvswitch/vswitch.ovsschema"
        run("ovsdb-tool", "create", str(self.directory / "conf.db"), schema)
        inside = ("nsenter", f"--net=/run/netns/{self.name}")
        control = str(self.directory)
        self._spawn(
            "ovsdb.log", *inside, "ovsdb-server", str(self.directory / "conf.db"),
            f"--remote=punix:{self.database}", f"--unixctl={control}/ovsdb.ctl",
        )  # fmt: skip
        until(lambda: Path(self.database).exists(), "ovsdb-server")
        self.start_switch_daemon()
        self.vsctl("add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev")
        run("ip", "-n", self.name, "addr", "add", "10.64.0.1/22", "dev", BRIDGE)
        run("ip", "-n", self.name, "link", "set", BRIDGE, "up")

    def start_switch_daemon(self) -> None:
        """Start the part that forwards, for the first time or again; it is ended by `switch_daemon.kill`."""
        self.switch_daemon = self._spawn(
            "vswitchd.log", "nsenter", f"--net=/run/netns/{self.name}", "ovs-vswitchd",
            f"unix:{self.database}", "--disable-system", f"--unixctl={self.directory}/vswitchd.ctl",
        )  # fmt: skip

    @contextlib.contextmanager
    def guardian(self, bridge: str = BRIDGE) -> Iterator[subprocess.Popen[bytes]]:
        """The resident program that restores the rules, for the time of the body."""
        process = self._spawn(
            "guardian.log", "nsenter", f"--net=/run/netns/{self.name}", sys.executable, "-m",
            f"{mooring_host.__name__}.guardian", "--owner=mooring", f"--bridge={bridge}",
            f"--database={self.database}", f"--state-dir={self.state_dir}",
        )  # fmt: skip
        try:
            until(lambda: is_taken(self.state_dir, guardian_turn(bridge)), "the guardian")
            yield process
        finally:
            process.terminate()
            process.wait(10)

    def _start_engine(self) -> None:
        engine = self.directory / "engine"
        self._spawn(
            "dockerd.log", "dockerd", "--iptables=false", "--bridge=none", f"--data-root={engine}/data",
            f"--exec-root={engine}/exec", f"--pidfile={engine}.pid", f"--host=unix://{self.engine}",
        )  # fmt: skip
        until(lambda: self.docker("version", check=False).count("Version") > 1, "dockerd", 60.0)
        image = self.directory / "image.tar"
        image.write_bytes(_image())
        self.docker("import", str(image), IMAGE)

    def stop(self) -> None:
        """Take everything down again."""
        if self._containers:
            self.docker("rm", "-f", *self._containers, check=False)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)
            process.kill()
            process.wait(5)
        if self.namespace is not None:
            self.namespace.close()
        run("ip", "netns", "del", self.name, check=False)
        for mount in sorted(_mounts_below(self.directory), reverse=True):
            run("umount", "-l", mount, check=False)

    def docker(self, *words: str, check: bool = True) -> str:
        """The engine's own client."""
        return run("/usr/bin/docker", "-H", f"unix://{self.engine}", *words, check=check)

    def vsctl(self, *words: str) -> str:
        """The switch's own client."""
        return run("ovs-vsctl", f"--db=unix:{self.database}", "--timeout=10", *words)

    def ofctl(self, command: str, *rest: str) -> str:
        """The switch's own client for rules; what follows the command comes after the bridge."""
        target = f"unix:{self.directory}/{BRIDGE}.mgmt"
        return run("ovs-ofctl", "-O", "OpenFlow14", "--timeout=10", command, target, *rest)

    def appctl(self, *words: str) -> str:
        """The switch daemon's own client."""
        return run("ovs-appctl", f"--target={self.directory}/vswitchd.ctl", "--timeout=10", *words)

    def ports(self) -> list[str]:
        """Ports of the bridge as the switch itself tells."""
        return self.vsctl("list-ports", BRIDGE).split()

    def devices(self) -> set[str]:
        """Network devices of the host."""
        links = json.loads(run("ip", "-j", "-n", self.name, "link", "show"))
        return {link["ifname"] for link in links}

    def container(self, task: str | None = None, *options: str, network: str = "none") -> tuple[str, str]:
        """Run a web server that answers with its task id; returns (task id, container id)."""
        task = task or f"web.instance-{uuid.uuid4()}._app.1"
        container = self.docker(
            "run", "-d", "--network", network, "--label", f"MESOS_TASK_ID={task}",
            "--env", f"MESOS_TASK_ID={task}", *options, IMAGE, "/workload",
        )  # fmt: skip
        self._containers.append(container)
        return task, container

    def inside(self, container: str, *words: str) -> str:
        """Run a command in a container by the engine's client."""
        return self.docker("exec", container, *words)

    def do(self, *operations: Mapping[str, Any], epoch: int = 1, **settings: Any) -> list[dict[str, Any]]:
        """Perform operations on this host."""
        given = {"database": self.database, "engine": self.engine, "state_dir": self.state_dir, **settings}
        assert self.namespace is not None
        with self.namespace.entered():
            return perform(Settings(owner="mooring", epoch=epoch, bridge=BRIDGE, **given), operations)

    @contextlib.contextmanager
    def stranger(self, address: str, *, prefix: int = 22, vlan: int | None = None) -> Iterator[str]:
        """Somebody on the switch who is none of ours and has the address; yields his MAC."""
        name = f"st{uuid.uuid4().hex[:8]}"
        own = f"{self.name}-{name}"
        run("ip", "netns", "add", own)
        try:
            run("ip", "-n", self.name, "link", "add", name, "type", "veth",
                "peer", "name", "eth0", "netns", own)  # fmt: skip
            run("ip", "-n", self.name, "link", "set", name, "up")
            run("ip", "-n", own, "addr", "add", f"{address}/{prefix}", "dev", "eth0",
                *(["nodad"] if ":" in address else []))  # fmt: skip
            run("ip", "-n", own, "link", "set", "eth0", "up")
            self.vsctl("add-port", BRIDGE, name, *([f"tag={vlan}"] if vlan else []))
            yield json.loads(run("ip", "-j", "-n", own, "link", "show", "eth0"))[0]["address"]
        finally:
            self.vsctl("--if-exists", "del-port", BRIDGE, name)
            run("ip", "netns", "del", own, check=False)

    def listen_for_announcements(self, address: str) -> Callable[[], int]:
        """Start listening on the bridge; returns how many gratuitous ARPs for the address were seen."""
        assert self.namespace is not None
        with self.namespace.entered():
            listener = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(0x0806)
            )
        listener.bind((BRIDGE, 0x0806))
        wanted = socket.inet_aton(address)
        seen: list[bytes] = []

        def count() -> int:
            with contextlib.suppress(BlockingIOError):
                while True:
                    seen.append(listener.recv(64))
            return sum(frame[28:32] == wanted == frame[38:42] for frame in seen)

        return count

    def fetch(self, address: str, port: int = 8080) -> str:
        """What the web server at the address answers, asked across the switch; "" for nothing."""
        assert self.namespace is not None
        connection = http.client.HTTPConnection(address, port, timeout=2.0)
        try:
            with self.namespace.entered():
                connection.connect()
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        except OSError:
            return ""
        finally:
            connection.close()


def _mounts_below(directory: Path) -> list[str]:
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [line.split()[1] for line in mounts if line.split()[1].startswith(f"{directory}/")]


def _image() -> bytes:
    """A tar of a static busybox and a web server that serves its task id."""
    made = io.BytesIO()
    workload = WORKLOAD.encode()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.add("/usr/bin/busybox", "bin/busybox")
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
        for name in ("etc", "tmp", "proc", "sys", "dev"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        script = tarfile.TarInfo("workload")
        script.size, script.mode = len(workload), 0o755
        tar.addfile(script, io.BytesIO(workload))
    return made.getvalue()


@contextlib.contextmanager
def hosted() -> Iterator[HostRig]:
    """A host for the time of the body."""
    if os.geteuid() != 0:
        pytest.fail("these tests need root: deselect them with -m 'not root'")
    # Short, because the paths of Unix sockets may not be long.
    directory = Path(tempfile.mkdtemp(prefix="hm-"))
    made = HostRig(directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(directory, ignore_errors=True)
