"""Marathon, watched: the stream and the listings feed the view, the view marks keys in the queue.

Three things happen here, all of them through `mark`, so there is one way from a fact to the queue:

  * every event is merged at once and its instance is queued as LIVE;
  * an app that an event left unclear is fetched alone, a moment later (several events, one request);
  * a snapshot is taken when the stream is attached, when something was lost, and on a timer.  It queues
    as RESYNC, behind everything that just happened, every key that is not in step with it, and a share
    of the others: within `_ROUNDS` snapshots everything has been looked at again, come what may.

A snapshot of a large Marathon is merged in small steps, between which events are merged and workers run.
A listing, had or not, is followed by a rest of twice the time it took, ten seconds at most, which only a new
attachment cuts short.  A listing that cannot be had is tried again with jitter; the reason shows in readiness
until it can.  From another cluster's Marathon neither listings nor events are taken.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Protocol
from zlib import crc32

import structlog

from mooring.cext import Frame
from mooring.controller.events import Event
from mooring.controller.intake import Intake
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.queue import Priority, WorkQueue
from mooring.controller.snapshot import Marathon, OtherCluster
from mooring.controller.view import Dirty, View
from mooring.core.clock import Clock, full_jitter
from mooring.core.errors import Fatal, Refused, Retryable
from mooring.core.model import App, AppId, BindingId

log = structlog.get_logger(__name__)

REFRESH_WINDOW_S = 0.03  # events of one deployment step come together
_MANY_APPS = 20  # more than these, and more than a tenth of all, are cheaper in one snapshot
_RETRY_S, _RETRY_CAP_S = 0.25, 8.0
_GAP_S = 0.5  # between two snapshots, so that a stream full of rubbish does not become a load on Marathon
_REST, _REST_CAP_S = 2.0, 10.0  # times what the last listing took
_ROUNDS = 16
_SLICE = 500  # keys


class Readers(Protocol):
    """Who reads the labels of apps before anybody acts on them."""

    def know(self, apps: Iterable[AppId]) -> None:
        """All these apps exist."""

    def see(self, apps: Iterable[AppId], app: Callable[[AppId], App | None]) -> Iterator[None]:
        """Read them, a few at each step; `app` has the newest definition of each."""


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
        in_step: Callable[[BindingId], bool] = lambda key: False,
        readers: Readers | None = None,
        snapshot_ended: Callable[[str], None] = lambda result: None,
    ) -> None:
        """`heard` is told of every changed instance; `stored_keys` lists the bindings, for a resync.

        `in_step`: whether a worker would find nothing to do for the key.
        """
        self._view = view
        self._marathon = marathon
        self._queue = queue
        self._clock = clock
        self._chance = chance
        self._every_s = snapshot_every_s
        self._heard = heard
        self._stored_keys = stored_keys
        self._in_step = in_step
        self._readers = readers
        self._snapshot_ended = snapshot_ended
        self._snapshot_due = asyncio.Event()
        self._attached_anew = asyncio.Event()
        self._unclear: set[AppId] = set()
        self._refresh_due = asyncio.Event()
        self._refreshing: asyncio.Task[Mapping[AppId, AppListing | Retryable]] | None = None
        self.complete = asyncio.Event()  # the first snapshot has been merged
        self.intake = Intake(self._merge_event, self.lost)
        self.snapshot_at: float | None = None  # monotonic seconds
        self.snapshots = 0  # that have been merged
        self._brake: str | None = None  # the reason that was logged last
        self._foreign = False  # whom we hear is another cluster, whose events are none of ours
        self.snapshot_problem = ""
        self.unreadable: Mapping[AppId, str] = {}  # apps in the newest snapshot, and why they cannot be read
        self.last_event_at: float | None = None  # Unix seconds

    # -- the stream's listener

    def attached(self) -> None:
        self._view.attached(self._clock.monotonic())
        self._snapshot_due.set()
        self._attached_anew.set()
        if self._refreshing is not None:
            self._refreshing.cancel()  # the snapshot says as much, and this may hang where the stream did

    def event(self, frame: Frame) -> None:
        self.last_event_at = self._clock.now()
        if not self._foreign:
            self.intake.take(frame)

    def lost(self, reason: str) -> None:
        self._view.lost(self._clock.monotonic())
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
            asked = self._clock.monotonic()
            problem = await self._take_snapshot()
            pause = 0.0
            if problem:
                pause = full_jitter(_RETRY_S, attempt, _RETRY_CAP_S, self._chance)
                self._snapshot_due.set()
            attempt = attempt + 1 if problem else 0
            await self._clock.sleep(_GAP_S)
            await self._sleep_until_attached(max(pause, self._rest_after(asked)))

    async def _take_snapshot(self) -> str:
        """One snapshot, merged; or what was in the way."""
        try:
            await self._merge(await self._newest_snapshot())
        except Fatal:
            raise
        except (Retryable, Refused) as error:
            self._foreign = self._foreign or isinstance(error, OtherCluster)
            self._snapshot_ended("discarded" if isinstance(error, Refused) else "failed")
            log.warning("no snapshot", reason=str(error))
            self.snapshot_problem = str(error)
        except Exception as error:
            # A defect of ours costs this snapshot, not the daemon: the next one may not meet it.
            log.exception("a defect; no snapshot", error=repr(error))
            self._snapshot_ended("failed")
            self.snapshot_problem = f"a defect: {type(error).__name__}: {error}"
        else:
            self.snapshot_problem = ""
        return self.snapshot_problem

    def _rest_after(self, asked: float) -> float:
        """Seconds to leave Marathon alone after a listing that was asked for then."""
        return min(_REST * (self._clock.monotonic() - asked), _REST_CAP_S)

    async def _newest_snapshot(self) -> Snapshot:
        """A listing, begun anew if the stream is attached meanwhile.

        What was begun before the attachment does not tell what was missed, and may hang where the stream
        hung.  Only once, so that a stream that comes and goes cannot keep every listing from its end.
        """
        self._attached_anew.clear()
        first = asyncio.ensure_future(self._marathon.snapshot())
        attached = asyncio.ensure_future(self._attached_anew.wait())
        try:
            await asyncio.wait((first, attached), return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                return first.result()
        finally:
            first.cancel()
            attached.cancel()
        await asyncio.gather(first, return_exceptions=True)
        self._snapshot_due.clear()
        self._attached_anew.clear()
        return await self._marathon.snapshot()

    async def _sleep_until_attached(self, seconds: float) -> None:
        """Sleep; a new attachment ends it, because whatever was missed before it is not known yet."""
        sleep = asyncio.ensure_future(self._clock.sleep(seconds))
        attached = asyncio.ensure_future(self._attached_anew.wait())
        try:
            await asyncio.wait((sleep, attached), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleep.cancel()
            attached.cancel()

    async def _merge(self, snapshot: Snapshot) -> None:
        self._note_unreadable(snapshot.unreadable)
        if self._foreign:
            self._foreign = False
            self.lost("of another cluster")  # events were passed over until this very moment
        if self._readers is not None:
            self._readers.know(snapshot.apps)
        for dirty in self._view.merge_snapshot(snapshot, self._clock.monotonic):
            self.mark(dirty)
            await asyncio.sleep(0)
        if self._readers is not None:
            for _ in self._readers.see([app.id for app in self._view.apps()], self._view.app):
                await asyncio.sleep(0)
        await self._resync()
        self.snapshot_at = self._clock.monotonic()
        self.snapshots += 1
        self.complete.set()
        self._snapshot_ended("merged")

    def _note_unreadable(self, unreadable: Mapping[AppId, str]) -> None:
        for app, reason in unreadable.items():
            if self.unreadable.get(app) != reason:
                log.error("app unreadable; it is left as it was", app=app, reason=reason)
        self.unreadable = unreadable

    async def _resync(self) -> None:
        keys = {BindingId(instance.id): None for instance in self._view.instances()}
        keys.update(dict.fromkeys(self._stored_keys()))
        everything, turn = not self.complete.is_set(), self.snapshots % _ROUNDS
        remaining = iter(keys)
        while some := list(islice(remaining, _SLICE)):
            for key in some:
                if everything or crc32(key.encode()) % _ROUNDS == turn or not self._in_step(key):
                    self._queue.add(key, Priority.RESYNC)
            await asyncio.sleep(0)

    async def _refresh_apps(self) -> None:
        rests_until = 0.0
        while True:
            await self._refresh_due.wait()
            await self._clock.sleep(max(REFRESH_WINDOW_S, rests_until - self._clock.monotonic()))
            self._refresh_due.clear()
            apps, self._unclear = self._unclear, set()
            if len(apps) > max(_MANY_APPS, len(self._view.apps()) // 10):
                self._snapshot_due.set()
                continue
            asked = self._clock.monotonic()
            await self._refresh(sorted(apps))
            rests_until = self._clock.monotonic() + self._rest_after(asked)

    async def _refresh(self, apps: Sequence[AppId]) -> None:
        self._refreshing = asyncio.create_task(self._marathon.apps(apps))
        try:
            await asyncio.wait((self._refreshing,))
        finally:
            self._refreshing.cancel()
        if self._refreshing.cancelled():
            return  # at an attachment, which brings a snapshot
        try:
            self._apply(self._refreshing.result())
        except Fatal:
            raise
        except Exception as error:
            expected = isinstance(error, Retryable | Refused)
            (log.warning if expected else log.exception)("no listing of apps", apps=apps, reason=str(error))
            self._snapshot_due.set()

    def _apply(self, listings: Mapping[AppId, AppListing | Retryable]) -> None:
        for app, listing in listings.items():
            if isinstance(listing, AppListing):
                self.mark(self._view.apply_app(listing, self._clock.monotonic()))
            else:
                log.warning("no listing of an app", app=app, reason=str(listing))
                self._snapshot_due.set()

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
        if self._view.brake != self._brake:
            self._note_brake()

    def _note_brake(self) -> None:
        self._brake = self._view.brake
        if self._brake is None:
            log.info("brake is off")
        else:
            log.warning("brake is on", reason=self._brake, held=len(self._view.held))
