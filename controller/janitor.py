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
from mooring.core.errors import Retryable
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
    ) -> None:
        """`claimed` tells whose labels are kept; `forget_app` is told of every app that has no trace left."""
        self._records = records
        self._view = view
        self._clock = clock
        self._claimed = claimed
        self._forget_app = forget_app

    async def run(self) -> None:
        """Tidy up again and again."""
        while True:
            await self._clock.sleep(BEAT_S)
            try:
                await self.tidy()
            except Retryable as error:
                log.warning("not tidied up", reason=str(error))
            except Exception as error:
                # The next beat tries again; an exception here must not end the daemon.
                log.exception("tidying up failed", error=str(error))

    async def tidy(self) -> None:
        """One beat: expire what is due, retire the seats of deleted apps."""
        async with self._records.changing():
            now = self._clock.now()
            await self._records.commit(self._records.book.plan_expire(now))
            for app in self._deleted_apps():
                writes: list[Write] = self._records.book.plan_retire_app(app, now)
                await self._records.commit(writes)
                self._forget_app(app)
                log.info("app is gone; its seats cool", app=app)

    def _deleted_apps(self) -> set[AppId]:
        if not self._view.complete:
            return set()
        kept = self._records.book.idle_apps() | set(self._claimed())
        gone = {app for app in kept if not self._view.knows(app)}
        return {app for app in gone if not self._records.of_app(app)}
