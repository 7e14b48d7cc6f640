"""Agents' hosts in memory: the twin of the Ansible runner and of the module that it runs on each host.

It takes the same operations and gives the same answers: removing before adding before writing, one holder
for an address, a new port for every start of a container, a late detach that spares the living, and a probe
of the wire before an address is shown for the first time.  The epoch of the bridge and of each port and the
sequence of plays are its fences.  All hosts share one wire.  What it leaves out are the means (veth pairs,
transactions, checks of untrusted text); the contract tests hold it against the real module on a real switch.

`MemoryHosts.hosts` is the world of a simulation: it outlives every daemon, and whoever owns the simulation
puts containers there and reads the ports.  Faults come in through two hooks, awaited before and after the
effect of a play; one that raises makes the host silent, or loses the answer of what was done.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

from mooring.core.errors import Retryable
from mooring.handlers.hosts import Answer, Operation
from mooring.handlers.memory_check import facts_in_memory
from mooring.handlers.memory_ways import Ways
from mooring.handlers.memory_wired import Wired, mac_for, objection, survey_of

Hook = Callable[[str], Awaitable[None]]
# The order in which a play does them.
_KINDS = (
    "fabric", "gateway", "detach", "adopt", "detect", "attach", "write", "probe", "observe", "check", "survey"
)  # fmt: skip


class HostSilent(Retryable):
    """The host does not answer; nothing was done there."""


class _Refused(Exception):
    """The operation cannot succeed unchanged."""


class _Stale(Exception):
    """Somebody with a higher epoch was here."""


class _Retry(Exception):
    """The operation may succeed later."""


class _Conflict(Exception):
    """Somebody answers on the address."""

    def __init__(self, answers: Mapping[str, set[str]]) -> None:
        """`answers`: MACs by the address that they answered on."""
        self.answered_on = tuple(answers)
        self.answered_by = tuple(sorted(set().union(*answers.values())))
        super().__init__(f"somebody answers on {' and '.join(answers)}: {', '.join(self.answered_by)}")


@dataclass(slots=True)
class MemoryContainer:
    """One start of one container. `told` lists path and command or signal of every reload."""

    task: str
    start: str
    alive: bool = True
    shared: bool = False  # it lives in its host's network
    listens: frozenset[int] = frozenset()
    files: dict[str, str] = field(default_factory=dict)
    told: list[tuple[str, str]] = field(default_factory=list)
    confirmed: dict[str, tuple[object, ...]] = field(default_factory=dict)  # path: what it was told last
    writers: dict[str, tuple[int, int]] = field(default_factory=dict)  # path: its newest call's epoch, number


@dataclass(frozen=True, slots=True)
class MemoryPort:
    """A switch port with our marks; `start` names the container's start that it was made for."""

    name: str
    address: str
    prefix: int
    instance: str
    task: str
    app: str
    slot: int
    generation: int
    epoch: int
    start: str
    vlan: int | None = None
    barred: tuple[str, ...] = ()  # what it may not reach
    rate_out: int | None = None
    rate_in: int | None = None
    inside: tuple[object, ...] = ()  # gateways, routes and MTU, which a mark does not tell
    address6: str | None = None
    prefix6: int | None = None
    adopted_mac: str | None = None  # of a port that was there before it was ours

    @property
    def addresses(self) -> tuple[str, ...]:
        """One, or one of either family."""
        return (self.address,) if self.address6 is None else (self.address, self.address6)

    @property
    def mac(self) -> str:
        """What answers on them."""
        return self.adopted_mac or mac_for(self.address)


@dataclass(slots=True)
class MemoryHost:
    """One agent: its containers by task, its ports by name and the highest epoch that changed it."""

    name: str
    containers: dict[str, MemoryContainer] = field(default_factory=dict)
    ports: dict[str, MemoryPort] = field(default_factory=dict)
    wired: dict[str, Wired] = field(default_factory=dict)  # by others, by the names of their ports
    orphans: dict[str, Mapping[str, str]] = field(default_factory=dict)  # device without a port: its alias
    epoch: int = 0
    sequence: int = 0  # of the newest play of that epoch that changed or confirmed ports
    ways: Ways = field(default_factory=Ways)

    def alive(self, port: MemoryPort | Wired) -> bool:
        """Whether the container that the port was made for still runs."""
        container = self.containers.get(port.task)
        return container is not None and container.alive and container.start == port.start

    def addresses(self, task: str) -> set[str]:
        """The addresses that a container has now."""
        ports = (port for port in self.ports.values() if port.task == task and self.alive(port))
        return {address for port in ports for address in port.addresses}


