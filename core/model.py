"""The nouns.

Two families stand here.  What *Marathon says*: `App` and `Instance`, rebuilt from events and snapshots
and never stored.  What *we hold*: `Lease` (an address in somebody's hand) and `Binding` (the durable
record of one instance: its seat, and for every sink what it shall show and what it is known to show).

A `SinkState` is the whole of our durability.  `wanted` is stored before any effect, `applied` after the
effect was confirmed.  When `wanted` changes while an earlier one is unconfirmed, what is no longer certain
moves to `residue`: an earlier wish that may be out there, or, when the earlier wish was to show nothing, what
may be gone already.  A sink with residue is not settled: the next change makes it certain again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NewType

import msgspec

from mooring.core.specs import Route, Spec

AppId = NewType("AppId", str)  # "/shop/web"
InstanceId = NewType("InstanceId", str)  # "shop_web.instance-<uuid>"
TaskId = NewType("TaskId", str)  # "shop_web.instance-<uuid>._app.3"
BindingId = NewType(
    "BindingId", str
)  # an instance id, or "<instance id>~<n>" for what it left on a lost host
HostName = NewType("HostName", str)  # as Marathon names the agent
PoolName = NewType("PoolName", str)
SinkName = NewType("SinkName", str)
Epoch = NewType("Epoch", int)


class State(StrEnum):
    """Where an instance stands, folded from Marathon's task states and conditions."""

    STARTING = "starting"  # staged, provisioned or starting: no container to wire yet
    RUNNING = "running"
    KILLING = "killing"  # Marathon wants it gone; it may still serve
    UNREACHABLE = "unreachable"  # its agent is silent; Marathon still counts on it
    INACTIVE = "inactive"  # unreachable and replaced
    DEAD = "dead"  # this incarnation ended; Marathon still lists the instance, a relaunch may follow
    GONE = "gone"  # Marathon has forgotten the instance


