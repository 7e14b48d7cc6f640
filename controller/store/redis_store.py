"""The shared store: one Redis, every group of commits one script, durable when `commit` returns.

Redis runs a script alone and, with `appendfsync always`, flushes its append-only file before it answers.
The script checks lock, epoch, and each commit as a whole before it writes the first byte of it
(`lua/commit.lua`).  Commits that wait for an answer travel together (`group`): one flush serves them all.

*A lost reply* leaves open whether the group was taken, so it is asked again: groups are numbered, and the
script keeps the verdicts of the last.  The same number is answered from there; a number that does not follow
means that Redis has forgotten what it had confirmed, and this daemon stops (`StoreBroken`).

*The lock* is a key that dies with its holder: the store renews it, and every script compares it.  A daemon
that was frozen for longer finds another's lock, or another's epoch, and is fenced.  If nobody took it
meanwhile it goes on.

The keys are `meta lock leases seats bindings flags pools items notes` and the indexes `notes:address:*` and
`notes:app:*`, all behind one prefix; braces in it make a cluster keep them in one slot.
"""

from __future__ import annotations

import asyncio
import os
import platform
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from mooring.controller.store import packed
from mooring.controller.store.group import GroupCommit, Verdict
from mooring.controller.store.redis import RedisLink, ReplyLost, Script
from mooring.controller.store.writes import chunks, ledger_writes
from mooring.core.clock import Clock
from mooring.core.errors import Fatal, Fenced, LeaseConflict, MooringError, Refused, StoreBroken, StoreBusy
from mooring.core.model import Epoch
from mooring.core.store import (
    NO_EPOCH,
    Contents,
    HistoryQuery,
    LedgerRow,
    Note,
    PutBinding,
    PutFlag,
    PutLease,
    PutPool,
    Write,
)

log = structlog.get_logger(__name__)

SCHEMA = 1
RUNGS: tuple[Script, ...] = ()
"""The script of index n brings the keys (given as `_KEYS`) from schema n + 1 to the next; never edit one."""

_KEYS = ("meta", "lock", "leases", "seats", "bindings", "flags", "pools", "items", "notes")
_COMMIT, _OPEN, _BEGIN, _KEEP, _LOAD = map(Script, ("commit", "open", "begin", "keep", "load"))
_NEWEST, _WALK, _VALUES = map(Script, ("newest", "walk", "values"))
_PRUNE, _FORGET, _WIPE = map(Script, ("prune", "forget", "wipe"))
_STEP = 500  # notes that one script looks at, some milliseconds in which Redis does nothing else
_AGAIN_S = 0.2
_REMEDY = "restore a backup, or give another redis.prefix: live addresses are then adopted from the hosts"


