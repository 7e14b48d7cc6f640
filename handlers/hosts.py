"""The sinks that live on the agents' hosts: switch ports, probes and files.

All three speak to the same small program on each host, through an Ansible play that takes any number
of operations.  A play costs much the same whatever it carries, so what waits for a host leaves together.

Each host has two lanes.  Wiring (attach, adopt, detach, observe, survey, and the ways between hosts: fabric
and gateway) depends on nothing but the host itself; writes and probes go inside containers, where an app's
own command may take its time, and must not delay anybody's wiring.  A host may therefore have two plays at
once, but never two of a lane, which is all that the program asks for: ports are changed by wiring alone,
files and the records of what was told by the other lane alone.  Both read the switch, which is transactional,
and a probe that meets a port being removed just fails.

The program answers each operation for itself ("done", "retry", "refused", "stale", "conflict"); a host that
does not answer fails its own lane only.  A stale caller was overtaken by another daemon, and ends.

Every play that changes something, or fences, carries its place in the sequence of all plays.  A play that was
given up may lie frozen on its host and wake after a later one has confirmed that a port is gone, or has
written a file anew; the host knows it by its lower number and turns it away.

An attach has the address probed on the wire first, unless it is known to stand on that host for that instance
already (a container that starts anew), or has been probed there a moment ago (see `ahead`).

To a host in maintenance (see `maintenance`) nothing is sent that would change it; it can be observed.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from msgspec import structs

from mooring.core.batch import Lanes
from mooring.core.clock import Clock
from mooring.core.errors import Fatal, Fenced, MooringError, Refused, Retryable
from mooring.core.model import BindingId, Epoch, SinkName
from mooring.core.sink import (
    Change,
    Conflict,
    Done,
    NotPossible,
    Observation,
    Outcome,
    RetryAfter,
    Unreadable,
)
from mooring.core.specs import FilesSpec, PortSpec, ProbeSpec, Spec
from mooring.handlers.ahead import Addresses, Ahead
from mooring.handlers.attendance import Attendance
from mooring.handlers.guards import GuardDrops, remarks
from mooring.handlers.wants import FILES, NETWORK, PROBE

Operation = Mapping[str, Any]
Answer = Mapping[str, Any]
# Nobody waits long for company; while many come, one play for all of them is the quickest for each.
_WINDOW_S, _WINDOWS = 0.03, 10
_INSIDE = frozenset({"write", "probe"})
_WIRING = frozenset({"attach", "adopt", "detach", "fabric", "gateway"})
_NUMBERED = _WIRING | {"write"}
_CHANGING = _WIRING | _INSIDE | {"detect"}
_MAINTAINED_AGAIN_S = 30.0  # what waits for the end of maintenance is woken by it


class InMaintenance(Retryable):
    """People are at work on the host: nothing was sent, and nothing will be until they are done."""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(
            f"host {host} is in maintenance ({reason}); waits for `mooring hosts resume {host}`",
            _MAINTAINED_AGAIN_S,
        )


class Runner(Protocol):
    """Carries operations to one host; raises `Retryable` when the host or the play failed."""

    async def run(self, host: str, operations: Sequence[Operation], epoch: int) -> Sequence[Answer]: ...

    async def prepare(self, host: str) -> None:
        """Have ready what can be, since there will soon be something to do on the host."""


class Hosts:
    """All agents' hosts, two lanes each."""

    def __init__(self, runner: Runner, clock: Clock, epoch: Epoch) -> None:
        self.epoch = epoch
        self.fenced: dict[str, str] = {}  # hosts that an operator declared dead: why (see `fences`)
        self.maintained: dict[str, str] = {}  # hosts that people are at work on: why (see `maintenance`)
        self.observed: Callable[[str, Answer], None] = lambda host, answer: None  # told of every observation
        self.attendance = Attendance(clock)
        self.ahead = Ahead(runner.prepare, self._is_silent, clock)
        self.drops = GuardDrops()
        self._told: dict[str, Epoch] = {}
        self._sequence = itertools.count(1)
        self._runner = runner
        self._wiring: Lanes[Operation, Answer] = Lanes(
            self._play, clock, window_s=_WINDOW_S, windows=_WINDOWS
        )
        self._inside: Lanes[Operation, Answer] = Lanes(
            self._play, clock, window_s=_WINDOW_S, windows=_WINDOWS
        )

    async def do(self, host: str, operations: Iterable[Operation]) -> list[Answer]:
        """Carry out operations on a host with its next plays. Raises `Retryable` if the host fails."""
        return list(await asyncio.gather(*(self._submit(host, operation) for operation in operations)))

    async def marks(self, host: str, *, fence: bool = False) -> Answer:
        """Every port on the host that carries our mark, and the highest epoch seen there.

        With `fence` the host refuses older epochs than ours before it answers.
        """
        (answer,) = await self.do(host, [{"op": "observe", "id": host, "fence": fence}])
        self.drops.take(host, answer)
        return answer

    async def survey(self, host: str) -> Answer:
        """Every container of Mesos on the host with an address that does not stand on a port of ours."""
        (answer,) = await self.do(host, [{"op": "survey", "id": host}])
        return answer

    async def close(self) -> None:
        """Let the plays in the air land."""
        await self.ahead.close()
        await asyncio.gather(self._wiring.close(), self._inside.close())

    async def _submit(self, host: str, operation: Operation) -> Answer:
        if host in self.maintained and operation["op"] in _CHANGING:
            raise InMaintenance(host, self.maintained[host])
        lanes = self._inside if operation["op"] in _INSIDE else self._wiring
        return await lanes.submit(host, operation)

    async def _is_silent(self, host: str, addresses: Addresses, vlan: int | None) -> bool:
        """Whether nobody answers on any of the addresses as the host hears it."""
        questions = [{"op": "detect", "id": one, "address": one, "vlan": vlan} for one in addresses]
        answers = await self.do(host, questions)
        return all(one.get("status") == "done" and not one.get("answered_by") for one in answers)

    def has_told(self, host: str) -> bool:
        """Whether the host may know our present epoch from us: something that raises its fence was sent."""
        return self._told.get(host) == self.epoch

    async def _play(self, host: str, operations: Sequence[Operation]) -> Sequence[Answer]:
        if any(operation["op"] in _WIRING or operation.get("fence") for operation in operations):
            self._told[host] = self.epoch
        number = next(self._sequence)
        numbered = [
            {**operation, "sequence": number} if _is_numbered(operation) else operation
            for operation in operations
        ]
        try:
            answers = await self._runner.run(host, numbered, self.epoch)
        except Retryable as error:
            self.attendance.silent(host, str(error))
            raise
        self.attendance.answered(host, answers)
        _check_not_stale(host, answers)
        for operation, answer in zip(numbered, answers, strict=False):
            if operation["op"] == "observe" and answer.get("status") == "done":
                self.observed(host, answer)
        return answers


