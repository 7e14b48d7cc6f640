"""The store's twin in memory: the same promises except durability beyond the process.

For `mooring run --observe`, which must write nothing, and for tests.  It keeps the contract that the
SQLite store keeps, checked by the same suite: writes are applied in order with the same conflicts, and
a refused list is undone step by step from a log of what each step replaced.

Closing and opening again finds what was committed, as a file would.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, assert_never

from mooring.controller.store.writes import ledger_writes, stamped
from mooring.core.errors import Fenced, LeaseConflict, Refused
from mooring.core.model import AppId, Binding, BindingId, Epoch, Lease, PoolName, PoolSpec
from mooring.core.store import (
    NO_EPOCH,
    Contents,
    DropBinding,
    DropLease,
    DropPool,
    HistoryQuery,
    LedgerRow,
    Note,
    PutBinding,
    PutFlag,
    PutItem,
    PutLease,
    PutPool,
    RetireItem,
    Write,
)

T = TypeVar("T")
_Seat = tuple[AppId, int, PoolName]


@dataclass(slots=True)
class Tables:
    """What a file would hold."""

    bindings: dict[BindingId, Binding] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    seats: dict[_Seat, str] = field(default_factory=dict)  # which address a seat has
    flags: dict[str, str] = field(default_factory=dict)
    pools: dict[PoolName, PoolSpec] = field(default_factory=dict)
    ledger: dict[str, LedgerRow] = field(default_factory=dict)
    history: list[Note] = field(default_factory=list)
    epoch: Epoch = NO_EPOCH
    fresh: bool = True
    created: bool = True  # until it was opened once


class MemoryStore:
    """`core.store.Store` in dictionaries."""

    def __init__(self, contents: Contents | None = None) -> None:
        """Begin with `contents`, for instance those of a file that must not be written to."""
        given = contents or Contents(fresh=True, created=True)
        self.tables = Tables(
            bindings={binding.id: binding for binding in given.bindings},
            leases={lease.address: lease for lease in given.leases},
            seats={seat: lease.address for lease in given.leases if (seat := _seat(lease)) is not None},
            flags=dict(given.flags),
            pools={pool.name: pool for pool in given.pools},
            epoch=given.epoch,
            fresh=given.fresh,
            created=given.created,
        )
        self._epoch = NO_EPOCH
        self._read_at = NO_EPOCH  # the epoch that the contents are of
        self._open = False

    async def open(self) -> Contents:
        """Everything that was committed so far; `Refused` while it is open already."""
        if self._open:
            raise Refused("the store in memory is in use already: close it first")
        self._open = True
        created, self.tables.created = self.tables.created, False
        tables = self.tables
        self._read_at = tables.epoch
        return Contents(
            _by_key(tables.bindings),
            _by_key(tables.leases),
            dict(sorted(tables.flags.items())),
            tables.epoch,
            tables.fresh,
            _by_key(tables.pools),
            created,
        )

    async def begin(self, epoch: Epoch) -> None:
        """From now on write as this epoch; `Fenced` if the store has seen the same or a higher one."""
        self._check_open()
        if epoch <= self.tables.epoch:
            raise Fenced(f"the store has seen epoch {self.tables.epoch}: {epoch} is too old to begin with")
        if self.tables.epoch != self._read_at:
            raise Fenced("the store was written after this daemon had read it: start again")
        self.tables.epoch = self._epoch = self._read_at = epoch

    async def commit(self, writes: Sequence[Write]) -> None:
        """All of it or none of it. Raises `Fenced` or `LeaseConflict`."""
        self._check_epoch()
        transaction = _Transaction(self.tables, self._epoch)
        try:
            for write in writes:
                transaction.carry_out(write)
        except BaseException:
            transaction.undo()
            raise

    async def ledger(self, live_only: bool = True) -> Sequence[LedgerRow]:
        """Rows of the local ledger, by key."""
        self._check_open()
        rows = (self.tables.ledger[key] for key in sorted(self.tables.ledger))
        return [row for row in rows if row.retired_at is None or not live_only]

    async def history(self, query: HistoryQuery) -> Sequence[Note]:
        """The newest notes first, in the order they were committed in."""
        self._check_open()
        found = (note for note in reversed(self.tables.history) if _is_asked_for(note, query))
        return list(itertools.islice(found, query.limit))

    async def prune(self, before: float) -> int:
        """Forget notes from before that time and ledger rows retired before it; how many those were."""
        self._check_epoch()
        tables = self.tables
        kept: list[Note] = []
        outdated: dict[str | None, bool] = {None: True}  # whether the next note of an address is old, too
        for note in reversed(tables.history):
            old = note.at < before
            if not (old and outdated.get(note.address, False)):
                kept.append(note)
            if note.address is not None:
                outdated[note.address] = old
        ended = [row.item.key for row in tables.ledger.values() if _ended_before(row, before)]
        gone = len(tables.history) - len(kept) + len(ended)
        tables.history = kept[::-1]
        for key in ended:
            del tables.ledger[key]
        return gone

    async def dump(self) -> AsyncIterator[Sequence[Write]]:
        """The whole store at this moment, except its epoch, as the writes that make it again."""
        self._check_open()
        tables = self.tables
        writes: list[Write] = [PutFlag(name, value) for name, value in sorted(tables.flags.items())]
        writes += [PutPool(pool) for pool in _by_key(tables.pools)]
        writes += [PutBinding(binding) for binding in _by_key(tables.bindings)]
        writes += [PutLease(lease, None) for lease in _by_key(tables.leases)]
        for row in _by_key(tables.ledger):
            writes += ledger_writes(row)
        yield [*writes, *tables.history]

    async def close(self) -> None:
        """Give the store back. Closing twice is harmless."""
        self._open = False
        self._epoch = NO_EPOCH

    def _check_open(self) -> None:
        if not self._open:
            raise Refused("the store in memory is not open")

    def _check_epoch(self) -> None:
        self._check_open()
        if self._epoch == NO_EPOCH or self.tables.epoch != self._epoch:
            raise Fenced(f"the store is at epoch {self.tables.epoch}, this daemon writes as {self._epoch}")


class _Transaction:
    """Applies writes and remembers how to take each one back."""

    def __init__(self, tables: Tables, epoch: Epoch) -> None:
        self._tables = tables
        self._epoch = epoch
        self._undo: list[Callable[[], object]] = []

    def undo(self) -> None:
        for step in reversed(self._undo):
            step()

    def carry_out(self, write: Write) -> None:
        tables = self._tables
        match write:
            case PutBinding(binding):
                self._put(tables.bindings, binding.id, binding)
                self._no_longer_fresh()
            case DropBinding(binding_id):
                self._pop(tables.bindings, binding_id)
            case PutLease(lease, replaces):
                self._put_lease(lease, replaces)
                self._no_longer_fresh()
            case DropLease(address, generation):
                self._free(self._expect(address, generation))
            case Note():
                tables.history.append(stamped(write, self._epoch))
                self._undo.append(tables.history.pop)
                self._no_longer_fresh()
            case PutFlag(name, None):
                self._pop(tables.flags, name)
            case PutFlag(name, value):
                self._put(tables.flags, name, value)
            case PutPool(pool):
                self._put(tables.pools, pool.name, pool)
            case DropPool(name):
                self._pop(tables.pools, name)
            case PutItem(item, at):
                row = tables.ledger.get(item.key)
                since = row.since if row is not None and row.retired_at is None else at
                self._put(tables.ledger, item.key, LedgerRow(item, since, None))
            case RetireItem(key, at):
                row = tables.ledger.get(key)
                if row is not None and row.retired_at is None:
                    self._put(tables.ledger, key, LedgerRow(row.item, row.since, at))
            case _:
                assert_never(write)

    def _put_lease(self, lease: Lease, replaces: int | None) -> None:
        if replaces is None and lease.address in self._tables.leases:
            raise LeaseConflict(f"{lease.address} for {lease.app} slot {lease.slot}: it has a lease already")
        if replaces is not None:
            if lease.generation <= replaces:
                raise LeaseConflict(f"{lease.address}: generation {lease.generation} is not after {replaces}")
            self._free(self._expect(lease.address, replaces))
        seat = _seat(lease)
        if seat is not None:
            if seat in self._tables.seats:
                other = self._tables.seats[seat]
                raise LeaseConflict(f"{lease.address}: slot {lease.slot} of {lease.app} has {other} already")
            self._put(self._tables.seats, seat, lease.address)
        self._put(self._tables.leases, lease.address, lease)

    def _expect(self, address: str, generation: int) -> Lease:
        lease = self._tables.leases.get(address)
        if lease is None or lease.generation != generation:
            found = "no lease" if lease is None else f"generation {lease.generation}"
            raise LeaseConflict(f"{address}: expected generation {generation}, the store has {found}")
        return lease

    def _free(self, lease: Lease) -> None:
        self._pop(self._tables.leases, lease.address)
        seat = _seat(lease)
        if seat is not None:
            self._pop(self._tables.seats, seat)

    def _no_longer_fresh(self) -> None:
        before = self._tables.fresh
        self._tables.fresh = False
        self._undo.append(lambda: setattr(self._tables, "fresh", before))

    def _put(self, table: dict[Any, Any], key: object, value: object) -> None:
        self._remember(table, key)
        table[key] = value

    def _pop(self, table: dict[Any, Any], key: object) -> None:
        self._remember(table, key)
        table.pop(key, None)

    def _remember(self, table: dict[Any, Any], key: object) -> None:
        if key in table:
            before = table[key]
            self._undo.append(lambda: table.__setitem__(key, before))
        else:
            self._undo.append(lambda: table.pop(key, None))


def _seat(lease: Lease) -> _Seat | None:
    """The seat that the lease occupies; without an app or a slot there is none."""
    if lease.app is None or lease.slot is None:
        return None
    return (lease.app, lease.slot, lease.pool)


def _by_key(table: Mapping[Any, T]) -> list[T]:
    return [table[key] for key in sorted(table)]


def _is_asked_for(note: Note, query: HistoryQuery) -> bool:
    return (
        query.address in (None, note.address)
        and query.app in (None, note.app)
        and (query.until is None or note.at <= query.until)
    )


def _ended_before(row: LedgerRow, time: float) -> bool:
    return row.retired_at is not None and row.retired_at < time
