"""The tables, and the ladder by which an older file climbs to them.

`PRAGMA user_version` says how many rungs a file has climbed; `application_id` says that it is ours.  All
tables are STRICT, so a value of the wrong type is an error here and not a riddle later.

* What one sink shows for one binding is a row of its own.  Most changes touch one or two sinks of a
  binding, so most writes are small even where another sink's spec holds whole files; and what is not
  settled yet can be asked with plain SQL, for this is the intent log.  Specs are tagged JSON
  (`core.specs`); `residue` is a JSON array of them.
* The invariants stand as constraints: a lease's address is the primary key, and `UNIQUE (app, slot,
  pool)` gives a seat one address.  NULL slots (cooling addresses) are distinct in SQL, as they must be.
* `history` is only ever appended to.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mooring.core.errors import Refused

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

RUNGS: tuple[str, ...] = (_FIRST,)
"""Each rung is the SQL that takes a file from the version of its index to the next; never edit one."""


def connect(path: Path, busy_timeout_s: float) -> sqlite3.Connection:
    """Open the file for durable writing; what is written there is readable by its owner only."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        raise Refused(
            f"SQLite {sqlite3.sqlite_version} is too old for the store: {oldest} or newer is needed"
        )
    path.touch(mode=0o600)
    # The runner keeps calls apart; `close` may come from another thread than the first call.
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
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


def climb(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a file to the newest version, or refuse one that is damaged, foreign or from the future."""
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise Refused(f"store {path} is damaged ({' '.join(verdict.split())}): {REMEDY}")
    version = _number(connection, "PRAGMA user_version")
    if version > len(RUNGS):
        raise Refused(
            f"store {path} has schema version {version}, and this release knows {len(RUNGS)}: "
            "run the release that wrote it, or restore a backup that was made before the upgrade"
        )
    tables = _number(connection, "SELECT count(*) FROM sqlite_schema")
    if tables and _number(connection, "PRAGMA application_id") != APPLICATION_ID:
        raise Refused(f"{path} is a database of another program: point the store at a file of its own")
    for number, rung in enumerate(RUNGS[version:], start=version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {rung}; PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number}; COMMIT;"
        )


def _number(connection: sqlite3.Connection, query: str) -> int:
    value = connection.execute(query).fetchone()[0]
    assert isinstance(value, int), query
    return value