def _is_numbered(operation: Operation) -> bool:
    return operation["op"] in _NUMBERED or bool(operation.get("fence"))


def _check_not_stale(host: str, answers: Sequence[Answer]) -> None:
    """Raise `Fenced` if the host says that a newer daemon has been there; nothing more is ours to do then."""
    for answer in answers:
        if answer.get("status") == "stale":
            raise Fenced(f"host {host}: {answer.get('reason')}")


class _HostSink:
    """What the three sinks share: a lane for each host, operations out, outcomes in."""

    name: SinkName

    def __init__(self, hosts: Hosts, inventory: Sequence[str]) -> None:
        self._hosts = hosts
        self._inventory = tuple(inventory)

    def lane(self, change: Change) -> str:
        spec = change.wanted or (change.was[0] if change.was else None)
        return getattr(spec, "host", "")

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        return await asyncio.gather(*(self._apply(change) for change in changes))

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Nothing to remember: the hosts know what they show."""

    async def observe(self) -> Observation:
        """Only switch ports can be read back from a host."""
        raise Unreadable(f"what sink {self.name} does inside containers is not read back")

    async def check(self) -> str:
        """Ask every host of the inventory for its ports."""
        answers = await asyncio.gather(*map(self._hosts.marks, self._inventory), return_exceptions=True)
        silent = [
            f"{host}: {answer}"
            for host, answer in zip(self._inventory, answers, strict=True)
            if isinstance(answer, BaseException)
        ]
        if silent:
            raise Retryable("; ".join(silent))
        told = [f"{len(self._inventory)} hosts answer: {', '.join(self._inventory)}"]
        if self.name == NETWORK:
            told += remarks(self._inventory, answers)
        return "; ".join(told)

    async def _apply(self, change: Change) -> Outcome:
        operations = self._operations(change)
        if not operations:
            return Done(changed=False)
        try:
            answers = await self._hosts.do(self.lane(change), operations)
        except Retryable as error:
            return self._unanswered(change, error)
        except Refused as error:
            return NotPossible(str(error))
        return _worst(
            [
                _outcome(operation, answer, operations)
                for operation, answer in zip(operations, answers, strict=True)
            ]
        )

    def _unanswered(self, change: Change, error: Retryable) -> Outcome:
        return RetryAfter(str(error), error.after_s)

    def _operations(self, change: Change) -> list[Operation]:
        raise TypeError(f"{type(self).__name__} does not say what to do")


class NetworkSink(_HostSink):
    """Switch ports with addresses. `observe` is keyed by `port_key`; its places are hosts."""

    name = NETWORK

    def __init__(self, hosts: Hosts, inventory: Sequence[str], interface: str = "eth0") -> None:
        """`interface`: what the port is called inside the containers."""
        super().__init__(hosts, inventory)
        self._interface = interface

    async def observe(self) -> Observation:
        """All hosts at once; one that does not answer spoils nothing but its own part.

        A mark does not tell gateway, routes and MTU, so they are left out (see `as_marked`).
        """
        maintained = {host: self._hosts.maintained.get(host) for host in self._inventory}
        asked = [host for host in self._inventory if maintained[host] is None]
        answers = await asyncio.gather(*map(self._hosts.marks, asked), return_exceptions=True)
        shown: dict[str, Spec] = {}
        faults: dict[str, str] = {}
        dead: set[str] = set()
        unseen = {host: f"in maintenance: {why}" for host, why in maintained.items() if why is not None}
        for host, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                if isinstance(answer, Fatal) or not isinstance(answer, MooringError):
                    raise answer
                unseen[host] = str(answer)
            elif answer.get("status") != "done":
                unseen[host] = str(answer.get("reason"))
            else:
                dead |= _take_ports(host, answer, shown, faults)
        places = frozenset(self._inventory) - unseen.keys()
        return Observation(shown, (), faults, places, unseen, frozenset(dead))

    async def _apply(self, change: Change) -> Outcome:
        host = self.lane(change)
        if change.wanted is not None and host in self._hosts.fenced:
            return NotPossible(
                f"host {host} is fenced ({self._hosts.fenced[host]}): nothing is attached there; "
                f"once it is sound again, `mooring hosts unfence {host}`"
            )
        if isinstance(change.wanted, PortSpec):
            await self._hosts.ahead.answered(host, _addresses(change.wanted))
        return await super()._apply(change)

    def _unanswered(self, change: Change, error: Retryable) -> Outcome:
        """A fence stands in for the answer of a silent host, and never against an answer."""
        if change.wanted is None and self.lane(change) in self._hosts.fenced:
            return Done(changed=False)
        return super()._unanswered(change, error)

    def _operations(self, change: Change) -> list[Operation]:
        if isinstance(change.wanted, PortSpec):
            operation = _attach(change.binding, change.wanted, self._interface)
            wanted = change.wanted
            known = self._hosts.ahead.was_silent(wanted.host, _addresses(wanted))
            self._hosts.ahead.forget(wanted.address)
            return [{**operation, "detect": not (known or _stands(wanted, change.certain))}]
        ports = [spec for spec in change.was if isinstance(spec, PortSpec)]
        # A port is found by instance and address, its container may be long gone.  The task is named as well:
        # the instance may live on this very host again, in another seat, and that port must stay.
        unique = {(spec.instance, spec.address, spec.task): spec for spec in ports}
        return [detach_of(spec, change.binding) for spec in unique.values()]

    def expect(self, task: str, host: str, addresses: Addresses, vlan: int | None) -> None:
        """A container of that task is about to start on the host, and will have these addresses."""
        if host in self._inventory and host not in self._hosts.fenced | self._hosts.maintained:
            self._hosts.ahead.expect(task, host, addresses, vlan)


class ProbeSink(_HostSink):
    """Does the container answer on its own ports? Asked from its host, inside its namespace."""

    name = PROBE

    def _operations(self, change: Change) -> list[Operation]:
        if not isinstance(change.wanted, ProbeSpec):
            return []
        wanted = change.wanted
        return [
            {
                "op": "probe",
                "id": change.binding,
                "task_id": wanted.task,
                "address": wanted.address,
                "ports": list(wanted.ports),
                "timeout_s": 1.0,
            }
        ]


class FilesSink(_HostSink):
    """Files inside running containers. A file that is no longer wanted stays; it is the container's own."""

    name = FILES

    def _operations(self, change: Change) -> list[Operation]:
        if not isinstance(change.wanted, FilesSpec):
            return []
        return [
            {
                "op": "write",
                "id": change.binding,
                "task_id": change.wanted.task,
                "path": file.path,
                "content": file.content,
                "digest": hashlib.sha256(file.content.encode()).hexdigest(),
                "mode": file.mode,
                "command": list(file.command) or None,
                "signal": file.signal,
            }
            for file in change.wanted.files
        ]


