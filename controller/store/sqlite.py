"""The embedded store: one SQLite file, one writer, durable when `commit` returns.

WAL with `synchronous=FULL`: a transaction is on the disk before anybody acts on it.  `NORMAL` would stay
consistent but may forget the last transactions at power loss, and a forgotten lease is an address in
two hands.

Flushing costs the same for one transaction as for many, so commits that arrive while a flush is under
way travel together in the next one (*group commit*).  Each keeps a savepoint of its own: one that is
refused leaves no trace and does not disturb the others.  The group runs in a task of its own, so a
caller that is cancelled while it waits does not tear its transaction: it is kept whole or not at all.

Every group reads the epoch inside its own transaction and is refused whole if another daemon has taken
a newer one.  A lock file keeps a second daemon out in the first place; the epoch also holds where that
lock does not reach (a file system that ignores locks, a file restored under a running daemon).
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from mooring.controller.store import lockfile, rows, schema
from mooring.controller.store.runners import Runner
from mooring.core.errors import Fenced, MooringError, Refused, StoreBroken, StoreBusy
from mooring.core.model import Epoch
from mooring.core.store import NO_EPOCH, Contents, LedgerRow, Note, Write

T = TypeVar("T")
_Waiting = tuple[tuple[Write, ...], "asyncio.Future[None]"]
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
        self._lock: int | None = None
        self._epoch = NO_EPOCH
        self._waiting: list[_Waiting] = []
        self._flight: asyncio.Task[None] | None = None

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
        landed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((tuple(writes), landed))
        if self._flight is None:
            self._flight = asyncio.create_task(self._fly(), name="store commits")
        await landed

    async def ledger(self, live_only: bool = True) -> Sequence[LedgerRow]:
        """Rows of the local ledger, by key."""
        return await self._run(lambda db: rows.ledger(db, live_only))

    async def history(self, address: str | None = None, limit: int = 100) -> Sequence[Note]:
        """The newest notes first, of one address or of all."""
        return await self._run(lambda db: rows.history(db, address, limit))

    async def backup(self, path: Path) -> None:
        """Write a consistent copy to `path`, replacing what is there only once the copy is complete."""
        await self._run(lambda db: _copy(db, path))

    async def close(self) -> None:
        """Let the commits that were given finish, then give the file back. Closing twice is harmless."""
        if self._flight is not None:
            await asyncio.wait({self._flight})
        await self._runner(self._close)

    # Everything below the flight runs where the runner runs it.

    async def _fly(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                for (_, landed), verdict in zip(group, await self._verdicts(group), strict=True):
                    if landed.done():  # its caller was cancelled
                        continue
                    if verdict is None:
                        landed.set_result(None)
                    else:
                        landed.set_exception(verdict)
        finally:
            self._flight = None
            for _, landed in (*group, *self._waiting):
                landed.cancel()  # none is left, unless the flight itself was cancelled
            self._waiting = []

    async def _verdicts(self, group: Sequence[_Waiting]) -> Sequence[Exception | None]:
        try:
            return await self._run(lambda db: self._commit_group(db, [writes for writes, _ in group]))
        except Exception as error:
            return [error] * len(group)

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
            lock = lockfile.acquire(self._path)
        except OSError as error:
            raise Refused(_unusable(self._path, error)) from error
        try:
            self._db = schema.connect(self._path, self._busy_timeout_s)
            self._lock = lock
            schema.climb(self._db, self._path)
            return rows.contents(self._db)
        except BaseException as error:
            self._lock = lock
            self._close()
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
        if db is not None:
            db.close()
        if lock is not None:
            os.close(lock)

    def _begin(self, db: sqlite3.Connection, epoch: Epoch) -> None:
        with _Transaction(db):
            seen = rows.epoch(db)
            if epoch <= seen:
                raise Fenced(f"store {self._path} has seen epoch {seen}: {epoch} is too old to begin with")
            rows.set_epoch(db, epoch)
        self._epoch = epoch

    def _commit_group(
        self, db: sqlite3.Connection, group: Sequence[Sequence[Write]]
    ) -> list[Exception | None]:
        with _Transaction(db):
            seen = rows.epoch(db)
            if self._epoch == NO_EPOCH or seen != self._epoch:
                raise Fenced(
                    f"store {self._path} is at epoch {seen}, this daemon writes as {self._epoch}: "
                    "another daemon has taken over, or none has begun"
                )
            return [self._attempt(db, writes) for writes in group]

    def _attempt(self, db: sqlite3.Connection, writes: Sequence[Write]) -> Exception | None:
        """One commit of the group; what is wrong with it alone is returned, not raised."""
        db.execute("SAVEPOINT one")
        try:
            for change in writes:
                rows.write(db, change)
        except Exception as error:
            if isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError:
                raise  # the disk or the file, not these writes: nobody's may be kept
            db.execute("ROLLBACK TO one")
            db.execute("RELEASE one")
            if isinstance(error, sqlite3.Error):
                return _meaning(error, self._path)
            if isinstance(error, ValueError | OverflowError):  # text or a number that SQLite cannot hold
                return Refused(f"store {self._path} rejects the write: {error}")
            return error
        db.execute("RELEASE one")
        return None


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


def _copy(db: sqlite3.Connection, path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)
        copy = sqlite3.connect(partial)
        try:
            db.backup(copy)
        finally:
            copy.close()
        partial.replace(path)
    except OSError as error:
        raise Refused(f"backup to {path} failed: {error.strerror}") from error
