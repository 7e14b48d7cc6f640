"""Who had an address at a time, read from the history; and the history kept as long as it is wanted.

A note says whose the address is from its time on, until the next note about it.  Possession goes on over
notes that leave it in the same instance's hand (it moved, its host was silent); it began with the first of
them and ends with the next note after them.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Retryable
from mooring.core.store import HistoryQuery, Note, Store

log = structlog.get_logger(__name__)

_IN_HAND = frozenset({"bound", "moved", "adopted", "stranded"})
_PAGE = 1000
_PRUNE_EVERY_S = 3600.0


class Tenure(msgspec.Struct, frozen=True):
    """In whose hand an address was at a time. `holder` is None while the history does not reach so far."""

    address: str
    at: float  # the time that was asked for, Unix seconds
    holder: bool | None  # whether an instance had it
    note: Note | None = None  # the newest at that time: who, where, which state
    since: float | None = None  # since when it was so
    why: str = ""  # the reason given then
    until: float | None = None  # when that ended; None: it is still so
    begins: float | None = None  # where the history of this address begins, if that is later than `at`


async def tenure(store: Store, address: str, at: float) -> Tenure:
    """Who had the address at that time."""
    limit = _PAGE
    while True:
        notes = await store.history(HistoryQuery(address, limit=limit))
        found = judge(address, at, notes)
        if len(notes) < limit or (found.since is not None and notes[-1].at < found.since):
            return found
        limit *= 8  # so far back that the page did not show where it began


def judge(address: str, at: float, notes: Sequence[Note]) -> Tenure:
    """The same from the address's notes, the newest first."""
    current = next((place for place, note in enumerate(notes) if note.at <= at), None)
    if current is None:
        return Tenure(address, at, None, begins=notes[-1].at if notes else None)
    first = last = current
    while first + 1 < len(notes) and _same_hand(notes[first + 1], notes[current]):
        first += 1
    while last > 0 and _same_hand(notes[last - 1], notes[current]):
        last -= 1
    until = notes[last - 1].at if last > 0 else None
    held = notes[current].event in _IN_HAND
    return Tenure(address, at, held, notes[current], notes[first].at, notes[first].reason, until)


def _same_hand(one: Note, other: Note) -> bool:
    return {one.event, other.event} <= _IN_HAND and one.instance == other.instance


async def keep_history(store: Store, clock: Clock, keep_s: float) -> None:
    """Forget what is older than that, again and again. Ends only by cancellation or a fatal error."""
    while True:
        try:
            gone = await store.prune(clock.now() - keep_s)
            if gone:
                log.info("history pruned", entries=gone)
        except Retryable as error:
            log.warning("history not pruned", reason=str(error))
        await clock.sleep(_PRUNE_EVERY_S)