class Health(StrEnum):
    """Marathon's verdict, as far as it has one."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class Port:
    """One port an app offers."""

    container: int | None  # what the process listens on, on its own address
    service: int | None  # the stable port that clients use at a balancer
    protocol: str = "tcp"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class App:
    """What Marathon says about an app, reduced to what we use."""

    id: AppId
    instances: int
    labels: Mapping[str, str]
    ports: tuple[Port, ...] = ()
    checked: bool = False  # whether Marathon or Mesos runs health checks for it
    minimum_health: float = 1.0  # upgradeStrategy.minimumHealthCapacity
    over_capacity: float = 1.0  # upgradeStrategy.maximumOverCapacity
    own_network: bool = True  # False in host mode: the process shares its agent's address
    version: str = ""


class Instance(msgspec.Struct, frozen=True, gc=False):
    """What Marathon says about one instance right now.

    There may be a hundred thousand of them, alive as long as the daemon; none holds anything that could
    refer back to it, so the garbage collector is spared the walk.  (`msgspec.structs.replace` copies one.)
    """

    id: InstanceId
    incarnation: int
    task: TaskId
    app: AppId
    host: HostName | None
    state: State
    health: Health = Health.UNKNOWN
    host_ports: tuple[int, ...] = ()
    version: str = ""


class LeaseState(StrEnum):
    """Whose hand an address is in. `free` addresses have no lease at all."""

    RESERVED = "reserved"  # set aside by the configuration or an operator
    BOUND = "bound"  # an instance has it
    IDLE = "idle"  # kept for its slot, nobody in it
    STRANDED = "stranded"  # its host cannot confirm that the port is gone
    COOLING = "cooling"  # in quarantine until `until`
    CONFLICTED = "conflicted"  # a stranger answers on it


class Lease(msgspec.Struct, frozen=True, gc=False):
    """An address that is not free, and in whose hand it is.

    Like `Instance` there may be a hundred thousand of them, so the garbage collector is spared the walk.
    `msgspec.structs` has `replace` and `astuple` for it.
    """

    address: str  # in canonical text: lower case, shortest form
    pool: PoolName
    state: LeaseState
    app: AppId | None
    slot: int | None
    binding: BindingId | None
    host: HostName | None
    generation: int  # rises with every change of hand; stores compare it
    since: float  # Unix seconds of the last change of state
    until: float | None = None  # end of cooling or of the idle time, Unix seconds
    note: str | None = None  # why it is reserved, or who answered on it

    def moved(self, state: LeaseState, now: float, **changes: object) -> Lease:
        """This lease in another state: one generation later, `since` now."""
        return msgspec.structs.replace(
            self, state=state, since=now, generation=self.generation + 1, **changes
        )


class PoolSpec(msgspec.Struct, frozen=True):
    """A pool in plain values, as it is stored and sent; `ipam.pools` checks it and gives it meaning."""

    name: PoolName
    network: str  # in CIDR form
    gateway: str | None = None
    vlan: int | None = None
    mtu: int | None = None
    routes: tuple[Route, ...] = ()
    exclude: tuple[str, ...] = ()  # addresses, and ranges such as "10.0.0.2-10.0.0.9"
    reservations: dict[str, str] = {}  # address: reason
    groups: tuple[str, ...] = ()  # app id prefixes that may use it; empty: all
    supernet: str | None = None  # the one it was generated from
    ipv6: str | None = None  # the IPv6 network, in CIDR form, that one of IPv4 is paired with
    gateway6: str | None = None
    gateway_host: HostName | None = None  # which host we make its gateway; None: the gateway is not ours
    gateway_nat: bool = False  # whether that host masquerades what leaves the pool


@dataclass(frozen=True, slots=True)
class SinkState:
    """What one sink shall show for one binding, and what it is known to show."""

    wanted: Spec | None = None
    applied: Spec | None = None
    residue: tuple[Spec, ...] = ()
    generation: int = 0  # rises whenever `wanted` changes

    @property
    def settled(self) -> bool:
        return self.wanted == self.applied and not self.residue

    def want(self, spec: Spec | None) -> SinkState:
        """The state with a new `wanted`; an unconfirmed earlier one becomes residue."""
        if spec == self.wanted:
            return self
        applied, left = self.applied, self.residue
        if self.wanted is None and applied is not None:
            # Its removal was wanted and may have happened: it is no longer known to stand there.
            left = (applied, *left)
            applied = None
        elif self.wanted is not None and self.wanted != applied and self.wanted not in left:
            left = (*left, self.wanted)
        return SinkState(spec, applied, left, self.generation + 1)

    def confirmed(self, generation: int, spec: Spec | None) -> SinkState:
        """The state after an effect that showed `spec` was read back.

        An outcome of an older generation proves nothing about what stands there now.
        """
        if generation != self.generation:
            return self
        return SinkState(self.wanted, spec, (), self.generation)

    def doubted(self) -> SinkState:
        """The state when what was applied was found missing or changed: the next change makes it certain.

        It stays known as applied, so that nobody takes the instance for one that never was there.  The
        generation rises, because a receiver that has seen the old one would take the repair for a repetition.
        """
        if self.applied is None or not self.settled:
            return self
        return SinkState(self.wanted, self.applied, (self.applied,), self.generation + 1)

    @property
    def shown(self) -> tuple[Spec, ...]:
        """Everything that may stand in the sink now."""
        applied = () if self.applied is None else (self.applied,)
        return tuple(dict.fromkeys((*applied, *self.residue)))

    def without(self, undone: tuple[Spec, ...]) -> SinkState:
        """The state after some of what stood there was undone, before `wanted` is shown."""
        applied = None if self.applied in undone else self.applied
        left = tuple(spec for spec in self.residue if spec not in undone)
        return SinkState(self.wanted, applied, left, self.generation)


@dataclass(frozen=True, slots=True)
class Binding:
    """The durable record for one instance."""

    id: BindingId
    app: AppId
    instance: InstanceId
    incarnation: int
    task: TaskId
    host: HostName
    slot: int | None = None  # None: an app without a pool
    address: str | None = None
    pool: PoolName | None = None
    departing: bool = False  # on its way out: every sink shall show nothing, then the lease is given back
    sinks: Mapping[SinkName, SinkState] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        return all(state.settled for state in self.sinks.values())

    def sink(self, name: SinkName) -> SinkState:
        return self.sinks.get(name, SinkState())

    def with_sink(self, name: SinkName, state: SinkState) -> Binding:
        return replace(self, sinks={**self.sinks, name: state})
