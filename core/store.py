"""What must survive: the protocol every store keeps.

The daemon holds all bindings and leases in memory and writes every change through.  A store therefore
needs few verbs: load everything once, take an epoch, and commit a list of writes as one transaction.

Invariants that a store itself must enforce, whatever the daemon believes:
  * one address has at most one lease, one (app, slot, pool) at most one lease;
  * a lease is replaced only by the next generation of itself (`PutLease.replaces`);
  * a transaction by an older epoch than the newest is refused (`Fenced`), whole;
  * a transaction is durable when `commit` returns, and otherwise leaves no trace.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mooring.core.model import AppId, Binding, BindingId, Epoch, HostName, InstanceId, Lease
from mooring.core.specs import ItemSpec

NO_EPOCH = Epoch(0)


@dataclass(frozen=True, slots=True)
class PutBinding:
    """Insert or replace a binding."""

    binding: Binding


@dataclass(frozen=True, slots=True)
class DropBinding:
    """Forget a binding; dropping an unknown one is no error."""

    id: BindingId


@dataclass(frozen=True, slots=True)
class PutLease:
    """Insert a lease (`replaces` None) or replace exactly that generation of it; else `LeaseConflict`."""

    lease: Lease
    replaces: int | None


@dataclass(frozen=True, slots=True)
class DropLease:
    """The address becomes free. `generation` must be the stored one; else `LeaseConflict`."""

    address: str
    generation: int


@dataclass(frozen=True, slots=True)
class Note:
    """A line of the append-only history: who had which address when, and why it changed."""

    at: float  # Unix seconds
    event: str  # "bound", "moved", "idle", "stranded", "cooling", "free", ...
    reason: str
    address: str | None = None
    app: AppId | None = None
    slot: int | None = None
    instance: InstanceId | None = None
    host: HostName | None = None


@dataclass(frozen=True, slots=True)
class PutFlag:
    """A named setting that an operator changed at run time (a pause); None removes it."""

    name: str
    value: str | None


@dataclass(frozen=True, slots=True)
class PutItem:
    """A live configuration item of the local ledger."""

    item: ItemSpec
    at: float


@dataclass(frozen=True, slots=True)
class RetireItem:
    """The item with that key is no longer live; it stays in the ledger with its end time."""

    key: str
    at: float


Write = PutBinding | DropBinding | PutLease | DropLease | Note | PutFlag | PutItem | RetireItem


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """One item of the local ledger."""

    item: ItemSpec
    since: float
    retired_at: float | None


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything the daemon holds in memory while it runs."""

    bindings: Sequence[Binding] = ()
    leases: Sequence[Lease] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    epoch: Epoch = NO_EPOCH
    fresh: bool = False  # nothing was ever stored: the hosts must be asked before anything is given out


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

    async def history(self, address: str | None = None, limit: int = 100) -> Sequence[Note]:
        """The newest notes first, of one address or of all."""

    async def close(self) -> None:
        """Give the store back."""