async def _nothing(host: str) -> None:
    """No fault."""


class MemoryHosts:
    """A `Runner` over hosts in memory."""

    def __init__(self, names: Iterable[str]) -> None:
        self.hosts = {name: MemoryHost(name) for name in names}
        self.silent: set[str] = set()
        self.strangers: dict[str, str] = {}  # address: MAC of somebody on the wire who is none of ours
        self.before: Hook = _nothing
        self.after: Hook = _nothing
        self._numbers = itertools.count(1)

    def place(
        self, host: str, task: str, *, listens: Iterable[int] = (), shared: bool = False
    ) -> MemoryContainer:
        """Start a container, or start it anew."""
        start = f"{task}@{next(self._numbers)}"
        container = MemoryContainer(task, start, shared=shared, listens=frozenset(listens))
        self.hosts[host].containers[task] = container
        return container

    def wire(self, host: str, task: str, address: str, **how: Any) -> Wired:
        """Somebody else gives a container an address, as pipework does."""
        start = self.hosts[host].containers[task].start
        wired = Wired(f"veth1pl{next(self._numbers)}", task, start, address, **how)
        self.hosts[host].wired[wired.port] = wired
        return wired

    def stop(self, host: str, task: str) -> None:
        """The container dies; its port stays on the switch, as it does on a real one."""
        self.hosts[host].containers[task].alive = False

    def answers(self, asking: MemoryHost, address: str, instance: str) -> set[str]:
        """The MACs that answer a probe for an address, without what the instance itself has on that host.

        A silent host is off the wire as well: nobody may rely on a probe to find what lives there.
        """
        found = {self.strangers[address]} if address in self.strangers else set()
        for host in self.hosts.values():
            for port in host.ports.values():
                own = host is asking and port.instance == instance
                heard = host.name not in self.silent and host.alive(port)
                if address in port.addresses and not own and heard:
                    found.add(port.mac)
            for wired in host.wired.values():
                if address in wired.addresses and host.name not in self.silent and host.alive(wired):
                    found.add(wired.mac)
        return found

    async def prepare(self, host: str) -> None:
        """Nothing takes time here."""

    async def run(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]:
        """See `handlers.hosts.Runner`; raises `HostSilent` for hosts in `silent` and what the hooks raise."""
        await self.before(host)
        answers = self.play(host, operations, epoch)
        await self.after(host)
        return answers

    def play(self, host: str, operations: Sequence[Operation], epoch: int) -> list[Answer]:
        """The effect of one play, all at once; one answer for each operation, in order."""
        if host in self.silent or host not in self.hosts:
            raise HostSilent(f"host {host} cannot be reached")
        wiring = (order for order in operations if order.get("op") not in ("write", "probe"))
        numbered = (int(order.get("sequence") or 0) for order in wiring)
        play = _Play(self, self.hosts[host], epoch, max(numbered, default=0), self._numbers)
        answers: dict[int, Answer] = {}
        for kind in _KINDS:
            chosen = [index for index, order in enumerate(operations) if order.get("op") == kind]
            results = play.do(kind, [operations[index] for index in chosen]) if chosen else ()
            answers.update(zip(chosen, results, strict=True))
        unknown = _Refused(f"op is unknown; known are {', '.join(sorted(_KINDS))}")
        return [
            answers.get(index) or _failure(operation, unknown) for index, operation in enumerate(operations)
        ]


