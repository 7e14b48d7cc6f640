"""The auditor: reads the store itself after every change of it, and judges the way of each lease.

It has a connection of its own and never asks the daemon.  A *disk* is what one store lies on; when it is
lost, what is known of it is void, and what can be said of the next one begins with its first reading.

What each change is held against:

    of the store     an epoch never falls, and nobody writes whom a newer one has overtaken
                     a lease's generation rises with every change; a seat has one address
    given back       no port that may answer has the address, none is on its way to a host that would take it
                     who lives is not let go of because a listing lacks too much to be believed
    taken            neither reserved nor in conflict; by another seat only after it has cooled
                     not for a task of which this daemon has been told that it ended
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from mooring.core.model import LeaseState
from tests.sim.world import World

IN_HAND = (LeaseState.BOUND.value, LeaseState.STRANDED.value)
_COLUMNS = "address, pool, state, app, slot, binding, host, generation, since, until"
BELATED_S = 4.0  # what was told longer ago than this has reached everybody in the daemon


class Row(NamedTuple):
    """A lease as it is stored."""

    address: str
    pool: str
    state: str
    app: str | None
    slot: int | None
    binding: str | None
    host: str | None
    generation: int
    since: float
    until: float | None

    @property
    def in_hand(self) -> bool:
        return self.state in IN_HAND

    @property
    def instance(self) -> str:
        return (self.binding or "").partition("~")[0]


def told(row: Row | None) -> str:
    """The lease in words."""
    return "free" if row is None else f"{row.state} for {row.binding or row.app}"


class Writer(Protocol):
    """A daemon, as far as the auditor knows it."""

    number: int
    epoch: int
    disk: Path

    def ended_for(self, task: str) -> float:
        """For how many seconds this daemon has known that the task ended; negative if it does not know."""


class Audit:
    """One reader of the present disk."""

    def __init__(self, world: World, cooling_s: float, is_whole: Callable[[], bool]) -> None:
        """`is_whole` tells whether the present disk is known to hold every lease."""
        self.is_whole = is_whole
        self.leases: Mapping[str, Row] = {}
        self.quarantined: set[str] = set()  # cooling, found in a rebuild: names of ours may still lead there
        self.disk: Path | None = None
        self._world = world
        self._cooling_s = cooling_s
        self._db: sqlite3.Connection | None = None
        self._version = -1
        self.epoch = 0
        self._read = False  # whether this disk has been read before
        self._seats: dict[str, tuple[str | None, int | None]] = {}  # address: who had it last

    def turn_to(self, disk: Path | None) -> None:
        """From now on that is the disk; None: there is none at the moment."""
        if self._db is not None:
            self._db.close()
        self._db, self.disk, self.leases = None, disk, {}
        self._version, self.epoch, self._read = -1, 0, False
        self._seats.clear()
        self.quarantined.clear()

    def records(self, sink: str, *texts: str) -> bool:
        """Whether the store says that the sink may show something that all these words are in."""
        if self._db is None:
            return True
        where = " AND ".join(
            "instr(coalesce(wanted, '') || coalesce(applied, '') || residue, ?)" for _ in texts
        )
        query = f"SELECT 1 FROM sink_states WHERE sink = ? AND {where}"
        return self._db.execute(query, (sink, *texts)).fetchone() is not None

    def wired(self) -> set[tuple[str, str]]:
        """Task and address of every port that shall stand."""
        if self._db is None:
            return set()
        query = "SELECT wanted FROM sink_states WHERE sink = 'network' AND wanted IS NOT NULL"
        ports = [json.loads(wanted) for (wanted,) in self._db.execute(query)]
        return {(port["task"], port["address"]) for port in ports}

    def seated(self) -> set[str]:
        """The tasks that have a record, and are not on their way out."""
        if self._db is None:
            return set()
        return {task for (task,) in self._db.execute("SELECT task FROM bindings WHERE departing = 0")}

    def generation(self, binding: str, sink: str) -> int:
        """How often what that sink shall show has changed, as the store knows; -1 if it knows of nothing."""
        if self._db is None:
            return 1 << 62
        query = "SELECT generation FROM sink_states WHERE binding = ? AND sink = ?"
        row = self._db.execute(query, (binding, sink)).fetchone()
        return -1 if row is None else int(row[0])

    def look(self, writer: Writer | None) -> bool:
        """A daemon has just used its store (None: is about to); whether anything is new there."""
        if (writer is not None and writer.disk != self.disk) or not self._open():
            return False
        assert self._db is not None
        version = self._db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._version:
            return False
        self._version = version
        self._judge_epoch(writer)
        before, rows = self.leases, self._db.execute(f"SELECT {_COLUMNS} FROM leases")
        self.leases = {row[0]: Row(*row) for row in rows}
        if self._read and self.leases != before:
            self._judge(before, writer)
        elif not self._read:
            self._read = True
            self._seats = {row.address: (row.app, row.slot) for row in self.leases.values() if row.in_hand}
        return True

    def _open(self) -> bool:
        if self._db is None and self.disk is not None and self.disk.exists():
            db = sqlite3.connect(f"file:{self.disk}?mode=ro", uri=True, isolation_level=None)
            if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'leases'").fetchone() is None:
                db.close()
            else:
                self._db = db
        return self._db is not None

    def _judge_epoch(self, writer: Writer | None) -> None:
        assert self._db is not None
        epoch = self._db.execute("SELECT value FROM epoch").fetchone()[0]
        if epoch < self.epoch:
            self._world.breach(f"the store went from epoch {self.epoch} back to {epoch}")
        if writer is not None and 0 < writer.epoch < epoch:
            self._world.breach(f"epoch {writer.epoch} wrote to the store after epoch {epoch}")
        self.epoch = epoch

    def _judge(self, before: Mapping[str, Row], writer: Writer | None) -> None:
        for address in sorted(before.keys() | self.leases.keys()):
            was, now = before.get(address), self.leases.get(address)
            if was == now:
                continue
            if now is not None and now.state == LeaseState.COOLING and (was is None or not self.is_whole()):
                self.quarantined.add(address)
            elif now is None or now.state != LeaseState.COOLING:
                self.quarantined.discard(address)
            self._world.trace(f"  store: {address} {told(was)} -> {told(now)}")
            if was is not None and now is not None and now.generation <= was.generation:
                self._world.breach(f"{address}: generation {now.generation} follows {was.generation}")
            if was is not None and was.in_hand and (now is None or not now.in_hand or _another(was, now)):
                self._given_back(was, now)
            if now is not None and now.in_hand and (was is None or not was.in_hand):
                self._taken(was, now, writer)
            if now is not None and now.in_hand:
                self._seats[address] = (now.app, now.slot)
        self._judge_seats()

    def _judge_seats(self) -> None:
        seats = [(row.app, row.slot) for row in self.leases.values() if row.slot is not None]
        for seat in sorted({seat for seat in seats if seats.count(seat) > 1}, key=str):
            self._world.breach(f"seat {seat} has several addresses")

    def _given_back(self, was: Row, now: Row | None) -> None:
        world, next_one = self._world, now.instance if now is not None and now.in_hand else None
        for host, port in world.agents.answering(was.address):
            if port.instance != next_one:
                world.breach(
                    f"{was.address} became {told(now)} while {port.task} on {host.name} has a port with it"
                )
        for flight in world.agents.in_the_air(was.address):
            world.breach(f"{was.address} became {told(now)} while a play of epoch {flight.order[0]} "
                         f"that attaches it is on its way to {flight.host}")  # fmt: skip
        lie = world.lie if was.binding == was.instance and not _in_conflict(now) else None
        if lie is not None and lie.protects(was.instance):
            world.breach(f"{was.address} was taken from {was.instance}, which lives, "
                         f"on the word of a listing that {lie.what}")  # fmt: skip

    def _taken(self, was: Row | None, now: Row, writer: Writer | None) -> None:
        world = self._world
        if any(port.instance == now.instance for port in world.agents.ports_of(now.address)):
            return  # found there, not given
        if was is not None and was.state in ("reserved", "conflicted"):
            world.breach(f"{now.address} was {was.state} and was given to {now.instance}")
        if now.address in world.kept:
            world.breach(f"{now.address} is set aside and was given to {now.instance}")
        last = self._seats.get(now.address)
        if last is not None and last != (now.app, now.slot):
            left = world.quiet_for(now.address)
            if left is not None and left < self._cooling_s:
                world.breach(f"{now.address} went from {last} to {(now.app, now.slot)} {left:.1f} s after "
                             "its last port went")  # fmt: skip
        assert self._db is not None
        task = self._db.execute("SELECT task FROM bindings WHERE id = ?", (now.binding,)).fetchone()
        if task is not None and writer is not None and writer.ended_for(task[0]) > BELATED_S:
            world.breach(f"{now.address} was given to {task[0]}, whose end this daemon had been told")


def _in_conflict(row: Row | None) -> bool:
    return row is not None and row.state == LeaseState.CONFLICTED


def _another(was: Row, now: Row) -> bool:
    return was.instance != now.instance