def port_marks(host: str, answer: Answer) -> list[PortSpec]:
    """The ports that a host reported under our mark.

    A mark does not tell gateway and routes, so an adopted port is written anew once its pool is known.
    """
    return [
        PortSpec(
            host=host,
            task=str(port["task"]),
            app=str(port["app"]),
            slot=int(port["slot"]),
            instance=str(port["instance"]),
            address=str(port["address"]),
            prefix=int(port["prefix"]),
            vlan=port.get("vlan") or None,
            lease_generation=int(port["generation"]),
            barred=tuple(map(str, port.get("barred", ()))),
            address6=port.get("address6") or None,
            prefix6=port.get("prefix6") or None,
            rate_out=port.get("rate_out"),
            rate_in=port.get("rate_in"),
        )
        for port in answer.get("ports", [])
    ]


def _addresses(spec: PortSpec) -> Addresses:
    return (spec.address,) if spec.address6 is None else (spec.address, spec.address6)


def port_key(spec: PortSpec) -> str:
    """The natural key of a port: by mistake an address may stand on several hosts, and each must be seen."""
    return f"{spec.address} on {spec.host}"


def as_marked(spec: PortSpec) -> PortSpec:
    """The part of a spec that a port's mark tells."""
    return structs.replace(spec, gateway=None, gateway6=None, routes=(), mtu=None, vlan=spec.vlan or None)


