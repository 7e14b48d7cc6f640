"""Who waits for an address of a pool: first come, first served.

An address that becomes free goes to whoever has waited for it the longest, so that nobody starves while
others come and go.  Nobody is handed an address here: those who wait ask again, by themselves or because they
were woken, and are told how many wait before them; the book leaves as many addresses untouched.  Who has not
asked for a while (its app is paused) keeps the place, but holds up nobody; nor does who is not `in_turn`,
because only certain addresses would help it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from mooring.core.model import AppId, BindingId, PoolName

AGAIN_S = 20.0  # those who wait ask at least as often
_PRESENT_S = 3 * AGAIN_S


@dataclass(slots=True)
class _Place:
    app: AppId
    asked: float
    in_turn: bool


class Lines:
    """One line for each pool. Times are seconds of a clock that never jumps."""

    def __init__(self) -> None:
        self._lines: dict[PoolName, dict[BindingId, _Place]] = {}
        self._pool_of: dict[BindingId, PoolName] = {}

    def ask(self, key: BindingId, app: AppId, pool: PoolName, now: float, *, in_turn: bool = True) -> None:
        """Stand in line for the pool, or go on standing there; in one line at a time."""
        if self._pool_of.get(key) != pool:
            self.leave(key)
            self._pool_of[key] = pool
        found = self._lines.setdefault(pool, {}).setdefault(key, _Place(app, now, in_turn))
        found.asked, found.in_turn = now, in_turn

    def leave(self, key: BindingId) -> None:
        """Wait no longer; no error for somebody who did not."""
        pool = self._pool_of.pop(key, None)
        if pool is not None:
            del self._lines[pool][key]
            if not self._lines[pool]:
                del self._lines[pool]

    def __contains__(self, key: object) -> bool:
        return key in self._pool_of

    def ahead(self, key: BindingId, pool: PoolName, now: float, most: int) -> int:
        """How many wait for the pool and came before; counted up to `most`. A newcomer has all before it."""
        before = 0
        for other in self._present(pool, now):
            if other == key or before >= most:
                break
            before += 1
        return before

    def first(self, pool: PoolName, count: int, now: float) -> list[BindingId]:
        """Those whose turn it is when so many addresses can be given out."""
        return list(islice(self._present(pool, now), count))

    def first_of_app(self, app: AppId) -> list[BindingId]:
        """Who of that app has waited the longest, for any pool; [] if nobody waits."""
        keys = (key for line in self._lines.values() for key, place in line.items() if place.app == app)
        return list(islice(keys, 1))

    def lengths(self) -> Mapping[PoolName, int]:
        """How many wait, for each pool with anybody waiting."""
        return {pool: len(line) for pool, line in self._lines.items()}

    def _present(self, pool: PoolName, now: float) -> Iterator[BindingId]:
        line = self._lines.get(pool, {})
        return (key for key, place in line.items() if place.in_turn and now - place.asked <= _PRESENT_S)
