"""Between the nouns and their rows: how each kind of write becomes SQL, and how rows become nouns again.

Everything here runs inside a transaction that `sqlite.py` holds.  The invariants are left to the
constraints; a constraint that says no is reported as what it means (`LeaseConflict`).
"""

# ruff: noqa: S608 - statements are put together from our own lists of columns and conditions only

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from typing import assert_never

import msgspec

from mooring.controller.store.writes import chunks, ledger_writes, stamped
from mooring.core.errors import LeaseConflict, Refused
from mooring.core.model import Binding, BindingId, Epoch, Lease, LeaseState, PoolSpec, SinkName, SinkState
from mooring.core.specs import ItemSpec, Spec, decode_spec, encode_spec
from mooring.core.store import (
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

_STATES = {state.value: state for state in LeaseState}
_PUT_BINDING = """
INSERT INTO bindings (id, app, instance, incarnation, task, host, slot, address, pool, departing)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET
    app = excluded.app, instance = excluded.instance, incarnation = excluded.incarnation,
    task = excluded.task, host = excluded.host, slot = excluded.slot, address = excluded.address,
    pool = excluded.pool, departing = excluded.departing
"""
_PUT_SINK = """
INSERT INTO sink_states (binding, sink, wanted, applied, residue, generation) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (binding, sink) DO UPDATE SET
    wanted = excluded.wanted, applied = excluded.applied,
    residue = excluded.residue, generation = excluded.generation
WHERE (wanted, applied, residue, generation)
    IS NOT (excluded.wanted, excluded.applied, excluded.residue, excluded.generation)
"""
_DROP_OTHER_SINKS = """
DELETE FROM sink_states WHERE binding = ? AND sink NOT IN (SELECT value FROM json_each(?))
"""
_LEASE = "address, pool, state, app, slot, binding, host, generation, since, until, note"
_NOTE = "at, event, reason, address, app, slot, instance, host, pool, vlan, generation, epoch"
_INSERT_LEASE = f"INSERT INTO leases ({_LEASE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_REPLACE_LEASE = f"""
UPDATE leases SET ({_LEASE}) = (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) WHERE address = ? AND generation = ?
"""
_LEASES = f"SELECT {_LEASE} FROM leases ORDER BY address"
_BINDINGS = """
SELECT id, app, instance, incarnation, task, host, slot, address, pool, departing FROM bindings ORDER BY id
"""
_SINKS = """
SELECT binding, sink, wanted, applied, residue, generation FROM sink_states ORDER BY binding, rowid
"""
_INSERT_NOTE = f"INSERT INTO history ({_NOTE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NOTES = f"SELECT {_NOTE} FROM history ORDER BY id"
_NEXT_NOTES = "SELECT max(id), min(at) FROM (SELECT id, at FROM history WHERE id > ? ORDER BY id LIMIT ?)"
_PRUNE_NOTES = """
DELETE FROM history WHERE id IN (
    SELECT old.id FROM history AS old
    WHERE old.id > :after AND old.id <= :last AND old.at < :before AND (old.address IS NULL OR :before > (
        SELECT next.at FROM history AS next
        WHERE next.address = old.address AND next.id > old.id ORDER BY next.id LIMIT 1)))
"""
_PRUNE_LEDGER = """
DELETE FROM ledger WHERE key IN (SELECT key FROM ledger WHERE retired_at < ? ORDER BY retired_at LIMIT ?)
"""
_LEDGER = """
SELECT item, since, retired_at FROM ledger WHERE retired_at IS NULL OR NOT ? ORDER BY key
"""
_PUT_ITEM = """
INSERT INTO ledger (key, item, since, retired_at) VALUES (?, ?, ?, NULL)
ON CONFLICT (key) DO UPDATE SET
    item = excluded.item, retired_at = NULL,
    since = CASE WHEN retired_at IS NULL THEN since ELSE excluded.since END
"""


def write(db: sqlite3.Connection, change: Write, epoch: Epoch) -> None:
    """Carry out one write of that epoch's daemon; `LeaseConflict` or `Refused` if a constraint forbids it."""
    match change:
        case PutBinding(binding):
            _put_binding(db, binding)
        case DropBinding(binding_id):
            db.execute("DELETE FROM bindings WHERE id = ?", (binding_id,))
        case PutLease(lease, replaces):
            _put_lease(db, lease, replaces)
        case DropLease(address, generation):
            _drop_lease(db, address, generation)
        case Note():
            db.execute(_INSERT_NOTE, msgspec.structs.astuple(stamped(change, epoch)))
        case PutFlag(name, None):
            db.execute("DELETE FROM flags WHERE name = ?", (name,))
        case PutFlag(name, value):
            db.execute("INSERT OR REPLACE INTO flags (name, value) VALUES (?, ?)", (name, value))
        case PutPool(pool):
            db.execute(
                "INSERT OR REPLACE INTO pools (name, spec) VALUES (?, ?)",
                (pool.name, msgspec.json.encode(pool).decode()),
            )
        case DropPool(pool_name):
            db.execute("DELETE FROM pools WHERE name = ?", (pool_name,))
        case PutItem(item, at):
            db.execute(_PUT_ITEM, (item.key, _text(item), at))
        case RetireItem(key, at):
            db.execute("UPDATE ledger SET retired_at = ? WHERE key = ? AND retired_at IS NULL", (at, key))
        case _:
            assert_never(change)


def contents(db: sqlite3.Connection, created: bool) -> Contents:
    """All of it; raises `msgspec.DecodeError` or `ValueError` where a row makes no sense."""
    leases = list(_leases(db))
    bindings = list(_bindings(db))
    flags = dict(db.execute("SELECT name, value FROM flags ORDER BY name"))
    noted = db.execute("SELECT EXISTS (SELECT 1 FROM history)").fetchone()[0]
    fresh = not (bindings or leases or noted)
    return Contents(bindings, leases, flags, epoch(db), fresh, list(_pools(db)), created)


def epoch(db: sqlite3.Connection) -> Epoch:
    """The newest epoch that has written here."""
    return Epoch(db.execute("SELECT value FROM epoch").fetchone()[0])


def set_epoch(db: sqlite3.Connection, value: Epoch) -> None:
    """From now on `value` is the newest."""
    db.execute("UPDATE epoch SET value = ?", (value,))


def ledger(db: sqlite3.Connection, live_only: bool) -> list[LedgerRow]:
    """Ledger rows by key."""
    return [_ledger_row(row) for row in db.execute(_LEDGER, (live_only,))]


def history(db: sqlite3.Connection, query: HistoryQuery) -> list[Note]:
    """The newest notes first."""
    asked = {"address = ?": query.address, "app = ?": query.app, "at <= ?": query.until}
    given = {condition: value for condition, value in asked.items() if value is not None}
    where = f"WHERE {' AND '.join(given)}" if given else ""
    rows = db.execute(
        f"SELECT {_NOTE} FROM history {where} ORDER BY id DESC LIMIT ?",
        (*given.values(), query.limit),
    )
    return [Note(*row) for row in rows]


def prune_notes(db: sqlite3.Connection, before: float, after: int, many: int) -> tuple[int, int | None]:
    """Look at the next `many` notes with ids above `after`: how many went, and where to go on (None: done).

    Ids rise with time, but for clocks that were set back; the walk ends at the first stretch without an
    old note.
    """
    last, oldest = db.execute(_NEXT_NOTES, (after, many)).fetchone()
    if last is None or oldest >= before:
        return 0, None
    gone = db.execute(_PRUNE_NOTES, {"after": after, "last": last, "before": before}).rowcount
    return gone, last


def prune_ledger(db: sqlite3.Connection, before: float, many: int) -> int:
    """Forget up to `many` rows that were retired before that time; how many those were."""
    return db.execute(_PRUNE_LEDGER, (before, many)).rowcount


def dump(db: sqlite3.Connection, many: int) -> Iterator[list[Write]]:
    """All of it as writes, at most about `many` at a time. One transaction must span the whole walk."""
    yield [PutFlag(name, value) for name, value in db.execute("SELECT name, value FROM flags ORDER BY name")]
    yield [PutPool(pool) for pool in _pools(db)]
    for bindings in chunks(_bindings(db), many):
        yield [PutBinding(binding) for binding in bindings]
    for leases in chunks(_leases(db), many):
        yield [PutLease(lease, None) for lease in leases]
    for items in chunks(db.execute(_LEDGER, (False,)), many):
        yield [write for row in items for write in ledger_writes(_ledger_row(row))]
    for notes in chunks(db.execute(_NOTES), many):
        yield [Note(*row) for row in notes]


def _put_binding(db: sqlite3.Connection, binding: Binding) -> None:
    seat = (binding.host, binding.slot, binding.address, binding.pool, int(binding.departing))
    who = (binding.id, binding.app, binding.instance, binding.incarnation, binding.task)
    db.execute(_PUT_BINDING, (*who, *seat))
    db.executemany(
        _PUT_SINK,
        [
            (
                binding.id,
                name,
                _text(state.wanted),
                _text(state.applied),
                f"[{','.join(encode_spec(spec).decode() for spec in state.residue)}]",
                state.generation,
            )
            for name, state in binding.sinks.items()
        ],
    )
    kept = msgspec.json.encode(list(binding.sinks)).decode()
    db.execute(_DROP_OTHER_SINKS, (binding.id, kept))


def _put_lease(db: sqlite3.Connection, lease: Lease, replaces: int | None) -> None:
    values = msgspec.structs.astuple(lease)
    try:
        if replaces is None:
            db.execute(_INSERT_LEASE, values)
            return
        if lease.generation <= replaces:
            raise LeaseConflict(f"{lease.address}: generation {lease.generation} does not follow {replaces}")
        done = db.execute(_REPLACE_LEASE, (*values, lease.address, replaces))
    except sqlite3.IntegrityError as error:
        raise LeaseConflict(f"{lease.address} for {lease.app} slot {lease.slot}: {error}") from error
    if done.rowcount != 1:
        raise LeaseConflict(_stale(db, lease.address, replaces))


def _drop_lease(db: sqlite3.Connection, address: str, generation: int) -> None:
    done = db.execute("DELETE FROM leases WHERE address = ? AND generation = ?", (address, generation))
    if done.rowcount != 1:
        raise LeaseConflict(_stale(db, address, generation))


def _stale(db: sqlite3.Connection, address: str, expected: int) -> str:
    row = db.execute("SELECT generation, binding FROM leases WHERE address = ?", (address,)).fetchone()
    found = "no lease" if row is None else f"generation {row[0]} (binding {row[1]})"
    return f"{address}: expected generation {expected}, the store has {found}"


def _bindings(db: sqlite3.Connection) -> Iterator[Binding]:
    sinks: dict[BindingId, dict[SinkName, SinkState]] = {}
    for binding, sink, wanted, applied, residue, generation in db.execute(_SINKS):
        state = SinkState(_spec(wanted), _spec(applied), _specs(residue), generation)
        sinks.setdefault(binding, {})[sink] = state
    for *seat, departing in db.execute(_BINDINGS):
        yield replace(Binding(*seat), departing=bool(departing), sinks=sinks.get(seat[0], {}))


def _leases(db: sqlite3.Connection) -> Iterator[Lease]:
    # There may be a hundred thousand: no call for each, and no list of rows that the collector would walk.
    for address, pool, state, *rest in db.execute(_LEASES):
        yield Lease(address, pool, _STATES[state], *rest)


def _pools(db: sqlite3.Connection) -> Iterator[PoolSpec]:
    for (spec,) in db.execute("SELECT spec FROM pools ORDER BY name"):
        yield msgspec.json.decode(spec, type=PoolSpec)


def _ledger_row(row: tuple[str, float, float | None]) -> LedgerRow:
    item, since, retired_at = row
    return LedgerRow(_item(item), since, retired_at)


def _text(spec: Spec | None) -> str | None:
    return None if spec is None else encode_spec(spec).decode()


def _spec(text: str | None) -> Spec | None:
    return None if text is None else decode_spec(text)


def _specs(text: str) -> tuple[Spec, ...]:
    return tuple(decode_spec(bytes(part)) for part in msgspec.json.decode(text, type=list[msgspec.Raw]))


def _item(text: str) -> ItemSpec:
    item = decode_spec(text)
    if not isinstance(item, ItemSpec):
        raise Refused(f"the ledger holds a {type(item).__name__} where an item belongs")
    return item
