"""The tables, and the ladder by which an older file climbs to them.

`PRAGMA user_version` says how many rungs a file has climbed; `application_id` says that it is ours.  All
tables are STRICT, so a value of the wrong type is an error here and not a riddle later.

* What one sink shows for one binding is a row of its own.  Most changes touch one or two sinks of a
  binding, so most writes are small even where another sink's spec holds whole files; and what is not
  settled yet can be asked with plain SQL, for this is the intent log.  Specs are tagged JSON
  (`core.specs`); `residue` is a JSON array of them.
* The invariants stand as constraints: a lease's address is the primary key, and `UNIQUE (app, slot,
  pool)` gives a seat one address.  NULL slots (cooling addresses) are distinct in SQL, as they must be.
* `history` is only ever appended to, and pruned by age.

`PRAGMA quick_check` runs at every start: it costs a little more than a microsecond for each lease and a third
of one for each note, and an address given out from a damaged table could be in two hands.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from mooring.core.errors import Refused
from mooring.core.model import Epoch
from mooring.core.store import NO_EPOCH

APPLICATION_ID = 0x4D4F4F52  # "MOOR"
OLDEST_SQLITE = (3, 38, 0)  # STRICT tables, and JSON functions in every build
REMEDY = (
    "restore a backup, or move the file away and start with a new one: "
    "live addresses are then adopted from the hosts"
)

_FIRST = """
CREATE TABLE epoch (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    value INTEGER NOT NULL
) STRICT;
INSERT INTO epoch VALUES (1, 0);

CREATE TABLE bindings (
    id TEXT PRIMARY KEY,
    app TEXT NOT NULL,
    instance TEXT NOT NULL,
    incarnation INTEGER NOT NULL,
    task TEXT NOT NULL,
    host TEXT NOT NULL,
    slot INTEGER,
    address TEXT,
    pool TEXT,
    departing INTEGER NOT NULL CHECK (departing IN (0, 1))
) STRICT;

CREATE TABLE sink_states (
    binding TEXT NOT NULL REFERENCES bindings (id) ON DELETE CASCADE,
    sink TEXT NOT NULL,
    wanted TEXT CHECK (wanted IS NULL OR json_valid(wanted)),
    applied TEXT CHECK (applied IS NULL OR json_valid(applied)),
    residue TEXT NOT NULL CHECK (json_type(residue) = 'array'),
    generation INTEGER NOT NULL,
    PRIMARY KEY (binding, sink)
) STRICT;

CREATE TABLE leases (
    address TEXT PRIMARY KEY,
    pool TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('reserved', 'bound', 'idle', 'stranded', 'cooling', 'conflicted')),
    app TEXT,
    slot INTEGER,
    binding TEXT,
    host TEXT,
    generation INTEGER NOT NULL,
    since REAL NOT NULL,
    until REAL,
    UNIQUE (app, slot, pool)
) STRICT;

CREATE TABLE history (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    event TEXT NOT NULL,
    reason TEXT NOT NULL,
    address TEXT,
    app TEXT,
    slot INTEGER,
    instance TEXT,
    host TEXT
) STRICT;
CREATE INDEX history_by_address ON history (address, id);

