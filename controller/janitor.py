"""What time alone changes: cooled addresses become free, empty seats of deleted apps cool, their labels go.

Runs at a fixed beat.  An app counts as deleted when the view knows no such app any more: that its deletion
was announced, or that two listings agree, is the view's to judge, also for an app without a single instance.
Its addresses then still cool for their full time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from mooring.controller.view import View
from mooring.core.clock import Clock
from mooring.core.errors import Fatal, Retryable
from mooring.core.model import AppId
from mooring.core.store import Write
from mooring.handlers.records import Records

log = structlog.get_logger(__name__)

BEAT_S = 2.0


class Janitor:
    """Keeps the lease book tidy."""

    def __init__(
        self,
        records: Records,
        view: View,
        clock: Clock,
        claimed: Callable[[], Iterable[AppId]],
        forget_app: Callable[[AppId], None],
        tidied: Callable[[], None] = lambda: None,
        may_tidy: Callable[[], bool] = lambda: True,
    ) -> None:
        """`claimed` tells whose labels are kept; `forget_app` is told of every app that has no trace left.

        `tidied` is called after each beat: addresses may have become free.  `may_tidy`: whether the store is
        known to be the newest word on its leases.
        """
        self._records = records
        self._view = view
        self._clock = clock
        self._claimed = claimed
        self._forget_app = forget_app
        self._tidied = tidied
        self._may_tidy = may_tidy

    async def run(self) -> None:
        """Tidy up again and again."""
        while True:
            await self._clock.sleep(BEAT_S)
            if not self._may_tidy():
                continue
            try:
                await self.tidy()
            except Retryable as error:
                log.warning("not tidied up", reason=str(error))
            except Fatal:
                raise  # another daemon has taken over
            except Exception as error:
                # The next beat tries again; an exception here must not end the daemon.
                log.exception("tidying up failed", error=repr(error))

    async def tidy(self) -> None:
        """One beat: expire what is due, retire the seats of deleted apps."""
        while await self._expire():
            pass  # a part at a time: others want to commit as well
        async with self._records.changing():
            now = self._clock.now()
            for app in self._deleted_apps():
                writes: list[Write] = self._records.book.plan_retire_app(app, now)
                await self._records.commit(writes)
                self._forget_app(app)
                log.info("app is gone; its seats cool", app=app)
        self._tidied()

    async def _expire(self) -> bool:
        """Whether anything was due."""
        async with self._records.changing():
            writes = self._records.book.plan_expire(self._clock.now())
            await self._records.commit(writes)
        return bool(writes)

    def _deleted_apps(self) -> set[AppId]:
        if not self._view.complete:
            return set()
        kept = self._records.book.idle_apps() | set(self._claimed())
        gone = {app for app in kept if not self._view.knows(app)}
        return {app for app in gone if not self._records.of_app(app)}