def _take_ports(host: str, answer: Answer, shown: dict[str, Spec], faults: dict[str, str]) -> set[str]:
    """Enter them, of two with one address one that lives; returns the keys behind which nothing lives."""
    dead: set[str] = set()
    told = list(zip(answer.get("ports", []), port_marks(host, answer), strict=True))
    for port, spec in sorted(told, key=lambda pair: not pair[0].get("alive", True)):
        key = port_key(spec)
        if shown.setdefault(key, spec) is not spec:
            faults[key] = f"a second port of this address, {port.get('port')}, is on the same host"
        elif not port.get("connected", port.get("device", True)):
            faults[key] = "the port leads to no container any more"
        elif not port.get("alive", True):  # its device may outlast it, where something holds its namespace
            faults[key] = "its container does not run any more"
        elif not port.get("guarded", True):
            faults[key] = "its guards are not in force"
        if shown[key] is spec and not port.get("alive", True):
            dead.add(key)
    return dead


def newest_epoch(answer: Answer) -> Epoch:
    """The highest epoch that a host has seen."""
    seen = [answer.get("bridge_epoch"), answer.get("files_epoch")]
    seen += [port.get("epoch") for port in answer.get("ports", [])]
    return Epoch(max(int(epoch or 0) for epoch in seen))


