"""What must survive: the protocol every store keeps.

The daemon holds all bindings and leases in memory and writes every change through.  A store therefore
needs few verbs: load everything once, take an epoch, and commit a list of writes as one transaction.

Invariants that a store itself must enforce, whatever the daemon believes:
  * one address has at most one lease, one (app, slot, pool) at most one lease;
  * a lease is replaced only by the next generation of itself (`PutLease.replaces`);
  * a transaction by an older epoch than the newest is refused (`Fenced`), whole;
  * a transaction is durable when `commit` returns, and otherwise leaves no trace.

Writes are structs that hold nothing that could refer back to them, so the garbage collector is spared the
walk; `dump` gives the whole store as the writes that would make it again, which is what a backup holds.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from mooring.core.model import (
    AppId,
    Binding,
    BindingId,
    Epoch,
    HostName,
    InstanceId,
    Lease,
    PoolName,
    PoolSpec,
)
from mooring.core.specs import ItemSpec

NO_EPOCH = Epoch(0)


class PutBinding(msgspec.Struct, frozen=True, gc=False):
    """Insert or replace a binding."""

    binding: Binding


class DropBinding(msgspec.Struct, frozen=True, gc=False):
    """Forget a binding; dropping an unknown one is no error."""

    id: BindingId


class PutLease(msgspec.Struct, frozen=True, gc=False):
    """Insert a lease (`replaces` None) or replace exactly that generation of it; else `LeaseConflict`."""

    lease: Lease
    replaces: int | None


class DropLease(msgspec.Struct, frozen=True, gc=False):
    """The address becomes free. `generation` must be the stored one; else `LeaseConflict`."""

    address: str
    generation: int


class Note(msgspec.Struct, frozen=True, gc=False):
    """A line of the append-only history: who had which address when, and why it changed."""

    at: float  # Unix seconds
    event: str  # "bound", "moved", "idle", "stranded", "cooling", "free", ...
    reason: str
    address: str | None = None
    app: AppId | None = None
    slot: int | None = None
    instance: InstanceId | None = None
    host: HostName | None = None
    pool: PoolName | None = None
    vlan: int | None = None
    generation: int | None = None  # of the lease, after the change
    epoch: int | None = None  # of the daemon that wrote it: None until the store puts its own there


class PutFlag(msgspec.Struct, frozen=True, gc=False):
    """A named setting that an operator changed at run time (a pause); None removes it."""

    name: str
    value: str | None


class PutPool(msgspec.Struct, frozen=True, gc=False):
    """Insert or replace a pool that was made at run time."""

    pool: PoolSpec


class DropPool(msgspec.Struct, frozen=True, gc=False):
    """Forget a pool that was made at run time; dropping an unknown one is no error."""

    name: PoolName


class PutItem(msgspec.Struct, frozen=True, gc=False):
    """A live configuration item of the local ledger."""

    item: ItemSpec
    at: float


class RetireItem(msgspec.Struct, frozen=True, gc=False):
    """The item with that key is no longer live; it stays in the ledger with its end time."""

    key: str
    at: float


Write = (
    PutBinding
    | DropBinding
    | PutLease
    | DropLease
    | Note
    | PutFlag
    | PutPool
    | DropPool
    | PutItem
    | RetireItem
)


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One item of the local ledger."""

    item: ItemSpec
    since: float
    retired_at: float | None


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything the daemon holds in memory while it runs. Sequences are in the order of their keys."""

    bindings: Sequence[Binding] = ()
    leases: Sequence[Lease] = ()
    flags: dict[str, str] = field(default_factory=dict)
    epoch: Epoch = NO_EPOCH
    fresh: bool = False  # nothing was ever stored: the hosts must be asked before anything is given out
    pools: Sequence[PoolSpec] = ()  # made at run time; those of the configuration are not stored
    created: bool = False  # there was no database, and it was made just now


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """Which notes: those of an address, of an app, or of both; all of them if neither is given."""

    address: str | None = None
    app: AppId | None = None
    until: float | None = None  # only notes of that time or before, Unix seconds
    limit: int = 100


class Store(Protocol):
    """Durable memory."""

    async def open(self) -> Contents:
        """Take the store for this daemon alone and read all of it; `Refused` if another daemon has it."""

    async def begin(self, epoch: Epoch) -> None:
        """From now on write as this epoch; `Fenced` if the store has seen the same or a higher one."""

    async def commit(self, writes: Sequence[Write]) -> None:
        """All of it, durably, or none of it. Raises `Fenced`, `LeaseConflict` or `StoreBusy`."""

    async def ledger(self, live_only: bool = True) -> Sequence[LedgerRow]:
        """Rows of the local ledger, by key."""

    async def history(self, query: HistoryQuery) -> Sequence[Note]:
        """The newest notes first, in the order they were committed in."""

    async def prune(self, before: float) -> int:
        """Forget notes from before that time and ledger rows retired before it; how many those were.

        Of each address the newest of the older notes stays: it says who had the address at `before`.
        Done in small steps, between which commits go on.
        """

    def dump(self) -> AsyncIterator[Sequence[Write]]:
        """The whole store at one moment, except its epoch, as the writes that make it again.

        Commits that are made meanwhile go on and are not part of it.
        """

    async def close(self) -> None:
        """Give the store back."""
