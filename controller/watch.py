"""Marathon, watched: the stream and the listings feed the view, the view marks keys in the queue.

Three things happen here, all of them through `mark`, so there is one way from a fact to the queue:

  * every event is merged at once and its instance is queued as LIVE;
  * an app that an event left unclear is fetched alone, a moment later (several events, one request);
  * a snapshot is taken when the stream is attached, when something was lost, and on a timer.  It queues
    every key as RESYNC, behind everything that just happened.

A listing that cannot be had is tried again with jitter; the reason shows in readiness until it can.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable

import structlog

from mooring.cext import Frame
from mooring.controller.events import Event, Intake
from mooring.controller.queue import Priority, WorkQueue
from mooring.controller.snapshot import Marathon
from mooring.controller.view import Dirty, View
from mooring.core.clock import Clock, full_jitter
from mooring.core.errors import Refused, Retryable
from mooring.core.model import AppId, BindingId

log = structlog.get_logger(__name__)

REFRESH_WINDOW_S = 0.03  # events of one deployment step come together
_MANY_APPS = 20  # from here on one snapshot is cheaper than single listings
_RETRY_S, _RETRY_CAP_S = 0.25, 8.0
_GAP_S = 0.5  # between two snapshots, so that a stream full of rubbish does not become a load on Marathon


class Watch:
    """Keeps the view true. Also the listener of the stream reader."""

    def __init__(
        self,
        view: View,
        marathon: Marathon,
        queue: WorkQueue[BindingId],
        clock: Clock,
        chance: random.Random,
        snapshot_every_s: float,
        *,
        heard: Callable[[BindingId], None],
        stored_keys: Callable[[], Iterable[BindingId]],
        snapshot_ended: Callable[[str], None] = lambda result: None,
    ) -> None:
        """`heard` is told of every changed instance; `stored_keys` lists the bindings, for a resync."""
        self._view = view
        self._marathon = marathon
        self._queue = queue
        self._clock = clock
        self._chance = chance
        self._every_s = snapshot_every_s
        self._heard = heard
        self._stored_keys = stored_keys
        self._snapshot_ended = snapshot_ended
        self._snapshot_due = asyncio.Event()
        self._unclear: set[AppId] = set()
        self._refresh_due = asyncio.Event()
        self.complete = asyncio.Event()  # the first snapshot has been merged
        self.intake = Intake(self._merge_event, self.lost)
        self.snapshot_at: float | None = None  # monotonic seconds
        self.snapshot_problem = ""
        self.last_event_at: float | None = None  # Unix seconds

    # -- the stream's listener

    def attached(self) -> None:
        self._view.attached()
        self._snapshot_due.set()

    def event(self, frame: Frame) -> None:
        self.last_event_at = self._clock.now()
        self.intake.take(frame)

    def lost(self, reason: str) -> None:
        self._snapshot_due.set()

    def detached(self, reason: str) -> None:
        """Nothing to do: the next attachment asks for a snapshot."""

    # -- listings

    async def run(self) -> None:
        """Take listings whenever they are due, until cancelled."""
        self._snapshot_due.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_snapshots(), name="snapshots")
            group.create_task(self._refresh_apps(), name="app listings")
            group.create_task(self._beat(), name="snapshot timer")

    async def _beat(self) -> None:
        while True:
            await self._clock.sleep(self._every_s)
            self._snapshot_due.set()

    async def _take_snapshots(self) -> None:
        attempt = 0
        while True:
            await self._snapshot_due.wait()
            self._snapshot_due.clear()
            try:
                snapshot = await self._marathon.snapshot()
            except (Retryable, Refused) as error:
                self.snapshot_problem = str(error)
                self._snapshot_ended("discarded" if isinstance(error, Refused) else "failed")
                log.warning("no snapshot", reason=str(error))
                await self._clock.sleep(full_jitter(_RETRY_S, attempt, _RETRY_CAP_S, self._chance))
                attempt += 1
                self._snapshot_due.set()
                continue
            attempt = 0
            self.snapshot_problem = ""
            self.snapshot_at = self._clock.monotonic()
            self.mark(self._view.apply_snapshot(snapshot, self._clock.monotonic()))
            self._resync()
            self.complete.set()
            self._snapshot_ended("merged")
            await self._clock.sleep(_GAP_S)

    def _resync(self) -> None:
        keys = {BindingId(instance.id) for instance in self._view.instances()}
        for key in sorted(keys.union(self._stored_keys())):
            self._queue.add(key, Priority.RESYNC)

    async def _refresh_apps(self) -> None:
        while True:
            await self._refresh_due.wait()
            await self._clock.sleep(REFRESH_WINDOW_S)
            self._refresh_due.clear()
            apps, self._unclear = self._unclear, set()
            if len(apps) > _MANY_APPS:
                self._snapshot_due.set()
                continue
            await asyncio.gather(*(self._refresh(app) for app in sorted(apps)))

    async def _refresh(self, app: AppId) -> None:
        try:
            listing = await self._marathon.app(app)
        except (Retryable, Refused) as error:
            log.warning("no listing of an app", app=app, reason=str(error))
            self._snapshot_due.set()
            return
        self.mark(self._view.apply_app(listing, self._clock.monotonic()))

    # -- into the queue

    def _merge_event(self, event: Event) -> None:
        self.mark(self._view.apply_event(event, self._clock.monotonic()))

    def mark(self, dirty: Dirty) -> None:
        """Queue what an update changed; have fetched what it left unclear."""
        for key in sorted(dirty.keys):
            self._heard(BindingId(key))
            self._queue.add(BindingId(key), Priority.LIVE)
        if dirty.apps_to_refresh:
            self._unclear |= dirty.apps_to_refresh
            self._refresh_due.set()
        if dirty.snapshot_due:
            self._snapshot_due.set()