CREATE TABLE flags (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE ledger (
    key TEXT PRIMARY KEY,
    item TEXT NOT NULL CHECK (json_valid(item)),
    since REAL NOT NULL,
    retired_at REAL
) STRICT;
"""

_SECOND = """
CREATE TABLE leases_2 (
    address TEXT PRIMARY KEY,
    pool TEXT NOT NULL,
    state TEXT NOT NULL
        CHECK (state IN ('reserved', 'bound', 'idle', 'stranded', 'cooling', 'conflicted')),
    app TEXT,
    slot INTEGER,
    binding TEXT,
    host TEXT,
    generation INTEGER NOT NULL,
    since REAL NOT NULL,
    until REAL,
    note TEXT,
    UNIQUE (app, slot, pool)
) STRICT, WITHOUT ROWID;
INSERT INTO leases_2 SELECT *, NULL FROM leases ORDER BY address;
DROP TABLE leases;
ALTER TABLE leases_2 RENAME TO leases;

ALTER TABLE history ADD COLUMN pool TEXT;
ALTER TABLE history ADD COLUMN vlan INTEGER;
ALTER TABLE history ADD COLUMN generation INTEGER;
ALTER TABLE history ADD COLUMN epoch INTEGER;
CREATE INDEX history_by_app ON history (app, id);

CREATE TABLE pools (
    name TEXT PRIMARY KEY,
    spec TEXT NOT NULL CHECK (json_valid(spec))
) STRICT;

CREATE INDEX ledger_retired ON ledger (retired_at) WHERE retired_at IS NOT NULL;
"""

RUNGS: tuple[str, ...] = (_FIRST, _SECOND)
"""Each rung is the SQL that takes a file from the version of its index to the next; never edit one."""


def lay_out(path: Path) -> bool:
    """Make a new store if there is no file; whether there was none.

    It is made under another name and renamed when it is whole, so an empty file is never ours.  Raises
    `Refused` if a file is there that holds nothing, or a journal without its file: a store was lost there.
    """
    journal = _journal(path)
    if path.exists():
        if path.stat().st_size == 0:
            raise Refused(f"store {path} is damaged (the file is empty): {REMEDY}")
        return False
    if journal.exists() and journal.stat().st_size:
        raise Refused(f"store {path} is damaged (only its journal {journal} is there): {REMEDY}")
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)  # what is written there is readable by its owner only
    connection = connect(draft, busy_timeout_s=1.0)
    try:
        climb(connection, draft)
    finally:
        connection.close()
    draft.rename(path)
    _flush_directory(path.parent)
    return True


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open a file that is there for durable writing; `Refused` if it is another program's."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise Refused(
            f"SQLite {sqlite3.sqlite_version} is too old for the store: {oldest} or newer is needed"
        )
    # The runner keeps calls apart; `close` may come from another thread than the first call.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _refuse_foreign(connection, path)
        for pragma in (
            f"busy_timeout = {round(busy_timeout_s * 1000)}",
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def check_journal(path: Path, *, expected: bool) -> None:
    """`Refused` if the last daemon was still writing when it ended, and its journal is gone."""
    if expected and not _journal(path).exists():
        raise Refused(
            f"store {path} is damaged (its journal {_journal(path)} is missing, and with it what was written "
            f"last; if somebody put another file there, {path}.lock has to go too): {REMEDY}"
        )


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    tables = _number(connection, "SELECT count(*) FROM sqlite_schema")
    if tables and _number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise Refused(f"{path} is a database of another program: point the store at a file of its own")


def settle(connection: sqlite3.Connection) -> bool:
    """Bring all of the journal into the file; whether that was possible."""
    return _number(connection, "PRAGMA wal_checkpoint(TRUNCATE)") == 0  # 1: somebody still reads it


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def snapshot(path: Path) -> sqlite3.Connection:
    """A connection that reads the file as it is at this moment, whatever is committed later."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    try:
        connection.isolation_level = None
        connection.execute("BEGIN")
        _number(connection, "SELECT value FROM epoch")  # the first read fixes the moment
    except BaseException:
        connection.close()
        raise
    return connection


def legible_epoch(path: Path) -> Epoch:
    """The epoch of a file in whatever state; 0 if it does not say."""
    if not path.exists():
        return NO_EPOCH
    try:
        connection = sqlite3.connect(path)
        try:
            return Epoch(_number(connection, "SELECT value FROM epoch"))
        finally:
            connection.close()
    except (sqlite3.Error, TypeError, AssertionError):
        return NO_EPOCH


def climb(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a file to the newest version, or refuse one that is damaged or from the future."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise Refused(f"store {path} is damaged ({' '.join(verdict.split())}): {REMEDY}")
    version = _number(connection, "PRAGMA user_version")
    if version > len(RUNGS):
        raise Refused(
            f"store {path} has schema version {version}, and this release knows {len(RUNGS)}: "
            "run the release that wrote it, or restore a backup that was made before the upgrade"
        )
    for number, rung in enumerate(RUNGS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {rung}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number}; COMMIT;"
        )


def _number(connection: sqlite3.Connection, query: str) -> int:
    value = connection.execute(query).fetchone()[0]
    assert isinstance(value, int), query
    return value
