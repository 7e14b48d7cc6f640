"""The embedded store: one SQLite file, one writer, durable when `commit` returns.

WAL with `synchronous=FULL`: a transaction is on the disk before anybody acts on it.  `NORMAL` would stay
consistent but may forget the last transactions at power loss, and a forgotten lease is an address in
two hands.

Commits travel in groups (`group`), one SQLite transaction each.  Refusals are rare, so a group is first
written straight through.  If anything in it is refused, all of it is rolled back and written again with a
savepoint for each commit: then one that is refused leaves no trace and does not disturb the others.

Every group reads the epoch inside its own transaction and is refused whole if another daemon has taken
a newer one.  A lock file keeps a second daemon out in the first place; the epoch also holds where that
lock does not reach (a file system that ignores locks, a file restored under a running daemon).
"""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from mooring.controller.store import lockfile, rows, schema
from mooring.controller.store.group import GroupCommit, Verdict
from mooring.controller.store.runners import Runner
from mooring.core.errors import Fenced, MooringError, Refused, StoreBroken, StoreBusy
from mooring.core.model import Epoch
from mooring.core.store import NO_EPOCH, Contents, HistoryQuery, LedgerRow, Note, Write

T = TypeVar("T")
_STEP = 500  # rows that one step of pruning or dumping touches, some milliseconds of work
_PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_NOMEM}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class SqliteStore:
    """`core.store.Store` in a file."""

    def __init__(self, path: Path, runner: Runner, *, busy_timeout_s: float = 5.0) -> None:
        """`runner` runs the blocking calls; `busy_timeout_s` bounds the wait for a foreign transaction."""
        self._path = path
        self._runner = runner
        self._busy_timeout_s = busy_timeout_s
        self._db: sqlite3.Connection | None = None
        self._lock: lockfile.Lock | None = None
        self._epoch = NO_EPOCH
        self._seen_version = 0  # as of the reading of the contents
        self._commits = GroupCommit(self._fly)

    async def open(self) -> Contents:
        """Lock the file, bring its tables up to date and read all of it.

        Raises `Refused` if another daemon has it, or if it is damaged, foreign or from a newer release.
        """
        return await self._runner(self._open)

    async def begin(self, epoch: Epoch) -> None:
        """From now on write as this epoch; `Fenced` if the store has seen the same or a higher one."""
        await self._run(lambda db: self._begin(db, epoch))

    async def commit(self, writes: Sequence[Write]) -> None:
        """All of it, durably, or none of it. Raises `Fenced`, `LeaseConflict` or `StoreBusy`."""
        await self._commits.commit(writes)

    async def ledger(self, live_only: bool = True) -> Sequence[LedgerRow]:
        """Rows of the local ledger, by key."""
        return await self._run(lambda db: rows.ledger(db, live_only))

    async def history(self, query: HistoryQuery) -> Sequence[Note]:
        """The newest notes first, in the order they were committed in."""
        return await self._run(lambda db: rows.history(db, query))

    async def prune(self, before: float) -> int:
        """Forget notes from before that time and ledger rows retired before it; how many those were."""
        total, after = 0, 0
        while True:
            gone, last = await self._run(functools.partial(self._prune_notes, before=before, after=after))
            total += gone
            if last is None:
                break
            after = last
        while gone := await self._run(lambda db: self._prune_ledger(db, before)):
            total += gone
        return total

    async def dump(self) -> AsyncIterator[Sequence[Write]]:
        """The whole store at one moment, except its epoch, as the writes that make it again."""
        reader = await self._run(lambda db: schema.snapshot(self._path))
        try:
            chunks = rows.dump(reader, _STEP)
            while (chunk := await self._run(lambda db: next(chunks, None))) is not None:
                yield chunk
        finally:
            await self._runner(reader.close)

    async def close(self) -> None:
        """Let the commits that were given finish, then give the file back. Closing twice is harmless."""
        await self._commits.settle()
        await self._runner(self._close)

    async def _fly(self, group: Sequence[Sequence[Write]]) -> Sequence[Verdict]:
        return await self._run(lambda db: self._commit_group(db, group))

    # Everything below runs where the runner runs it.

    async def _run(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._runner(lambda: self._translated(job))

    def _translated(self, job: Callable[[sqlite3.Connection], T]) -> T:
        if self._db is None:
            raise Refused(f"store {self._path} is not open")
        try:
            return job(self._db)
        except sqlite3.Error as error:
            raise _meaning(error, self._path) from error

    def _open(self) -> Contents:
        try:
            lock = lockfile.Lock(self._path)
        except OSError as error:
            raise Refused(_unusable(self._path, error)) from error
        try:
            created = schema.lay_out(self._path)
            schema.check_journal(self._path, expected=lock.was_writing and not created)
            self._db = schema.connect(self._path, self._busy_timeout_s)
            schema.climb(self._db, self._path)
            self._seen_version = _data_version(self._db)
            contents = rows.contents(self._db, created)
            lock.writing()
            self._lock = lock
            return contents
        except BaseException as error:
            db, self._db = self._db, None
            _let_go(db, lock)
            if isinstance(error, sqlite3.Error):
                raise _meaning(error, self._path) from error
            if isinstance(error, OSError):
                raise Refused(_unusable(self._path, error)) from error
            if isinstance(error, ValueError | msgspec.DecodeError):
                raise Refused(f"store {self._path} is damaged ({error}): {schema.REMEDY}") from error
            raise

    def _close(self) -> None:
        db, self._db = self._db, None
        lock, self._lock = self._lock, None
        self._epoch = NO_EPOCH
        if lock is not None:
            _let_go(db, lock)

    def _begin(self, db: sqlite3.Connection, epoch: Epoch) -> None:
        with _Transaction(db):
            seen = rows.epoch(db)
            if epoch <= seen:
                raise Fenced(f"store {self._path} has seen epoch {seen}: {epoch} is too old to begin with")
            if _data_version(db) != self._seen_version:
                raise Fenced(f"store {self._path} was written after this daemon had read it: start again")
            rows.set_epoch(db, epoch)
        self._epoch = epoch

    def _commit_group(self, db: sqlite3.Connection, group: Sequence[Sequence[Write]]) -> Sequence[Verdict]:
        try:
            with _Transaction(db):
                self._check_epoch(db)
                for writes in group:
                    for change in writes:
                        rows.write(db, change, self._epoch)
            return [None] * len(group)
        except Fenced:
            raise
        except Exception as error:
            if _concerns_all(error):
                raise
        with _Transaction(db):
            self._check_epoch(db)
            return [self._attempt(db, writes) for writes in group]

    def _attempt(self, db: sqlite3.Connection, writes: Sequence[Write]) -> Verdict:
        """One commit of the group; what is wrong with it alone is returned, not raised."""
        db.execute("SAVEPOINT one")
        try:
            for change in writes:
                rows.write(db, change, self._epoch)
        except Exception as error:
            if _concerns_all(error):
                raise
            db.execute("ROLLBACK TO one")
            db.execute("RELEASE one")
            if isinstance(error, sqlite3.Error):
                return _meaning(error, self._path)
            if isinstance(error, ValueError | OverflowError):  # text or a number that SQLite cannot hold
                return Refused(f"store {self._path} rejects the write: {error}")
            return error
        db.execute("RELEASE one")
        return None

    def _prune_notes(self, db: sqlite3.Connection, before: float, after: int) -> tuple[int, int | None]:
        with _Transaction(db):
            self._check_epoch(db)
            return rows.prune_notes(db, before, after, _STEP)

    def _prune_ledger(self, db: sqlite3.Connection, before: float) -> int:
        with _Transaction(db):
            self._check_epoch(db)
            return rows.prune_ledger(db, before, _STEP)

    def _check_epoch(self, db: sqlite3.Connection) -> None:
        seen = rows.epoch(db)
        if self._epoch == NO_EPOCH or seen != self._epoch:
            raise Fenced(
                f"store {self._path} is at epoch {seen}, this daemon writes as {self._epoch}: "
                "another daemon has taken over, or none has begun"
            )


def _let_go(db: sqlite3.Connection | None, lock: lockfile.Lock) -> None:
    try:
        if db is not None:
            with suppress(sqlite3.Error):  # then the journal stays, and the next start needs it
                if schema.settle(db):
                    lock.settled()
            db.close()
    finally:
        lock.release()


def _data_version(db: sqlite3.Connection) -> int:
    """A number that changes whenever another connection has committed something."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])


def set_aside(path: Path, mark: str) -> tuple[Path | None, Epoch]:
    """Rename a store that no daemon has, whatever its state: where it is then, and its epoch if legible.

    None if there is nothing. Raises `Refused` if a daemon has it.
    """
    lock = lockfile.Lock(path)
    try:
        aside = path.with_name(f"{path.name}.{mark}")
        epoch = schema.legible_epoch(path)
        moved = [_renamed(path.with_name(path.name + end), aside, end) for end in ("", "-wal", "-shm")]
        lock.settled()
        return (aside if any(moved) else None), epoch
    except OSError as error:
        raise Refused(_unusable(path, error)) from error
    finally:
        lock.release()


def _renamed(file: Path, aside: Path, end: str) -> bool:
    if not file.exists():
        return False
    file.rename(aside.with_name(aside.name + end))
    return True


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK if anything was raised."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:  # SQLite ends it on its own after some errors
                self._db.execute("ROLLBACK")


def _concerns_all(error: Exception) -> bool:
    """Whether it is the disk or the file, not these writes: then nobody's may be kept."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _meaning(error: sqlite3.Error, path: Path) -> MooringError:
    # The low byte is the error, the rest refines it.
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _DAMAGED:
        return StoreBroken(f"store {path} is damaged ({error}): {schema.REMEDY}")
    if code in _PASSING:
        return StoreBusy(f"store {path}: {error}; nothing was written")
    if isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return Refused(f"store {path} rejects the write: {error}")
    return StoreBroken(
        f"store {path}: {error}: see to the disk and start again; the daemon then reads what was kept"
    )


def _unusable(path: Path, error: OSError) -> str:
    return f"store {path} cannot be opened ({error.strerror}): its directory must exist and be writable"