class _Play:
    """One call of the module on one host."""

    def __init__(
        self, wire: MemoryHosts, host: MemoryHost, epoch: int, sequence: int, numbers: itertools.count[int]
    ) -> None:
        self._wire = wire
        self._host = host
        self._epoch = epoch
        self._sequence = sequence
        self._numbers = numbers

    def do(self, kind: str, orders: Sequence[Operation]) -> list[Answer]:
        """All operations of one kind."""
        if kind == "attach":
            return self._attach(orders)
        single = {
            "fabric": lambda order: self._ways(order, self._host.ways.fabric),
            "gateway": lambda order: self._ways(order, self._host.ways.gateway),
            "detach": self._detach, "adopt": self._adopt, "detect": self._detect, "write": self._write,
            "probe": self._probe, "observe": self._observe, "check": self._check, "survey": self._survey,
        }[kind]  # fmt: skip
        return [self._guarded(single, order) for order in orders]

    def _guarded(self, act: Callable[[Operation], Answer], order: Operation) -> Answer:
        try:
            return {"id": order.get("id", ""), "status": "done", "reason": "", "changed": False, **act(order)}
        except _Conflict as error:
            told = {"answered_by": list(error.answered_by), "answered_on": list(error.answered_on)}
            return {**_failure(order, error), "status": "conflict", **told}
        except (_Refused, _Retry, _Stale) as error:
            return _failure(order, error)

    # -- ports

    def _ways(self, order: Operation, act: Callable[[Operation], dict[str, Any]]) -> Answer:
        self._check_sequence()
        if not order.get("check"):
            self._leave_mark()
        return act(order)

    def _attach(self, orders: Sequence[Operation]) -> list[Answer]:
        """A second order for the same address or task is refused, as one transaction cannot hold both."""
        taken: set[object] = set()
        answers = []
        for order in orders:
            seats = {order["address"], order.get("address6"), ("task", order["task_id"])} - {None}
            clash = _Refused("another attach of the same call already takes it")
            answers.append(
                _failure(order, clash) if seats & taken else self._guarded(self._attach_one, order)
            )
            if answers[-1]["status"] != "retry":
                taken |= seats
        return answers

    def _attach_one(self, order: Operation) -> Answer:
        container = self._running(order)
        for wired in self._host.wired.values():
            if wired.start == container.start and wired.is_in_network_of(order):
                raise _Refused("the container already has an address there; `mooring adopt` takes it over")
        self._check_sequence()
        wanted = self._port(order, container)
        keep = next((port for port in self._host.ports.values() if _same_seat(port, wanted)), None)
        if order.get("detect") and (keep is None or keep.addresses != wanted.addresses):
            self._leave_mark()  # with the port from which the wire is probed
            self._check_wire(wanted)
        gone = [port for port in self._host.ports.values() if port != keep and _superseded(port, wanted)]
        self._check_ports([*gone, *([keep] if keep else [])])
        name = keep.name if keep else f"mo{next(self._numbers):013x}"
        wanted = replace(wanted, name=name, adopted_mac=keep.adopted_mac if keep else None)
        self._leave_mark()
        for port in gone:
            del self._host.ports[port.name]
        self._host.ports[name] = wanted
        removed = sorted(port.name for port in gone)
        return {"port": name, "address": wanted.address, "address6": wanted.address6, "removed": removed,
                "container": container.start, "changed": keep != wanted or bool(gone)}  # fmt: skip

    def _adopt(self, order: Operation) -> Answer:
        container, host, name = self._running(order), self._host, str(order["port"])
        if order["container"] != container.start:
            raise _Retry("the container was started anew since it was surveyed; look again")
        self._check_sequence()
        done, wired = host.ports.get(name), host.wired.get(name)
        wanted = replace(self._port(order, container), name=name)
        if why := objection(order, wanted, host.ports, wired):
            raise _Refused(why)
        self._leave_mark()
        if done is not None:
            kept = {key: getattr(done, key) for key in ("adopted_mac", "inside", "rate_out", "rate_in")}
            host.ports[name] = replace(wanted, **kept)
        elif wired is not None:
            host.ports[name] = replace(wanted, adopted_mac=host.wired.pop(name).mac)
        return {"port": name, "address": wanted.address, "mac": host.ports[name].mac,
                "changed": done != host.ports[name]}  # fmt: skip

    def _survey(self, order: Operation) -> Answer:
        return {"containers": survey_of(filter(self._host.alive, self._host.wired.values()))}

    def _check_wire(self, wanted: MemoryPort) -> None:
        answers = {one: self._wire.answers(self._host, one, wanted.instance) for one in wanted.addresses}
        answers = {address: macs for address, macs in answers.items() if macs}
        if answers:
            raise _Conflict(answers)

    def _port(self, order: Operation, container: MemoryContainer) -> MemoryPort:
        routes = tuple((route["to"], route.get("via")) for route in order.get("routes") or ())
        return MemoryPort(
            name="",
            address=order["address"],
            prefix=order["prefix"],
            instance=order["instance"],
            task=order["task_id"],
            app=order["app"],
            slot=order["slot"],
            generation=order["generation"],
            epoch=self._epoch,
            start=container.start,
            vlan=order.get("vlan"),
            barred=tuple(order.get("barred") or ()),
            rate_out=order.get("rate_out"),
            rate_in=order.get("rate_in"),
            inside=(order.get("gateway"), order.get("gateway6"), routes, order.get("mtu")),
            address6=order.get("address6"),
            prefix6=order.get("prefix6"),
        )

    def _detach(self, order: Operation) -> Answer:
        self._check_sequence()
        remove: list[MemoryPort] = []
        spared: list[MemoryPort] = []
        if order.get("port") is not None:
            return self._detach_dead(order)
        for port in self._host.ports.values():
            same_instance = order.get("instance") == port.instance
            if not same_instance and order.get("address") != port.address:
                continue
            foreign = order.get("instance") is not None and not same_instance
            newer = order.get("task_id") not in (None, port.task)
            (spared if (foreign or newer) and self._host.alive(port) else remove).append(port)
        self._check_ports(remove)
        self._leave_mark()
        for port in remove:
            del self._host.ports[port.name]
        removed = sorted(port.name for port in remove)
        return {"removed": removed, "spared": [_spared(port) for port in spared],
                "changed": bool(removed)}  # fmt: skip

    def _detect(self, order: Operation) -> Answer:
        self._check_sequence()
        self._leave_mark()  # with the port from which the wire is probed
        address = str(order["address"])
        return {"address": address, "answered_by": sorted(self._wire.answers(self._host, address, ""))}

    def _detach_dead(self, order: Operation) -> Answer:
        """The one port that is named, if it is still the same and nothing lives behind it."""
        named = self._host.ports.get(order["port"])
        found = [named] if named is not None and named.start == order.get("container") else []
        dead = [port for port in found if not self._host.alive(port)]
        self._check_ports(dead)
        self._leave_mark()
        for port in dead:
            del self._host.ports[port.name]
        orphan = self._host.orphans.pop(order["port"], None) if order.get("container") is None else None
        removed = [port.name for port in dead] + ([order["port"]] if orphan is not None else [])
        return {"removed": removed, "spared": [_spared(port) for port in found if port not in dead],
                "changed": bool(removed)}  # fmt: skip

    def _observe(self, order: Operation) -> Answer:
        raised = bool(order.get("fence")) and self._epoch > self._host.epoch
        if order.get("fence"):
            self._check_sequence()
            self._leave_mark()
        ports = [self._described(port) for port in self._host.ports.values()]
        containers = self._host.containers.values()
        writers = (epoch for container in containers for epoch, _ in container.writers.values())
        files_epoch = max(writers, default=0)
        return {"ports": ports, "bridge_epoch": self._host.epoch, "files_epoch": files_epoch,
                "orphans": [{"device": name, **told} for name, told in self._host.orphans.items()],
                "leftovers": [], "fixtures": self._host.ways.names(), "changed": raised}  # fmt: skip

    def _check(self, order: Operation) -> Answer:
        return facts_in_memory(self._host.name, len(self._host.ports))

    def _described(self, port: MemoryPort) -> Mapping[str, Any]:
        told = ("address", "prefix", "address6", "prefix6", "instance", "task", "app", "slot", "generation",
                "epoch", "vlan", "rate_out", "rate_in")  # fmt: skip
        alive = self._host.alive(port)
        return {"port": port.name, "container": port.start, "alive": alive, "device": alive,
                "adopted": port.adopted_mac is not None, "barred": list(port.barred),
                **{key: getattr(port, key) for key in told}}  # fmt: skip

    # -- containers

    def _write(self, order: Operation) -> Answer:
        content = str(order["content"])
        if sha256(content.encode()).hexdigest() != order["digest"]:
            raise _Refused(f"the content of {order['path']} does not match its digest")
        self._check_epoch()
        container, path = self._running(order), str(order["path"])
        self._come_after(container, path, int(order.get("sequence") or 0))
        changed = container.files.get(path) != content
        container.files[path] = content
        how = " ".join(order.get("command") or ()) or str(order.get("signal") or "")
        telling = (order["digest"], how)
        tell = bool(how) and (changed or container.confirmed.get(path) != telling)
        if tell:
            container.told.append((path, how))
            container.confirmed[path] = telling
        return {"path": path, "digest": order["digest"], "reloaded": tell, "changed": changed or tell}

    def _come_after(self, container: MemoryContainer, path: str, number: int) -> None:
        last_epoch, last_number = container.writers.get(path, (0, 0))
        if self._epoch < last_epoch:
            raise _Stale(f"epoch {self._epoch} is stale: {path} was written by epoch {last_epoch}")
        if self._epoch == last_epoch and 0 < number < last_number:
            raise _Retry(f"call {number} is late: {path} was written by call {last_number}")
        container.writers[path] = (self._epoch, number)

    def _probe(self, order: Operation) -> Answer:
        container = self._running(order)
        there = order["address"] in self._host.addresses(container.task)
        open_ = [port for port in order["ports"] if there and port in container.listens]
        closed = {str(port): "no answer" for port in order["ports"] if port not in open_}
        found: dict[str, Any] = {"open": open_, "closed": closed}
        if closed:
            reason = "; ".join(f"port {port}: {error}" for port, error in closed.items())
            return {**found, "status": "retry", "reason": reason}
        return found

    def _running(self, order: Operation) -> MemoryContainer:
        container = self._host.containers.get(str(order["task_id"]))
        if container is None or not container.alive:
            raise _Retry(f"no running container carries the label MESOS_TASK_ID={order['task_id']}")
        if container.shared and order["op"] != "write":
            raise _Refused("the container uses the host's network; run it with network none")
        return container

    # -- the fence

    def _check_epoch(self) -> None:
        if self._epoch < self._host.epoch:
            raise _Stale(f"epoch {self._epoch} is stale: the bridge has seen epoch {self._host.epoch}")

    def _check_sequence(self) -> None:
        self._check_epoch()
        newer = self._host.sequence if self._epoch == self._host.epoch else 0
        if 0 < self._sequence < newer:
            raise _Retry(f"call {self._sequence} is late: the bridge has heard call {newer}")

    def _leave_mark(self) -> None:
        before = self._host.sequence if self._epoch == self._host.epoch else 0
        self._host.epoch, self._host.sequence = self._epoch, max(before, self._sequence)

    def _check_ports(self, ports: Iterable[MemoryPort]) -> None:
        for port in ports:
            if port.epoch > self._epoch:
                raise _Stale(f"epoch {self._epoch} is stale: {port.name} was changed by epoch {port.epoch}")


def _same_seat(port: MemoryPort, wanted: MemoryPort) -> bool:
    return (port.start, port.address, port.instance) == (wanted.start, wanted.address, wanted.instance)


def _spared(port: MemoryPort) -> Mapping[str, Any]:
    told = ("address", "instance", "task")
    return {"port": port.name, **{key: getattr(port, key) for key in told}}


def _superseded(port: MemoryPort, wanted: MemoryPort) -> bool:
    return bool({*port.addresses} & {*wanted.addresses}) or port.instance == wanted.instance


def _failure(order: Operation, error: Exception) -> Answer:
    status = {_Retry: "retry", _Stale: "stale"}.get(type(error), "refused")
    return {"id": order.get("id", ""), "status": status, "reason": str(error), "changed": False}
