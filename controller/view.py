"""What Marathon says: every instance and app, merged from the stream and from listings.

`entry` has the rules for one instance.  Here is the index, and the one question that an entry cannot
answer alone: what it means that an instance is missing.  Not in a listing that began after the last
fact about it:

    with evidence (ended, inactive, terminal condition, app terminated)   GONE at once
    without                                                               GONE when a second listing, at
                                                                          least `absence_confirm_s` later,
                                                                          agrees
    without, and more than 30 % of ten or more instances at once          held, until `release()`

The last row is the brake: absence is the weakest evidence, and a wrong or half-empty reply looks just
like it.  It goes off by itself only when everything it holds is listed again or has properly ended.
A GONE instance stays until `forget(id)`; after that it is remembered unseen for ten minutes, so that a
late echo on the stream does not raise it again.

Everything here is synchronous and free of effects; `now` and `begun` are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field, replace

from mooring.controller.entry import Entry, blank
from mooring.controller.events import (
    AppsChanged,
    AppTerminated,
    Event,
    HealthReported,
    InstanceReported,
    SchedulerChanged,
    TaskReported,
)
from mooring.controller.listing import AppListing, Snapshot
from mooring.core.model import App, AppId, Instance, InstanceId, State

_ECHO_S = 600.0


@dataclass(slots=True)
class Dirty:
    """What an update changed, and what it left unclear."""

    keys: set[InstanceId] = field(default_factory=set)  # instances that read differently now
    apps_to_refresh: set[AppId] = field(default_factory=set)  # a listing begun from now on is wanted
    snapshot_due: bool = False

    def merge(self, other: Dirty) -> None:
        """Add everything of `other`."""
        self.keys |= other.keys
        self.apps_to_refresh |= other.apps_to_refresh
        self.snapshot_due = self.snapshot_due or other.snapshot_due


class View:
    """The picture, and the ways facts enter it."""

    def __init__(
        self, *, absence_confirm_s: float = 60.0, brake_share: float = 0.3, brake_least: int = 10
    ) -> None:
        """Hold when more than `brake_share` of at least `brake_least` instances are absent at once."""
        self._confirm_s = absence_confirm_s
        self._brake_share = brake_share
        self._brake_least = brake_least
        self._entries: dict[InstanceId, Entry] = {}
        self._members: dict[AppId, dict[InstanceId, Entry]] = {}
        self._apps: dict[AppId, App] = {}
        self._deleted: set[AppId] = set()  # apps that Marathon no longer lists
        self._pods: set[AppId] = set()
        self._attachment = 0
        self._brake: str | None = None
        self.complete = False  # a snapshot has been merged since the start

    def instance(self, id: InstanceId) -> Instance | None:
        """The instance as last described."""
        entry = self._entries.get(id)
        return None if entry is None or entry.forgotten else entry.instance

    def app(self, id: AppId) -> App | None:
        """The app's newest known definition."""
        return self._apps.get(id)

    def is_deleted(self, app: AppId) -> bool:
        """Whether the newest listing had no such app."""
        return app in self._deleted

    def instances_of(self, app: AppId) -> Sequence[Instance]:
        """The app's instances, GONE ones included until they are forgotten."""
        return [entry.instance for entry in self._members.get(app, {}).values() if not entry.forgotten]

    def apps(self) -> Sequence[App]:
        """All apps."""
        return list(self._apps.values())

    def instances(self) -> Sequence[Instance]:
        """All instances, GONE ones included until they are forgotten."""
        return [entry.instance for entry in self._entries.values() if not entry.forgotten]

    @property
    def brake(self) -> str | None:
        """Why absent instances are held; None while the brake is off."""
        return self._brake

    @property
    def held(self) -> frozenset[InstanceId]:
        """The instances that the brake keeps from being GONE."""
        return frozenset(entry.instance.id for entry in self._absentees()) if self._brake else frozenset()

    def restore(self, instances: Iterable[Instance]) -> None:
        """Take up what was bound before a restart, so that its absence is judged like any other's."""
        for instance in instances:
            entry = self._entry(instance.id, instance.app)
            entry.instance = instance
            entry.verdict = instance.health

    def attached(self) -> None:
        """A new attachment to the stream: stamps from before it, perhaps another leader's, are void."""
        self._attachment += 1

    def forget(self, id: InstanceId) -> None:
        """Nothing is left to be done for a GONE instance."""
        entry = self._entries.get(id)
        if entry is not None and entry.gone:
            entry.forgotten = True
            self._drop_if_empty(entry.instance.app)

    def release(self, now: float) -> Dirty:
        """An operator confirms the absence of everything held: it is GONE at once."""
        dirty = Dirty()
        if self._brake is not None:
            self._brake = None
            for entry in self._absentees():
                self._end_absent(entry, now, dirty)
        return dirty

    def apply_event(self, event: Event, now: float) -> Dirty:
        """Merge one fact from the stream."""
        dirty = Dirty()
        match event:
            case TaskReported() | InstanceReported() | HealthReported():
                if event.app not in self._pods:
                    self._apply_report(event, now, dirty)
            case AppTerminated():
                self._apply_app_terminated(event, now, dirty)
            case AppsChanged():
                self._pods.update(event.pods)
                self._pods.difference_update(event.apps)
                dirty.apps_to_refresh.update(event.apps)
            case SchedulerChanged():
                dirty.snapshot_due = True
        return dirty

    def _apply_report(
        self, event: TaskReported | InstanceReported | HealthReported, now: float, dirty: Dirty
    ) -> None:
        entry = self._entries.get(event.instance)
        if entry is None and isinstance(event, TaskReported):
            entry = self._entry(event.instance, event.app)
        if entry is None:
            # Until a task was reported there is nothing to wire; and later than that, its report was missed.
            early = isinstance(event, InstanceReported) and event.state in (State.STARTING, State.DEAD)
            if not early:
                dirty.apps_to_refresh.add(event.app)
            return
        before, unclear = entry.instance, False
        match event:
            case TaskReported():
                unclear = entry.take_task(event, self._attachment, now) or event.app not in self._apps
            case InstanceReported():
                unclear = entry.take_condition(event, self._attachment, now)
            case HealthReported():
                entry.take_health(event, self._attachment, now)
        self._note_change(entry, before, dirty)
        if unclear:
            dirty.apps_to_refresh.add(event.app)

    def _apply_app_terminated(self, event: AppTerminated, now: float, dirty: Dirty) -> None:
        for entry in self._members.get(event.app, {}).values():
            entry.evidence = True
            entry.touched = now
            dirty.apps_to_refresh.add(event.app)

    def apply_snapshot(self, snapshot: Snapshot, now: float) -> Dirty:
        """Merge a complete listing. Only what it changed is dirty: a resync takes all of `instances()`."""
        dirty = Dirty()
        self.complete = True
        self._pods = set(snapshot.pods)
        confirmed: list[Entry] = []
        for listing in snapshot.apps.values():
            confirmed += self._merge_listing(listing, now, dirty)
        in_pods = {id for members in snapshot.pods.values() for id in members}
        for app in (self._members.keys() | self._apps.keys()) - snapshot.apps.keys():
            confirmed += self._missing(app, in_pods, snapshot.begun, now, dirty)
            self._deleted.add(app)
            self._drop_if_empty(app)
        self._judge(confirmed, now, dirty)
        self._drop_echoes(now)
        return dirty

    def apply_app(self, listing: AppListing, now: float) -> Dirty:
        """Merge the listing of one app, or that Marathon has no such app."""
        dirty = Dirty()
        confirmed = self._merge_listing(listing, now, dirty)
        if listing.app is None:
            self._deleted.add(listing.id)
            self._drop_if_empty(listing.id)
        self._judge(confirmed, now, dirty)
        return dirty

    def _merge_listing(self, listing: AppListing, now: float, dirty: Dirty) -> list[Entry]:
        if listing.app is not None:
            self._merge_app(listing.app, dirty)
        for instance in listing.instances:
            entry = self._entry(instance.id, instance.app)
            before = entry.instance
            entry.take_listed(instance, listing.begun, self._attachment)
            self._note_change(entry, before, dirty)
        listed = {instance.id for instance in listing.instances}
        return self._missing(listing.id, listed, listing.begun, now, dirty)

    def _merge_app(self, app: App, dirty: Dirty) -> None:
        self._deleted.discard(app.id)
        known = self._apps.get(app.id)
        if known == app:
            return
        self._apps[app.id] = app
        if known is not None and replace(known, version=app.version, instances=app.instances) == app:
            return  # merely scaled or restarted: its instances tell
        for id, entry in self._members.get(app.id, {}).items():
            entry.checked = app.checked
            entry.show(entry.instance)
            if not entry.forgotten:
                dirty.keys.add(id)

    def _missing(
        self, app: AppId, listed: Container[InstanceId], begun: float, now: float, dirty: Dirty
    ) -> list[Entry]:
        """Deal with the app's instances that a listing lacks; returns those whose absence is confirmed."""
        confirmed = []
        for id, entry in self._members.get(app, {}).items():
            if id in listed or entry.gone:
                continue
            if entry.touched >= begun:
                if entry.evidence:
                    dirty.apps_to_refresh.add(app)  # it ended while this listing was on its way: ask again
                continue
            if entry.evidence:
                self._end_absent(entry, now, dirty)
                continue
            if entry.absent_since is None:
                entry.absent_since = begun
            elif begun - entry.absent_since >= self._confirm_s:
                confirmed.append(entry)
        return confirmed

    def _absentees(self) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.absent_since is not None]

    def _judge(self, confirmed: list[Entry], now: float, dirty: Dirty) -> None:
        """Put the brake on or off; without it, the absence of `confirmed` is final."""
        absent = len(self._absentees())
        total = sum(not entry.gone for entry in self._entries.values())
        if absent == 0:
            self._brake = None
        elif total >= self._brake_least and absent > self._brake_share * total:
            self._brake = (
                f"{absent} of {total} instances are missing from Marathon's listing without having ended"
            )
        if self._brake is None:
            for entry in confirmed:
                self._end_absent(entry, now, dirty)

    def _entry(self, id: InstanceId, app: AppId) -> Entry:
        entry = self._entries.get(id)
        if entry is None:
            entry = self._entries[id] = blank(id, app)
            known = self._apps.get(app)
            entry.checked = known is None or known.checked
            self._members.setdefault(app, {})[id] = entry
        return entry

    def _end_absent(self, entry: Entry, now: float, dirty: Dirty) -> None:
        before = entry.instance
        entry.end_absent(now)
        self._note_change(entry, before, dirty)

    def _note_change(self, entry: Entry, before: Instance, dirty: Dirty) -> None:
        if entry.instance != before:
            dirty.keys.add(entry.instance.id)

    def _drop_if_empty(self, app: AppId) -> None:
        if app in self._deleted and not self.instances_of(app):
            self._deleted.discard(app)
            self._apps.pop(app, None)

    def _drop_echoes(self, now: float) -> None:
        old = [entry for entry in self._entries.values() if entry.forgotten and now - entry.touched > _ECHO_S]
        for entry in old:
            id, app = entry.instance.id, entry.instance.app
            del self._entries[id]
            del self._members[app][id]
            if not self._members[app]:
                del self._members[app]