class RedisStore:
    """`core.store.Store` in Redis."""

    def __init__(
        self, link: RedisLink, prefix: str, clock: Clock, *, lock_s: float = 5.0, patience_s: float = 30.0
    ) -> None:
        """`prefix` begins every key; the lock of a holder that died is free after `lock_s`.

        A Redis that cannot be reached is waited for `patience_s` while opening, and while a reply is lost.
        """
        self._link = link
        self._clock = clock
        self._lock_s = lock_s
        self._patience_s = patience_s
        self._name = f"{link.name} {prefix}"
        self._keys = {key: f"{prefix}:{key}" for key in _KEYS}
        self._index = f"{prefix}:notes:"
        self._token = ""  # empty: not open
        self._epoch = NO_EPOCH
        self._read_at = NO_EPOCH  # the epoch that the contents are of
        self._group = 0  # number of the last group of commits that is known here
        self._broken: MooringError | None = None
        self._complaint = ""  # what was logged last
        self._keeper: asyncio.Task[None] | None = None
        self._commits = GroupCommit(self._fly)

    async def open(self) -> Contents:
        """Take the lock, look whether the keys are ours, and read all of it.

        Raises `Refused` if another daemon has it, if Redis does not keep what it confirms or cannot be
        reached, and if what is there is damaged, foreign or from a newer release.
        """
        if self._token:
            raise Refused(f"store {self._name} is in use by this process already: close it first")
        self._token = f"{platform.node()} process {os.getpid()} {uuid.uuid4().hex[:8]}"
        try:
            contents = await self._read(created=await self._take())
        except BaseException:
            await self.close()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="store lock")
        return contents

    async def begin(self, epoch: Epoch) -> None:
        """From now on write as this epoch; `Fenced` if the store has seen the same or a higher one."""
        self._check_open()
        keys, attempt = self._some("meta", "lock"), uuid.uuid4().hex
        args = (self._token, self._lock_ms, epoch, attempt, self._read_at, self._group)
        said, *rest = await self._surely(_BEGIN, keys, *args)
        if said == "epoch":
            raise Fenced(f"store {self._name} has seen epoch {rest[0]}: {epoch} is too old to begin with")
        if said == "written":
            raise Fenced(f"store {self._name} was written after this daemon had read it: start again")
        self._done(said, rest)
        self._epoch = self._read_at = epoch
        self._group = 0

    async def commit(self, writes: Sequence[Write]) -> None:
        """All of it, durably, or none of it. Raises `Fenced`, `LeaseConflict` or `StoreBusy`.

        `StoreBroken` if Redis cannot be asked in time whether it took them.
        """
        self._check_open()
        await self._commits.commit(writes)

    async def ledger(self, live_only: bool = True) -> Sequence[LedgerRow]:
        """Rows of the local ledger, by key."""
        values = packed.unpack_texts(await self._ask(_VALUES, self._some("items")))
        rows = [packed.ledger_row(value) for value in values]
        kept = (row for row in rows if row.retired_at is None or not live_only)
        return sorted(kept, key=lambda row: row.item.key)

    async def history(self, query: HistoryQuery) -> Sequence[Note]:
        """The newest notes first, in the order they were committed in."""
        found: list[Note] = []
        below, keys = "", self._some("notes") * 2
        if query.address is not None:
            keys[1] = f"{self._index}address:{query.address}"
        elif query.app is not None:
            keys[1] = f"{self._index}app:{query.app}"
        until = "" if query.until is None else repr(query.until)
        while len(found) < query.limit:
            wanted = query.limit - len(found)
            last, notes = await self._ask(_NEWEST, keys, below, until, wanted, _STEP)
            if not last:
                break
            below = last.decode()
            read = (packed.note(note) for note in packed.unpack_texts(notes))
            found += [note for note in read if query.app in (None, note.app)]
        return found

    async def prune(self, before: float) -> int:
        """Forget notes from before that time and ledger rows retired before it; how many those were."""
        self._check_writable()
        total, last = await self._prune_ledger(before), "0"
        keys = self._some("meta", "lock", "notes")
        while last:
            first = int(last) + 1
            said, *rest = await self._ask(
                _PRUNE, keys, self._token, self._epoch, self._index, repr(before), first, _STEP
            )
            gone, walked = self._done(said.decode(), rest)
            total, last = total + gone, walked.decode()
        return total

    async def dump(self) -> AsyncIterator[Sequence[Write]]:
        """The whole store at one moment, except its epoch, as the writes that make it again."""
        loaded = packed.unpack_loaded(await self._ask(_LOAD, self._data_keys))
        held = packed.contents(loaded, created=False)
        yield [PutFlag(name, value) for name, value in held.flags.items()]
        yield [PutPool(pool) for pool in held.pools]
        for bindings in chunks(held.bindings, _STEP):
            yield [PutBinding(binding) for binding in bindings]
        for leases in chunks(held.leases, _STEP):
            yield [PutLease(lease, None) for lease in leases]
        for rows in chunks(packed.ledger(loaded), _STEP):
            yield [write for row in rows for write in ledger_writes(row)]
        last: bytes | str = "0"
        while last:
            first = int(last) + 1
            last, notes = await self._ask(_WALK, self._some("notes"), first, loaded.last_note, _STEP)
            yield [packed.note(note) for note in packed.unpack_texts(notes)]

    async def wipe(self) -> None:
        """Forget everything but the epoch."""
        cursor = b"0"
        while True:
            keys = self._some("lock", *_KEYS[2:])
            said, *rest = await self._ask(_WIPE, keys, self._token, f"{self._index}*", cursor)
            (cursor,) = self._done(said.decode(), rest)
            if cursor == b"0":
                return

    async def close(self) -> None:
        """Let the commits that were given finish, then give the lock back. Closing twice is harmless."""
        await self._commits.settle()
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        token, self._token = self._token, ""
        self._epoch, self._group, self._broken = NO_EPOCH, 0, None
        if token:
            with suppress(MooringError):  # then it ends by itself
                await self._link.run(_KEEP, self._some("lock"), token, 0)
        await self._link.close()

    # How it is opened and kept.

    @property
    def _lock_ms(self) -> int:
        return round(self._lock_s * 1000)

    @property
    def _data_keys(self) -> list[str]:
        return self._some("meta", "bindings", "leases", "flags", "pools", "items", "notes")

    def _some(self, *names: str) -> list[str]:
        return [self._keys[name] for name in names]

    async def _take(self) -> bool:
        """Take the lock; whether the keys were made just now."""
        begun = self._clock.monotonic()
        held_since: float | None = None
        while True:
            try:
                said, *rest = await self._link.run(
                    _OPEN, self._some(*_KEYS), self._token, self._lock_ms, SCHEMA
                )
                if said != b"held":
                    return await self._accept(said.decode(), [part.decode() for part in rest])
                held_since = held_since or self._clock.monotonic()
                if self._clock.monotonic() - held_since > self._lock_s + 1:
                    raise Refused(
                        f"store {self._name} is in use by {rest[0].decode()}: stop that daemon first, "
                        "or give this one a redis.prefix of its own"
                    )
            except (StoreBusy, ReplyLost) as error:
                if self._clock.monotonic() - begun > self._patience_s:
                    raise Refused(str(error)) from error
                self._complain("waiting for the store", error)
            await self._clock.sleep(_AGAIN_S)

    async def _accept(self, said: str, rest: Sequence[str]) -> bool:
        if said == "created":
            return True
        if said == "foreign":
            raise Refused(f"store {self._name}: key {rest[0]} is a {rest[1]} of another program: {_REMEDY}")
        if said == "headless":
            raise Refused(f"store {self._name} is damaged or another program's (see {rest[0]}): {_REMEDY}")
        schema = int(rest[0])
        if schema > SCHEMA:
            raise Refused(
                f"store {self._name} has schema version {schema}, and this release knows {SCHEMA}: "
                "run the release that wrote it, or restore a backup that was made before the upgrade"
            )
        for rung in RUNGS[schema - 1 :]:
            await self._link.run(rung, self._some(*_KEYS))
        return False

    async def _read(self, created: bool) -> Contents:
        try:
            loaded = packed.unpack_loaded(await self._ask(_LOAD, self._data_keys))
            self._read_at, self._group = Epoch(int(loaded.epoch)), int(loaded.group)
            return packed.contents(loaded, created=created)
        except (ValueError, msgspec.MsgspecError) as error:
            raise Refused(f"store {self._name} is damaged ({error}): {_REMEDY}") from error
        except (StoreBusy, ReplyLost) as error:
            raise Refused(str(error)) from error

    async def _keep(self) -> None:
        """Renew the lock, and look whether Redis still keeps what it confirms, until something is wrong."""
        while self._broken is None:
            await self._clock.sleep(self._lock_s / 3)
            try:
                await self._link.check()
                said, *rest = await self._link.run(_KEEP, self._some("lock"), self._token, self._lock_ms)
                self._done(said.decode(), rest)
            except (StoreBusy, ReplyLost) as error:
                self._complain("store lock not renewed", error)
            except (Refused, Fatal) as error:
                self._broken = _fatal(error)
                log.error("the store can no longer be written", reason=str(error))

    # How it is written.

    async def _fly(self, group: Sequence[Sequence[Write]]) -> Sequence[Verdict]:
        self._check_writable()
        verdicts: list[Verdict] = [None] * len(group)
        commits, places = [], []
        for place, writes in enumerate(group):
            try:
                commits.append(packed.commit(writes, self._epoch))
                places.append(place)
            except LeaseConflict as error:
                verdicts[place] = error
            except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
                verdicts[place] = Refused(f"store {self._name} rejects the write: {error}")
        if commits:
            for place, refusal in zip(places, await self._send(packed.group(commits)), strict=True):
                verdicts[place] = LeaseConflict(refusal) if refusal else None
        return verdicts

    async def _send(self, group: bytes) -> list[str]:
        args = (self._token, self._lock_ms, self._epoch, self._group + 1, self._index, group)
        said, *rest = await self._surely(_COMMIT, self._some(*_KEYS), *args)
        try:
            (told,) = self._done(said, rest)
        except (Refused, Fatal) as error:
            self._broken = error
            raise
        self._group += 1
        self._complaint = ""
        return packed.unpack_texts(told)

    async def _surely(self, script: Script, keys: Sequence[str], *args: str | int | bytes) -> list[Any]:
        """What the script said, asked again after a lost reply; it must tell a repetition by its arguments.

        Raises `StoreBusy` only if nothing was written, and `StoreBroken` if nobody can tell.
        """
        begun, lost = self._clock.monotonic(), False
        try:
            while True:
                try:
                    said, *rest = await self._link.run(script, keys, *args)
                    return [said.decode(), *rest]
                except StoreBusy as error:
                    if not lost:
                        raise
                    reason: Exception = error
                except ReplyLost as error:
                    lost, reason = True, error
                if self._clock.monotonic() - begun > self._patience_s:
                    raise StoreBroken(f"{reason}: start again; the daemon then reads what was kept")
                self._complain("asking the store again", reason)
                await self._clock.sleep(_AGAIN_S)
        except StoreBusy:
            raise
        except Exception as error:
            self._broken = _fatal(error)
            raise self._broken from error
        except BaseException as error:  # cancelled while the answer was awaited
            self._broken = _fatal(error)
            raise

    async def _prune_ledger(self, before: float) -> int:
        values = packed.unpack_texts(await self._ask(_VALUES, self._some("items")))
        rows = [(packed.ledger_row(value), value) for value in values]
        ended = [
            (row.item.key, value)
            for row, value in rows
            if row.retired_at is not None and row.retired_at < before
        ]
        total, keys = 0, self._some("meta", "lock", "items")
        for some in chunks(ended, _STEP):
            flat = [text for pair in some for text in pair]
            said, *rest = await self._ask(_FORGET, keys, self._token, self._epoch, *flat)
            total += self._done(said.decode(), rest)[0]
        return total

    async def _ask(self, script: Script, keys: Sequence[str], *args: str | int | bytes) -> Any:
        self._check_open()
        return await self._link.run(script, keys, *args)

    def _done(self, said: str, rest: Sequence[Any]) -> Sequence[Any]:
        """The rest of an answer that says `done`; what else it says is raised."""
        if said == "done":
            return rest
        found = rest[0].decode()
        if said == "epoch":
            raise Fenced(
                f"store {self._name} is at epoch {found}, this daemon writes as {self._epoch}: "
                "another daemon has taken over, or none has begun"
            )
        if said == "held":
            raise Fenced(f"store {self._name} was taken over by {found}: start this daemon again")
        raise StoreBroken(
            f"store {self._name} has forgotten what it confirmed (it knows {found or 'nothing'}, and this "
            f"daemon group {self._group}): {_REMEDY}"
        )

    def _complain(self, what: str, error: Exception) -> None:
        """Log it, once for as long as the reason stays the same."""
        if str(error) != self._complaint:
            self._complaint = str(error)
            log.warning(what, reason=self._complaint)

    def _check_open(self) -> None:
        if not self._token:
            raise Refused(f"store {self._name} is not open")

    def _check_writable(self) -> None:
        self._check_open()
        if self._broken is not None:
            raise self._broken
        if self._epoch == NO_EPOCH:
            raise Fenced(f"store {self._name}: this daemon has not begun an epoch")


def _fatal(error: BaseException) -> MooringError:
    """The error, if it ends a daemon; else one that does."""
    if isinstance(error, Fatal):
        return error
    return StoreBroken(f"{error or type(error).__name__}: start again; the daemon then reads what was kept")
