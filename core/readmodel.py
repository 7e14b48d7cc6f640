"""What the daemon shows of itself: the one picture behind metrics, readiness and every command.

The daemon implements `ReadModel` over its own memory; the portal and the control socket only read it.
Rows are plain values that `msgspec.to_builtins` turns into JSON and `msgspec.convert` back into rows, so
a command sees the same types at the other end of the socket.

A row says what a person wants to know about an instance (`phase`, `problem`), not how we store it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from mooring.core.model import Lease

EVERYTHING = "*"  # stands in `Overview.paused` for a pause of all apps; no app id looks like it


class Phase(StrEnum):
    """How far an instance is, in an operator's words."""

    WAITING = "waiting"  # no container to wire yet, or no seat yet
    WIRING = "wiring"  # on the way in
    SERVING = "serving"  # in step, and takes traffic where it is balanced
    STANDBY = "standby"  # in step, and takes no traffic: not healthy, being killed, agent silent
    LEAVING = "leaving"  # on the way out
    LEFT_BEHIND = "left behind"  # its host cannot confirm that the port is gone
    REFUSED = "refused"  # its app's labels are unacceptable and never were acceptable


@dataclass(frozen=True, slots=True)
class SinkRow:
    """One sink for one instance. The texts are short forms of the specs; None: nothing."""

    wanted: str | None
    applied: str | None
    settled: bool


@dataclass(frozen=True, slots=True)
class InstanceRow:
    """One instance, what Marathon says about it and how far each sink is."""

    app: str
    slot: int | None
    instance: str
    incarnation: int
    task: str
    host: str | None
    address: str | None
    pool: str | None
    state: str  # Marathon's, as `core.model.State`
    health: str
    lease: str | None  # state of its lease, if it has one
    phase: Phase
    sinks: Mapping[str, SinkRow] = field(default_factory=dict)
    problem: str = ""

    @property
    def in_step(self) -> bool:
        """Nothing is left to be done for it."""
        here = self.phase in (Phase.SERVING, Phase.STANDBY)
        return here and all(sink.settled for sink in self.sinks.values())


@dataclass(frozen=True, slots=True)
class PoolRow:
    """How full a pool is."""

    name: str
    network: str
    vlan: int | None
    gateway: str | None
    size: int  # assignable addresses
    free: int  # those that can be given out at once
    leases: Mapping[str, int] = field(default_factory=dict)  # count by lease state
    waiting: int = 0  # instances in line for an address
    exhausted_in_s: float | None = None  # seconds, if it goes on like the last hour; None: not in sight
    set_aside: int = 0  # addresses that the pool itself reserves
    groups: tuple[str, ...] = ()  # app id prefixes that may use it; empty: all
    configured: bool = True  # it stands in the configuration; else it was made at run time
    supernet: str | None = None  # the one it was generated from
    ipv6: str | None = None  # the network that it is paired with
    gateway6: str | None = None


@dataclass(frozen=True, slots=True)
class Overview:
    """The daemon itself."""

    version: str
    epoch: int
    owner: str
    observe: bool  # it only says what it would do
    paused: tuple[str, ...]  # app ids, or `EVERYTHING`
    brake: str | None  # why absent instances are being held; None: the brake is off
    stream: str  # state of the event stream, in words
    snapshot_age_s: float | None  # None: no snapshot has been merged yet
    held: int = 0  # instances and apps that the brake holds
    maintained: Mapping[str, str] = field(default_factory=dict)  # hosts that are left alone -> why


@dataclass(frozen=True, slots=True)
class Vitals:
    """Numbers that only the metrics show, read at the moment of a scrape."""

    workers: int  # most instances that are worked on at a time
    queue_depth: int
    running_s: tuple[float, ...]  # how long each worker has been on its present instance
    attached: bool  # to the event stream
    last_event_at: float | None  # Unix seconds
    events: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # result -> type -> count
    skipped: Mapping[str, int] = field(default_factory=dict)  # unreadable pieces of the stream, by reason
    unsettled: Mapping[str, int] = field(default_factory=dict)  # sink -> bindings not in step there
    adds: int = 0  # keys put into the queue since the start
    retries: int = 0  # keys put back to be tried again
    reconnects: int = 0  # times the event stream was lost
    behind: int = 0  # events read from the stream and not merged yet
    max_behind: int = 0  # the most there were at any time
    held: int = 0  # instances that the brake keeps
    unready: Mapping[str, bool] = field(default_factory=dict)  # part of the daemon -> it is in the way
    rebuild_needed: bool = False  # an operator is waited for
    hosts: Mapping[str, int] = field(default_factory=dict)  # "answering", "silent", "fenced", "maintenance"


@dataclass(frozen=True, slots=True)
class Status:
    """What `mooring status` shows."""

    overview: Overview
    readiness: Sequence[str]  # why the daemon is not ready; empty: it is
    instances: Sequence[InstanceRow]
    refusals: Mapping[str, str]

    @property
    def settled(self) -> bool:
        """Waiting would gain nothing: ready, and every instance in step. Refusals wait for a person."""
        return not self.readiness and all(row.in_step or row.phase is Phase.REFUSED for row in self.instances)

    @property
    def in_step(self) -> bool:
        """Everything that Marathon runs is shown everywhere as asked."""
        return self.settled and not self.refusals and all(row.in_step for row in self.instances)

    def below(self, prefix: str) -> Status:
        """The part about the app with that id and the apps in its subtree."""
        return Status(
            self.overview,
            self.readiness,
            [row for row in self.instances if _below(row.app, prefix)],
            {app: reason for app, reason in self.refusals.items() if _below(app, prefix)},
        )


def _below(app: str, prefix: str) -> bool:
    group = "/" + prefix.strip("/")
    return group == "/" or app == group or app.startswith(group + "/")


class ReadModel(Protocol):
    """What the daemon answers when it is asked. All of it is answered from memory."""

    def instances(self) -> Sequence[InstanceRow]:
        """One row for each instance and for each part left behind on a lost host, by app and slot."""

    def refusals(self) -> Mapping[str, str]:
        """One message for each app whose labels were refused, by app id."""

    def leases(self) -> Sequence[Lease]:
        """Every address that is not free."""

    def pools(self) -> Sequence[PoolRow]:
        """Every pool in force, those made at run time among them."""

    def readiness(self) -> Sequence[str]:
        """Why the daemon is not ready, one reason each; empty when it is."""

    def overview(self) -> Overview:
        """The daemon itself."""

    def vitals(self) -> Vitals:
        """Numbers for the metrics; cheap enough for every scrape."""