def _stands(wanted: PortSpec, certain: Spec | None) -> bool:
    """Whether the instance is known to have its addresses on that host, whatever else differs."""
    if not isinstance(certain, PortSpec):
        return False
    seat = (wanted.host, wanted.address, wanted.address6, wanted.instance)
    return (certain.host, certain.address, certain.address6, certain.instance) == seat


def detach_of(port: PortSpec, binding: BindingId) -> Operation:
    """The operation that removes a port, and spares any other that is alive."""
    return {
        "op": "detach",
        "id": binding,
        "instance": port.instance,
        "address": port.address,
        "task_id": port.task,
    }


def _attach(binding: BindingId, wanted: PortSpec, interface: str) -> Operation:
    return {
        "op": "attach",
        "id": binding,
        "task_id": wanted.task,
        "app": wanted.app,
        "slot": wanted.slot,
        "instance": wanted.instance,
        "address": wanted.address,
        "prefix": wanted.prefix,
        "gateway": wanted.gateway,
        "routes": [{"to": route.to, "via": route.via} for route in wanted.routes],
        "vlan": wanted.vlan,
        "mtu": wanted.mtu,
        "generation": wanted.lease_generation,
        "interface": interface,
        "barred": list(wanted.barred),
        "address6": wanted.address6,
        "prefix6": wanted.prefix6,
        "gateway6": wanted.gateway6,
        "rate_out": wanted.rate_out,
        "rate_in": wanted.rate_in,
    }


def _outcome(operation: Operation, answer: Answer, all_of_change: Sequence[Operation]) -> Outcome:
    status, reason = answer.get("status"), str(answer.get("reason") or "no reason given")
    if status == "retry":
        return RetryAfter(reason)
    if status == "conflict":
        told = (answer.get("answered_by", ()), answer.get("answered_on", ()))
        return Conflict(reason, str(operation.get("address")), *(tuple(map(str, one)) for one in told))
    if status != "done":
        return NotPossible(reason)
    for port in answer.get("spared", ()):
        # A detach spares what lives for somebody else. Then the address is not free, whatever we hold.
        if port.get("address") == operation.get("address") and not _goes_too(port, all_of_change):
            holder = port.get("instance")
            return NotPossible(f"{port['address']} is on a living port of {holder}; stop one of the two")
    return Done(bool(answer.get("changed")))


def _goes_too(port: Mapping[str, Any], operations: Sequence[Operation]) -> bool:
    """Whether a port that one detach spared, as another task's, is what another one of the change removes."""
    return any(
        (port.get("instance"), port.get("task")) == (operation.get("instance"), operation.get("task_id"))
        for operation in operations
    )


def _worst(outcomes: Sequence[Outcome]) -> Outcome:
    ranks = {Done: 0, RetryAfter: 1, NotPossible: 2, Conflict: 3}
    return max(outcomes, key=lambda outcome: (ranks[type(outcome)], outcome == Done(changed=True)))
