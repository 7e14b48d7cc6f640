"""What Marathon says: every instance and app, merged from the stream and from listings.

`entry` is one instance, `merge` has the rules for it, `definitions` those for apps, `index` finds entries,
and `brake` judges what is missing.  Here facts are handed to them, and here it is decided what it means that
an instance is missing from a listing that began after the last fact about it:

    with evidence (ended, inactive, terminal condition, app terminated)   GONE at once
    without                                                               GONE when a second listing, at
                                                                          least `absence_confirm_s` later,
                                                                          agrees
    without, and the brake is on                                          held, until `release()`
    without, but its app is being deleted, and since that was said
      the stream was interrupted                                          as the second row, brake or not,
                                                                          for listings begun after that
      it was not: its end is still to be told                             the same after ten times as long

An event about the instance that comes between the two listings makes the second the first.  Apps are missed
in the same way (`definitions`): the seats of an app that is merely absent are kept.

A GONE instance stays until `forget(id)`; after that it is remembered unseen for ten minutes, so that a
late echo on the stream does not raise it again.

A snapshot of fifty thousand instances takes longer to merge than the event loop may be kept waiting, so
`merge_snapshot` goes in steps.  Between two of them anything else may happen to the view: what was touched
after the snapshot began is not overridden by it, an app that was listed alone by a later request is left
out, and absences are collected, to be looked at once more and judged together when all has been merged.

Everything here is synchronous and free of effects; `now` and `begun` are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence

import msgspec
from msgspec.structs import replace

from mooring.controller.brake import Absence, Brake, Limits, judge
from mooring.controller.definitions import Definitions
from mooring.controller.entry import Checks, Entry, Fact, Unlisted, Vanished, blank, confirmed
from mooring.controller.events import (
    AppsChanged,
    AppTerminated,
    Event,
    HealthReported,
    InstanceReported,
    SchedulerChanged,
    TaskReported,
)
from mooring.controller.index import Index
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.merge import merge
from mooring.core.model import App, AppId, Instance, InstanceId, State

_APP_LOAD = 10  # what an app costs beside its instances, in instances
_PATIENCE = 10  # times `absence_confirm_s`: an end that was announced and not told until then was missed
_UNLISTED, _VANISHED = Unlisted(), Vanished()


class Dirty(msgspec.Struct):
    """What an update changed, and what it left unclear."""

    keys: set[InstanceId] = msgspec.field(default_factory=set)  # instances that read differently now
    apps_to_refresh: set[AppId] = msgspec.field(default_factory=set)  # a listing begun from now on is wanted
    snapshot_due: bool = False

    def merge(self, other: Dirty) -> None:
        """Add everything of `other`."""
        self.keys |= other.keys
        self.apps_to_refresh |= other.apps_to_refresh
        self.snapshot_due = self.snapshot_due or other.snapshot_due

    def take(self) -> Dirty:
        """Everything up to now, leaving nothing here."""
        taken = Dirty(self.keys, self.apps_to_refresh, self.snapshot_due)
        self.keys, self.apps_to_refresh, self.snapshot_due = set(), set(), False
        return taken


class View:
    """The picture, and the ways facts enter it."""

    def __init__(
        self,
        *,
        absence_confirm_s: float = 60.0,
        brake_share: float = 0.3,
        brake_least: int = 10,
        step: int = 200,
    ) -> None:
        """Hold when more than `brake_share` of at least `brake_least` instances are absent at once.

        `step`: how many instances of a snapshot are merged before others get a turn.
        """
        self._confirm_s = absence_confirm_s
        self._limits = Limits(brake_share, brake_least)
        self._step = step
        self._index = Index()
        self._apps = Definitions()
        self._attachment = 0
        self._interrupted = float("-inf")  # when events were last missed, or may have been
        self._brake: Brake | None = None
        self._merging = False
        self._confirmed: dict[InstanceId, float] = {}  # absent twice, with the second listing's begin
        self._confirmed_apps: dict[AppId, float] = {}  # the same for apps
        self._now = float("-inf")  # the latest moment we were told of
        self.complete = False  # a snapshot has been merged since the start

    # -- what there is

    def instance(self, id: InstanceId) -> Instance | None:
        """The instance as last described."""
        return self._index.instance(id)

    def app(self, id: AppId) -> App | None:
        """The app's newest known definition."""
        return self._apps.get(id)

    def is_deleted(self, app: AppId) -> bool:
        """Whether the app is no more. While it is merely absent from a listing, it is not deleted."""
        return self._apps.is_deleted(app)

    def knows(self, app: AppId) -> bool:
        """Whether there is such an app, or nothing proves yet that there is none."""
        return self._apps.knows(app)

    def instances_of(self, app: AppId) -> Sequence[Instance]:
        """The app's instances, GONE ones included until they are forgotten."""
        found = (self._index.instance(id) for id in self._index.members(app))
        return [instance for instance in found if instance is not None]

    def apps(self) -> Sequence[App]:
        """All apps."""
        return self._apps.all()

    def instances(self) -> Sequence[Instance]:
        """All instances, GONE ones included until they are forgotten."""
        return self._index.instances()

    @property
    def brake(self) -> str | None:
        """Why absent instances are held, None while the brake is off. The text changes only for the worse."""
        return None if self._brake is None else self._brake.reason

    @property
    def brake_since(self) -> float | None:
        """When the brake went on."""
        return None if self._brake is None else self._brake.since

    @property
    def held(self) -> frozenset[InstanceId]:
        """The instances that the brake keeps from being GONE."""
        return frozenset(self._index.held)

    @property
    def held_apps(self) -> frozenset[AppId]:
        """The apps that the brake keeps from being deleted."""
        return frozenset(self._apps.held)

    # -- what we do

    def restore(self, instances: Iterable[Instance], apps: Iterable[AppId] = ()) -> None:
        """Take up what was bound before a restart, so that its absence is judged like any other's.

        `apps`: those that have seats, even if none of their instances is bound.
        """
        for app in apps:
            self._apps.remember(app)
        for instance in instances:
            self._apps.remember(instance.app)
            known = self._entry(instance.id, instance.app)
            self._index.put(known, replace(known, instance=instance, verdict=instance.health))

    def attached(self, now: float) -> None:
        """A new attachment to the stream: stamps from before it, perhaps another leader's, are void."""
        self._attachment += 1
        self._interrupted = now

    def lost(self, now: float) -> None:
        """Something on the stream was lost: what was announced may have happened unheard."""
        self._interrupted = now

    def forget(self, id: InstanceId) -> None:
        """Nothing is left to be done for a GONE instance."""
        instance = self._index.instance(id)
        if instance is not None and instance.state is State.GONE:
            self._index.forget(id, self._now)
            self._drop_if_empty(instance.app)

    def release(self, now: float) -> Dirty:
        """An operator confirms the absence of what is held: it is GONE at once.

        What Marathon spoke of after it was first absent is not: its absence has to show anew.
        """
        dirty = Dirty()
        self._now = now
        self._brake = None
        for app in self._apps.release():
            self._drop_if_empty(app)
        for id in list(self._index.held):
            self._merge_known(id, _VANISHED, now, dirty)
        return dirty

    # -- events

    def apply_event(self, event: Event, now: float) -> Dirty:
        """Merge one fact from the stream."""
        dirty = Dirty()
        self._now = now
        match event:
            case TaskReported() | InstanceReported() | HealthReported():
                if not self._apps.is_pod(event.app):
                    self._apply_report(event, now, dirty)
            case AppTerminated():
                if self._apps.leave(event.app, now):
                    dirty.apps_to_refresh.add(event.app)
                for id in list(self._index.members(event.app)):
                    self._merge_known(id, event, now, dirty)
            case AppsChanged():
                self._apps.note(event.apps, event.pods, now)
                for app in event.stopped:
                    self._apps.leave(app, now)
                for app in event.kept:
                    self._apps.keep(app)
                dirty.apps_to_refresh.update(event.apps)
            case SchedulerChanged():
                dirty.snapshot_due = True
        return dirty

    def _apply_report(
        self, event: TaskReported | InstanceReported | HealthReported, now: float, dirty: Dirty
    ) -> None:
        known = self._index.get(event.instance)
        if isinstance(event, HealthReported) or event.state is not State.DEAD:
            self._apps.hear(event.app, now)
        if isinstance(event, TaskReported):
            entry = self._merge(known or self._entry(event.instance, event.app), event, now, dirty)
            if self._apps.get(event.app) is None and not entry.gone:
                dirty.apps_to_refresh.add(event.app)
        elif known is not None:
            self._merge(known, event, now, dirty)
        elif not (isinstance(event, InstanceReported) and event.state in (State.STARTING, State.DEAD)):
            # Until a task was reported there is nothing to wire; and later than that, its report was missed.
            dirty.apps_to_refresh.add(event.app)

    # -- listings

    def apply_app(self, listing: AppListing, now: float) -> Dirty:
        """Merge the listing of one app, or that Marathon has no such app."""
        dirty = Dirty()
        self._now = now
        for _ in self._merge_listing(listing, dirty):
            pass
        if not self._merging:
            for _ in self._judge(now, dirty):
                pass
        return dirty

    def apply_snapshot(self, snapshot: Snapshot, now: float) -> Dirty:
        """Merge a complete listing at once. Only what it changed is dirty; a resync takes `instances()`."""
        dirty = Dirty()
        for step in self.merge_snapshot(snapshot, lambda: now):
            dirty.merge(step)
        return dirty

    def merge_snapshot(self, snapshot: Snapshot, monotonic: Callable[[], float]) -> Iterator[Dirty]:
        """Merge a complete listing in steps; yields what each of them changed.

        Between two steps the view may be read and anything else be merged into it, except another snapshot.
        The brake is judged when all is merged; `complete` is set with the last step.  Abandoned earlier, the
        view keeps what was merged, each part of which is true, and judges no more: a snapshot is due again.
        """
        assert not self._merging, "one snapshot at a time: the one before has not ended"
        self._merging = True
        dirty, load = Dirty(), 0
        try:
            for added in self._merge_parts(snapshot, dirty, monotonic):
                load += added
                if load >= self._step:
                    load = 0
                    yield dirty.take()
        finally:
            self._merging = False
            self._confirmed.clear()
            self._confirmed_apps.clear()
        self._index.drop_echoes(self._now)
        self.complete = True
        yield dirty

    def _merge_parts(self, snapshot: Snapshot, dirty: Dirty, monotonic: Callable[[], float]) -> Iterator[int]:
        """Merge the parts of a snapshot; yields, after each small piece, how much work it was."""
        begun = snapshot.begun
        self._apps.list_pods(snapshot.pods, begun)
        for listing in snapshot.apps.values():
            yield _APP_LOAD
            yield from self._merge_listing(listing, dirty)
        in_pods = {id for members in snapshot.pods.values() for id in members}
        known = dict.fromkeys((*self._index.apps(), *self._apps.ids()))
        self._apps.list_all(begun)
        for app in known:
            if app not in snapshot.apps and app not in snapshot.unreadable:
                yield _APP_LOAD
                lacking = AppListing(app, None, (), begun)
                yield from self._merge_listing(lacking, dirty, in_pods)
        self._now = monotonic()
        yield from self._judge(self._now, dirty, empty=_is_empty(snapshot))

    def _merge_listing(
        self, listing: AppListing, dirty: Dirty, in_pods: Container[InstanceId] = ()
    ) -> Iterator[int]:
        """Merge the listing of one app; yields as `_merge_parts` does.

        Instances in `in_pods` are there although the listing does not name them.  A newer listing of the
        app that comes in between puts an end to this one.
        """
        id, begun = listing.id, listing.begun
        if not self._apps.is_newest(id, begun):
            return
        self._apps.list(id, begun)
        changed = False
        if listing.app is not None:
            changed = self._apps.define(listing.app, begun)
        else:
            self._apps.lack(id, begun)
            if self._apps.confirmed(id, begun, self._confirm_s):
                self._confirmed_apps[id] = begun
        for _ in self._merge_members(listing, dirty, in_pods, changed=changed):
            yield 1
            if not self._apps.is_newest(id, begun):
                return
        self._drop_if_empty(id)

    def _merge_members(
        self, listing: AppListing, dirty: Dirty, in_pods: Container[InstanceId], *, changed: bool
    ) -> Iterator[None]:
        begun = listing.begun
        if changed and listing.app is not None:
            checks = Checks(listing.app.checked)
            for id in list(self._index.members(listing.id)):
                self._merge_known(id, checks, begun, dirty)
                dirty.keys.add(id)
                yield
        listed = set()
        for instance in listing.instances:
            self._merge(self._entry(instance.id, instance.app), instance, begun, dirty)
            listed.add(instance.id)
            yield
        unlisted, confirm_s = self._meaning_of_absence(listing)
        for id in list(self._index.members(listing.id)):
            if id not in listed and id not in in_pods:
                entry = self._merge_known(id, unlisted, begun, dirty)
                if entry is not None and confirmed(entry, begun, confirm_s):
                    self._confirmed[id] = begun
                yield

    def _meaning_of_absence(self, listing: AppListing) -> tuple[Unlisted, float]:
        """What it is to be missing from this listing, and for how long before it counts: the table above."""
        announced = self._apps.leaving_since(listing.id) if listing.app is None else None
        if announced is None:
            return _UNLISTED, self._confirm_s
        missed = announced <= self._interrupted
        return Unlisted(True, self._interrupted), self._confirm_s * (1 if missed else _PATIENCE)

    def _judge(self, now: float, dirty: Dirty, *, empty: bool = False) -> Iterator[int]:
        """Put the brake on or off; what it does not hold, and two listings lack, is gone, one by one."""
        index, apps = self._index, self._apps
        absence = Absence(
            held=len(index.held),
            new=len(index.absent),
            known=index.living,
            held_apps=len(apps.held),
            apps=apps.absent(),
            empty=empty,
        )
        self._brake = judge(self._brake, absence, self._limits, now)
        if self._brake is not None:
            index.hold()
            apps.hold()
        agreed, self._confirmed = self._confirmed, {}
        self._judge_apps()
        for id, begun in agreed.items():
            entry = index.get(id)
            if entry is not None and id not in index.held and confirmed(entry, begun, self._confirm_s):
                self._merge(entry, _VANISHED, now, dirty)
                yield 1

    def _judge_apps(self) -> None:
        agreed, self._confirmed_apps = self._confirmed_apps, {}
        for app, begun in agreed.items():
            if app not in self._apps.held and self._apps.confirmed(app, begun, self._confirm_s):
                self._apps.delete(app)
                self._drop_if_empty(app)

    # -- entries

    def _entry(self, id: InstanceId, app: AppId) -> Entry:
        known = self._index.get(id)
        if known is not None:
            return known
        definition = self._apps.get(app)
        return blank(id, app, checked=definition is None or definition.checked)

    def _merge_known(self, id: InstanceId, fact: Fact, at: float, dirty: Dirty) -> Entry | None:
        """Merge a fact about an instance, unless it was forgotten meanwhile."""
        known = self._index.get(id)
        return None if known is None else self._merge(known, fact, at, dirty)

    def _merge(self, known: Entry, fact: Fact, at: float, dirty: Dirty) -> Entry:
        entry, unclear = merge(known, fact, at, self._attachment)
        if self._index.put(known, entry):
            dirty.keys.add(entry.instance.id)
        if unclear:
            dirty.apps_to_refresh.add(entry.instance.app)
        return entry

    def _drop_if_empty(self, app: AppId) -> None:
        if not self._index.members(app):
            self._apps.drop(app)


def _is_empty(snapshot: Snapshot) -> bool:
    """Pods tell nothing about apps; they come in an answer of their own."""
    return not snapshot.apps and not snapshot.unreadable
