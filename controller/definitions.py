"""What Marathon says about apps and pods as such, and which listing says it.

A listing of one app may overtake a snapshot that began before it, or be overtaken.  Each app therefore has
the moment its newest listing began, and an older listing is not merged at all: what the newer one had or
lacked stands.  After a snapshot that moment is the same for every app, so only the apps that were listed
alone since then are kept one by one.

That a listing lacks an app means no more than that it lacks an instance:

    the stream said that it is being deleted      deleted at once
    nothing says so                               absent; deleted when a second listing, at least
                                                  `absence_confirm_s` later, agrees
    the same, and the brake is on                 held, until it is listed or an operator releases it
    heard of since that listing began             not absent: the next listing is the first

Until it is deleted, its definition stays.  An app that was known before a restart is known without a
definition until it is listed, and is missed like the others.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from mooring.core.model import App, AppId

_NEVER = float("-inf")


class Definitions:
    """The apps and pods, and how old our knowledge of each is."""

    def __init__(self) -> None:
        self.held: set[AppId] = set()  # the absent ones that the brake holds
        self._apps: dict[AppId, App] = {}
        self._remembered: set[AppId] = set()  # known from before a restart, not yet listed
        self._absent: dict[AppId, float] = {}  # when the first listing without them began; held ones, too
        self._heard: dict[AppId, float] = {}  # when an event last spoke of them
        self._deleted: set[AppId] = set()  # apps that are no more, but that have instances
        self._leaving: dict[AppId, float] = {}  # when the stream first said that they are being deleted
        self._pods: dict[AppId, float] = {}  # when we heard that they are pods
        self._listed: dict[AppId, float] = {}  # begin of the newest listing, if later than `_floor`
        self._floor = _NEVER  # begin of the newest snapshot merged

    def get(self, id: AppId) -> App | None:
        """The newest known definition."""
        return self._apps.get(id)

    def all(self) -> list[App]:
        """Every definition."""
        return list(self._apps.values())

    def ids(self) -> Sequence[AppId]:
        """Every app that is defined or remembered."""
        return [*self._apps, *self._remembered]

    def knows(self, id: AppId) -> bool:
        """Whether it is defined or remembered."""
        return id in self._apps or id in self._remembered

    def is_deleted(self, id: AppId) -> bool:
        """Whether it is no more: that was announced and a listing agrees, or two listings do."""
        return id in self._deleted

    def is_pod(self, id: AppId) -> bool:
        """Whether it was last said to be a pod."""
        return id in self._pods

    def remember(self, id: AppId) -> None:
        """The app was known before a restart."""
        if id not in self._apps:
            self._remembered.add(id)

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
        self._remembered.discard(app.id)
        self._find(app.id)
        self._pods.pop(app.id, None)
        if self._leaving.get(app.id, begun) < begun:
            del self._leaving[app.id]
        known = self._apps.get(app.id)
        if known == app:
            return False
        self._apps[app.id] = app
        # Merely scaled or restarted: its instances tell.
        return known is None or replace(known, version=app.version, instances=app.instances) != app

    def lack(self, id: AppId, begun: float) -> None:
        """A listing had no such app: it is deleted or absent, as the table above has it."""
        if id in self._leaving:
            self.delete(id)
        elif self.knows(id) and id not in self._deleted:
            heard = self._heard.get(id, _NEVER)
            if heard < begun and self._absent.get(id, _NEVER) <= heard:
                self._absent[id] = begun

    def confirmed(self, id: AppId, begun: float, confirm_s: float) -> bool:
        """Whether a listing begun at `begun` is the second to lack the app, long enough after the first."""
        since = self._absent.get(id)
        return since is not None and self._heard.get(id, _NEVER) < begun and begun - since >= confirm_s

    def absent(self) -> int:
        """How many apps are absent, the held ones included."""
        return len(self._absent)

    def hold(self) -> None:
        """The brake holds all that are absent now."""
        self.held.update(self._absent)

    def release(self) -> Sequence[AppId]:
        """Nothing is held any more. The apps that are deleted thereby: all but those heard of meanwhile."""
        held, self.held = self.held, set()
        silent = [id for id in held if self._heard.get(id, _NEVER) < self._absent[id]]
        for id in held:
            self._find(id)
        for id in silent:
            self.delete(id)
        return silent

    def delete(self, id: AppId) -> None:
        """The app is no more. Its definition stays until `drop`."""
        self._find(id)
        self._deleted.add(id)

    def _find(self, id: AppId) -> None:
        """It is not absent."""
        self.held.discard(id)
        self._absent.pop(id, None)

    def drop(self, id: AppId) -> None:
        """The app has no instance left: if it is deleted, nothing is known of it any more."""
        if id in self._deleted:
            self._deleted.discard(id)
            self._remembered.discard(id)
            for known in (self._apps, self._leaving, self._heard):
                known.pop(id, None)

    # -- what events say

    def hear(self, id: AppId, now: float) -> None:
        """An event speaks of the app: there is such a thing."""
        if self.knows(id):
            self._heard[id] = now

    def leave(self, id: AppId, now: float) -> bool:
        """Marathon says that it deletes the app, or has done so; whether we knew it."""
        if not self.knows(id):
            return False
        self._leaving.setdefault(id, now)
        return True

    def keep(self, id: AppId) -> None:
        """Marathon says that it does not delete the app after all."""
        self._leaving.pop(id, None)
        self._deleted.discard(id)

    def leaving_since(self, id: AppId) -> float | None:
        """When it was first said that it is being deleted, if no listing with it has begun since."""
        return self._leaving.get(id)

    def note(self, apps: Iterable[AppId], pods: Iterable[AppId], now: float) -> None:
        """An event calls these apps and those pods."""
        self._pods.update(dict.fromkeys(pods, now))
        for app in apps:
            self._pods.pop(app, None)
            self.hear(app, now)

    def list_pods(self, pods: Iterable[AppId], begun: float) -> None:
        """A snapshot tells all pods; what events told since it began stays."""
        newer = {pod: heard for pod, heard in self._pods.items() if heard >= begun}
        self._pods = dict.fromkeys(pods, begun) | newer
