"""What Marathon says about apps and pods as such, and which listing says it.

A listing of one app may overtake a snapshot that began before it, or be overtaken.  Each app therefore has
the moment its newest listing began, and an older listing is not merged at all: what the newer one had or
lacked stands.  After a snapshot that moment is the same for every app, so only the apps that were listed
alone since then are kept one by one.

An app that a listing lacks is deleted.  An empty listing deletes none: those it lacks are held, unless the
stream said that they are being deleted, until they are listed or asked for again, or an operator releases
them.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from mooring.core.model import App, AppId


class Definitions:
    """The apps and pods, and how old our knowledge of each is."""

    def __init__(self) -> None:
        self.held: set[AppId] = set()  # missing from an empty listing
        self._apps: dict[AppId, App] = {}
        self._deleted: set[AppId] = set()  # apps that Marathon no longer lists, but that have instances
        self._leaving: dict[AppId, float] = {}  # when the stream said that they are being deleted
        self._pods: dict[AppId, float] = {}  # when we heard that they are pods
        self._listed: dict[AppId, float] = {}  # begin of the newest listing, if later than `_floor`
        self._floor = float("-inf")  # begin of the newest snapshot merged

    def get(self, id: AppId) -> App | None:
        """The newest known definition."""
        return self._apps.get(id)

    def all(self) -> list[App]:
        """Every definition."""
        return list(self._apps.values())

    def ids(self) -> Iterable[AppId]:
        """Every app defined; not to be iterated over while they change."""
        return self._apps.keys()

    def is_deleted(self, id: AppId) -> bool:
        """Whether the newest listing had no such app."""
        return id in self._deleted

    def is_pod(self, id: AppId) -> bool:
        """Whether it was last said to be a pod."""
        return id in self._pods

    # -- what listings say

    def is_newest(self, id: AppId, begun: float) -> bool:
        """Whether no listing of the app is known that began later."""
        return begun >= self._floor and begun >= self._listed.get(id, begun)

    def list(self, id: AppId, begun: float) -> None:
        """From now on, a listing of the app that began before `begun` says nothing."""
        self._listed[id] = begun

    def list_all(self, begun: float) -> None:
        """The same for every app, whether we know it or not."""
        self._floor = begun
        self._listed = {id: newer for id, newer in self._listed.items() if newer > begun}

    def define(self, app: App, begun: float) -> bool:
        """Take a listed definition; whether its instances are to be looked at again."""
        self._deleted.discard(app.id)
        self.held.discard(app.id)
        self._pods.pop(app.id, None)
        if self._leaving.get(app.id, begun) < begun:
            del self._leaving[app.id]
        known = self._apps.get(app.id)
        if known == app:
            return False
        self._apps[app.id] = app
        # Merely scaled or restarted: its instances tell.
        return known is None or replace(known, version=app.version, instances=app.instances) != app

    def delete(self, id: AppId) -> None:
        """The listing had no such app. Its definition stays until `drop`."""
        self.held.discard(id)
        self._deleted.add(id)

    def hold(self, id: AppId) -> bool:
        """The listing had nothing at all: whether that may not count against the app."""
        if id not in self._apps or id in self._deleted or id in self._leaving:
            return False
        self.held.add(id)
        return True

    def drop(self, id: AppId) -> None:
        """The app has no instance left: if it is deleted, nothing is known of it any more."""
        if id in self._deleted:
            self._deleted.discard(id)
            self._apps.pop(id, None)
            self._leaving.pop(id, None)

    # -- what events say

    def leave(self, id: AppId, now: float) -> bool:
        """Marathon says that it deletes the app, or has done so; whether we knew it."""
        if id not in self._apps:
            return False
        self._leaving[id] = now
        return True

    def is_leaving(self, id: AppId) -> bool:
        """Whether that was said, and no listing with the app has begun since."""
        return id in self._leaving

    def note(self, apps: Iterable[AppId], pods: Iterable[AppId], now: float) -> None:
        """An event calls these apps and those pods."""
        self._pods.update(dict.fromkeys(pods, now))
        for app in apps:
            self._pods.pop(app, None)

    def list_pods(self, pods: Iterable[AppId], begun: float) -> None:
        """A snapshot tells all pods; what events told since it began stays."""
        newer = {pod: heard for pod, heard in self._pods.items() if heard >= begun}
        self._pods = dict.fromkeys(pods, begun) | newer
