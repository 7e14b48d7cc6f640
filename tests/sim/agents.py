"""The agents' hosts of the simulation, and what is remembered of them: who was where, until when.

A port *answers* for as long as it stands on its switch, whether its container lives or not, until an
operator asserts that nothing runs on its host any more.  What such a host still has on its switch when it
comes back is a *ghost*: made for a container that died with the host, it answers nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mooring.handlers.hosts import Answer, Operation
from mooring.handlers.memory_hosts import MemoryHost, MemoryHosts, MemoryPort
from tests.sim.loop import SimClock

HAND_MADE = 100_000  # numbers of what people do to a switch


@dataclass(frozen=True)
class InTheAir:
    """A play that has been sent and has not landed."""

    host: str
    order: tuple[int, int]  # epoch, and its place among the plays of that epoch
    attaches: frozenset[tuple[str, str]]  # task and address
    changes: bool  # whether it does more than look
    wanted: frozenset[tuple[str, str]]  # task and address of the ports that should stand when it was sent


class Agents(MemoryHosts):
    """Hosts that write down what lands on them, and by which epoch."""

    def __init__(
        self, names: Sequence[str], clock: SimClock, trace: Callable[[str], None],
        landed: Callable[[str, int], None], breach: Callable[[str], None],
    ) -> None:  # fmt: skip
        super().__init__(names)
        self._clock = clock
        self._trace = trace
        self._landed = landed
        self._breach = breach
        self.ghosts: set[str] = set()  # names of ports
        self.flights: list[InTheAir] = []
        self.left: dict[str, float] = {}  # address: when the last port with it went, monotonic seconds
        self._wrote: dict[tuple[str, str], tuple[int, int]] = {}  # task and path: by which epoch and call
        self.came: dict[str, float] = {}  # address: since when a stranger has it, monotonic seconds

    def play(self, host: str, operations: Sequence[Operation], epoch: int) -> list[Answer]:
        before = dict(self.hosts[host].ports)
        answers = super().play(host, operations, epoch)
        after = self.hosts[host].ports
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                self._trace(f"{host} epoch {epoch}: {_port(before.get(name))} -> {_port(after.get(name))}")
                self._changed(host, before, before.get(name), after.get(name))
                self._landed(host, epoch)
        for operation, answer in zip(operations, answers, strict=True):
            if operation["op"] == "write" and answer["status"] == "done":
                self._written(operation, epoch)
        return answers

    def _written(self, operation: Operation, epoch: int) -> None:
        """A file holds now what this call says: nobody newer may have said something before."""
        file, call = (operation["task_id"], operation["path"]), (epoch, int(operation.get("sequence") or 0))
        if call < (newest := self._wrote.get(file, call)):
            self._breach(f"{file[1]} in {file[0]} was written by call {call} after call {newest}")
        self._wrote[file] = max(call, newest)

    def _changed(
        self, host: str, before: dict[str, MemoryPort], was: MemoryPort | None, now: MemoryPort | None
    ) -> None:
        if was is not None and was.name not in self.ghosts and (now is None or now.address != was.address):
            self.left[was.address] = self._clock.monotonic()
        if now is None or any(port.address == now.address for port in before.values()):
            return
        for address in now.addresses:
            since = self.came.get(address)
            if since is not None and since < self._clock.monotonic():
                self._breach(f"{address} was given to {now.task} on {host} although a stranger answers on it")

    def landed_or_lost(self, flight: InTheAir) -> None:
        """The play is not on its way any more."""
        if flight in self.flights:
            self.flights.remove(flight)

    # -- what can be asked

    def answering(self, address: str | None = None) -> Iterator[tuple[MemoryHost, MemoryPort]]:
        """Every port that may answer, on whichever host, silent ones included."""
        for host in self.hosts.values():
            for port in host.ports.values():
                if port.name not in self.ghosts and address in (None, port.address):
                    yield host, port

    def ports_of(self, address: str) -> Iterator[MemoryPort]:
        """Every port that carries the address, those of the dead included."""
        for host in self.hosts.values():
            yield from (port for port in host.ports.values() if port.address == address)

    def in_the_air(self, address: str) -> Iterator[InTheAir]:
        """Plays that may yet attach the address: their host would still take them."""
        for flight in self.flights:
            here = self.hosts[flight.host]
            living = {task for task, container in here.containers.items() if container.alive}
            meant = any(task in living for task, wanted in flight.attaches if wanted == address)
            if meant and flight.order >= (here.epoch, here.sequence):
                yield flight

    # -- what people and power do

    def switch_off(self, host: str) -> None:
        """The host loses its power: containers die, and plays that lie on it; ports stay on record there."""
        self.silent.add(host)
        self.flights = [flight for flight in self.flights if flight.host != host]
        for container in self.hosts[host].containers.values():
            container.alive = False

    def write_off(self, host: str) -> None:
        """Rightly, because it is switched off, somebody asserts that nothing runs there."""
        for port in self.hosts[host].ports.values():
            if port.name not in self.ghosts:
                self.left[port.address] = self._clock.monotonic()
                self.ghosts.add(port.name)

    def stranger(self, address: str, mac: str | None) -> None:
        """Somebody else's machine takes the address, or lets go of it."""
        if mac is None:
            self.came.pop(address, None)
            self.strangers.pop(address, None)
        else:
            self.came[address] = self._clock.monotonic()
            self.strangers[address] = mac

    def pull_out(self, host: str, name: str) -> None:
        """Somebody removes a port by hand."""
        port = self.hosts[host].ports.pop(name, None)
        if port is not None:
            self._trace(f"* by hand: {host} loses {_port(port)}")
            if name not in self.ghosts:
                self.left[port.address] = self._clock.monotonic()

    def retag(self, host: str, name: str, vlan: int) -> None:
        """Somebody moves a port to another VLAN by hand."""
        port = self.hosts[host].ports.get(name)
        if port is not None:
            self._trace(f"* by hand: {host} has {_port(port)} in VLAN {vlan}")
            self.hosts[host].ports[name] = replace(port, vlan=vlan)


def _port(port: MemoryPort | None) -> str:
    return "nothing" if port is None else f"{port.address} for {port.task}"
