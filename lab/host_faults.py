"""What can befall one agent of a lab, and how it is undone.

    switch_dies     ovs-vswitchd is killed; its database, and the ports in it, stay          switch_starts
    reboots         everything on the host dies, its network with it; /run is empty afterwards
    loses_engine    the engine's socket is there and nobody listens (the engine itself runs)  finds_engine
    hangs           sshd and all its sessions are stopped: connections are taken and not answered   goes_on
    fills_up        the file system below /run, where the host program keeps its state, is full     is_emptied

Each is done with the means of an operator, to this one agent; the others share nothing with it but the
engine and the switch at the top of the rack.  `heal` undoes whatever it finds.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import aiodocker

from mooring.lab import docker, namespaces, sshd, supervise, switches
from mooring.lab.handle import LabHandle, entering
from mooring.lab.plan import TOR, AgentPlan, LabError, LabPlan

_ENDS_WITHIN_S = 10.0
_FOUND_WITHIN_S = 60.0
_SMALL = "2m"
_FILLER = "/run/filler"
_DEAD_SOCKET = "/run/docker.dead"


class AgentFaults:
    """A heavy hand on one agent."""

    def __init__(self, handle: LabHandle, agent: str) -> None:
        """`agent`: its host name."""
        self.plan: LabPlan = handle.plan
        self.agent: AgentPlan = handle.plan.agent(agent)
        self._handle = handle

    # -- the switch

    async def switch_dies(self) -> None:
        """Kill the switch daemon; what it forwarded is forwarded no more."""
        pid = supervise.pid_of(self.plan, self._daemon.name)
        if pid is None:
            raise LabError(f"{self._daemon.name} does not run")
        os.kill(pid, signal.SIGKILL)
        await _gone([pid])

    async def switch_starts(self) -> None:
        """Start it again, as its service manager would."""
        await supervise.start(self.plan, self._daemon)

    @property
    def _daemon(self) -> supervise.Part:
        return switches.parts(self.plan, switches.agent_switch(self.agent))[1]

    # -- the machine

    async def reboots(self) -> None:
        """Switch the host off and on: containers, processes and devices are gone, the disk is as it was."""
        await self.loses_power()
        await self.powers_up()

    async def loses_power(self) -> None:
        """Everything on the host ends at once."""
        await self._kill_containers()
        doomed = sorted(self._processes())
        for pid in doomed:
            with suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        await _gone(doomed)
        switch = switches.tor_switch(self.plan)
        words = ["ovs-vsctl", "--timeout=10", "--if-exists", "del-port", TOR, self.agent.edge_uplink]
        await supervise.run(self.plan, words, env=switch.env)
        await namespaces.unplug(self.plan, self.agent)
        await self._in_room("umount", self._pinned)
        await supervise.run(self.plan, ["ip", "netns", "del", self.agent.namespace])

    async def powers_up(self) -> None:
        """Bring it up again: cables, switch with its old database, sshd."""
        await namespaces.plug_in(self.plan, self.agent)
        await self._in_room(
            f"--net=/run/netns/{self.agent.namespace}", "mount", "-n", "--bind", "/proc/self/ns/net",
            self._pinned,
        )  # fmt: skip
        tor = switches.tor_switch(self.plan)
        await supervise.run(
            self.plan, ["ovs-vsctl", "--timeout=10", *switches.uplink(self.agent)], env=tor.env
        )
        await switches.start_again(self.plan, switches.agent_switch(self.agent))
        # Its neighbours may take a while to find it again.
        await supervise.start(
            self.plan, replace(sshd.part(self.plan, self.agent), deadline_s=_FOUND_WITHIN_S)
        )

    @property
    def _has_power(self) -> bool:
        return os.path.exists(f"/run/netns/{self.agent.namespace}")

    @property
    def _pinned(self) -> str:
        """Where the machine room keeps the host's network for the engine."""
        return f"{self.plan.state_dir}/netns/{self.agent.namespace}"

    async def _in_room(self, *words: str) -> None:
        await supervise.run(self.plan, [*sshd.enter_room(self.plan), *words])

    async def _kill_containers(self) -> None:
        found = [one for one in await self._handle.containers() if one.host == self.agent.hostname]
        async with docker.connect(self.plan.docker_socket) as engine:
            for one in found:
                with suppress(aiodocker.DockerError):  # it has ended already
                    await engine.containers.container(one.id).kill()

    def _processes(self, name: str = "") -> Iterator[int]:
        """Every process in the host's network, or those of that program."""
        place = os.stat(f"/run/netns/{self.agent.namespace}")
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with suppress(OSError):  # it has ended
                there = os.stat(entry / "ns/net")
                program = (entry / "comm").read_text().strip()
                if (there.st_dev, there.st_ino) == (place.st_dev, place.st_ino) and program.startswith(name):
                    yield int(entry.name)

    # -- the engine

    async def loses_engine(self) -> None:
        """Nobody answers at the engine's socket on this host."""
        script = f"import socket; socket.socket(socket.AF_UNIX).bind('{_DEAD_SOCKET}')"
        await self._sh(f'test -e {_DEAD_SOCKET} || /usr/bin/python3 -c "{script}"')
        await self._sh(f"ln -sfn {_DEAD_SOCKET} /run/docker.sock")

    async def finds_engine(self) -> None:
        """The engine answers again."""
        await self._sh(f"ln -sfn {self.plan.docker_socket} /run/docker.sock; rm -f {_DEAD_SOCKET}")

    # -- ssh

    def hangs(self) -> None:
        """Stop sshd and all its sessions, and what they run."""
        self._signal(signal.SIGSTOP)

    def goes_on(self) -> None:
        """Let them go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._processes("sshd"):
            with suppress(ProcessLookupError):  # it has ended
                os.kill(pid, number)

    # -- the disk

    async def fills_up(self) -> None:
        """No byte more can be written below /run."""
        await self._sh(f"mount -o remount,size={_SMALL} /run; cat /dev/zero >{_FILLER} 2>/dev/null || true")

    async def is_emptied(self) -> None:
        """There is room again."""
        await self._sh(f"rm -f {_FILLER}; mount -o remount,size=50% /run")

    async def _sh(self, script: str) -> None:
        await supervise.run(self.plan, [*entering(self.plan, self.agent.hostname), "sh", "-c", script])

    # -- all of it

    async def heal(self) -> None:
        """Undo whatever has befallen it."""
        if not self._has_power:
            await self.powers_up()
        self.goes_on()
        if supervise.pid_of(self.plan, self._daemon.name) is None:
            await self.switch_starts()
        await self.finds_engine()
        await self.is_emptied()


async def _gone(pids: list[int]) -> None:
    """Wait until none of them lives."""
    give_up = time.monotonic() + _ENDS_WITHIN_S
    while left := [pid for pid in pids if _lives(pid)]:
        if time.monotonic() > give_up:
            raise LabError(f"processes {left} do not end")
        await asyncio.sleep(0.02)


def _lives(pid: int) -> bool:
    with suppress(ChildProcessError):  # not a child of ours
        os.waitpid(pid, os.WNOHANG)
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
