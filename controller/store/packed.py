"""Between the nouns and what Redis keeps: each write as a small list for the script, each value back again.

Values are JSON, so that a person with `redis-cli` can read them and a release can add a field.  Where the
script has to compare something, that stands before the JSON, on a line of its own:

    leases  address -> "<generation> <seat>\\n<lease>"     the seat is empty if the lease has none
    items   key     -> "<since> <retired>\\n<item>"        retired is empty while the item lives
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar, assert_never

import msgspec

from mooring.controller.store.writes import stamped
from mooring.core.errors import LeaseConflict
from mooring.core.model import Binding, Epoch, Lease, PoolSpec
from mooring.core.specs import ItemSpec
from mooring.core.store import (
    Contents,
    DropBinding,
    DropLease,
    DropPool,
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
Op = tuple[str, ...]
_encode = msgspec.json.Encoder().encode
_note: msgspec.json.Decoder[Note] = msgspec.json.Decoder(Note)
_packed_list: msgspec.msgpack.Decoder[list[str]] = msgspec.msgpack.Decoder(list[str])


class Loaded(msgspec.Struct, array_like=True, frozen=True):
    """What the script `load` answers."""

    epoch: str
    group: str
    last_note: str
    notes: str  # how many there are
    bindings: list[str]
    leases: list[str]
    flags: list[str]  # name, value, name, value, ...
    pools: list[str]
    items: list[str]


def commit(writes: Sequence[Write], epoch: Epoch) -> bytes:
    """One commit for the script.

    `LeaseConflict` for what no state of the store could accept; `TypeError`, `ValueError` or
    `msgspec.MsgspecError` for what cannot be written down at all.
    """
    return msgspec.msgpack.encode([_op(write, epoch) for write in writes])


def group(commits: Sequence[bytes]) -> bytes:
    """Commits as one document."""
    return msgspec.msgpack.encode([msgspec.Raw(commit) for commit in commits])


def _op(write: Write, epoch: Epoch) -> Op:
    match write:
        case PutLease(lease, replaces):
            return _lease(lease, replaces)
        case Note():
            return ("note", write.address or "", write.app or "", _json(stamped(write, epoch)))
        case DropLease(address, generation):
            return ("free", address, str(generation))
        case PutBinding(binding):
            return ("bind", binding.id, _json(binding))
        case DropBinding(binding_id):
            return ("unbind", binding_id)
        case PutFlag(name, None):
            return ("unflag", name)
        case PutFlag(name, value):
            return ("flag", name, _text(value))
        case PutPool(pool):
            return ("pool", pool.name, _json(pool))
        case DropPool(pool_name):
            return ("unpool", pool_name)
        case PutItem(item, at):
            return ("item", item.key, repr(at), _json(item))
        case RetireItem(key, at):
            return ("retire", key, repr(at))
        case _:
            assert_never(write)


def _lease(lease: Lease, replaces: int | None) -> Op:
    if replaces is not None and lease.generation <= replaces:
        raise LeaseConflict(f"{lease.address}: generation {lease.generation} does not follow {replaces}")
    seated = lease.app is not None and lease.slot is not None
    seat = _json((lease.app, lease.slot, lease.pool)) if seated else ""
    expected = "" if replaces is None else str(replaces)
    return ("lease", lease.address, expected, str(lease.generation), seat, _json(lease))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _json(value: object) -> str:
    return _encode(value).decode()


def unpack_texts(packed: bytes) -> list[str]:
    """A list of texts that a script packed."""
    return _packed_list.decode(packed)


def unpack_loaded(packed: bytes) -> Loaded:
    """The answer of `load`."""
    return msgspec.msgpack.decode(packed, type=Loaded)


def contents(loaded: Loaded, *, created: bool) -> Contents:
    """What the daemon gets to see; raises `msgspec.DecodeError` or `ValueError` for a value without sense."""
    bindings = _all(loaded.bindings, list[Binding])
    leases = _all((value.partition("\n")[2] for value in loaded.leases), list[Lease])
    fresh = not (bindings or leases or loaded.notes != "0")
    return Contents(
        sorted(bindings, key=lambda binding: binding.id),
        sorted(leases, key=lambda lease: lease.address),
        dict(sorted(zip(loaded.flags[::2], loaded.flags[1::2], strict=True))),
        Epoch(int(loaded.epoch)),
        fresh,
        sorted(_all(loaded.pools, list[PoolSpec]), key=lambda pool: pool.name),
        created,
    )


def _all(values: Iterable[str], kind: type[list[T]]) -> list[T]:
    """Decoded as one document: much cheaper than one by one."""
    return msgspec.json.decode(f"[{','.join(values)}]", type=kind)


def ledger(loaded: Loaded) -> list[LedgerRow]:
    """All rows by key."""
    return sorted((ledger_row(value) for value in loaded.items), key=lambda row: row.item.key)


def ledger_row(value: str) -> LedgerRow:
    """One row of the ledger."""
    times, _, item = value.partition("\n")
    since, _, retired = times.partition(" ")
    return LedgerRow(
        msgspec.json.decode(item, type=ItemSpec), float(since), float(retired) if retired else None
    )


def note(value: str | bytes) -> Note:
    """One note."""
    return _note.decode(value)
