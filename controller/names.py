"""Whose name is whose: the register that keeps two apps from meeting in one name.

An app has a name and one below it for each seat: `web.shop`, `web-0.web.shop`, `web-1.web.shop`.  A name of
one app may be none of these for another, or it could slip its addresses into a name that clients of the
other one trust.  The app whose id reads as the name comes first, whether it uses the name or not; among
those that ask for a name by label it is first come, first served, and `remember` makes that survive a
restart.

A name stands here as the app id that reads as it, its *path*: `/shop/web` for `web.shop`, and
`/shop/web/web-1` for its seat 1.  So names of both origins compare as they are, without the zone.  Every
question takes a few look-ups, however many apps there are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from mooring.core.labels import Claim
from mooring.core.model import AppId
from mooring.core.specs import NameSpec, SharedNameSpec, Spec

_SLOT = re.compile(r"0|[1-9][0-9]*")


class Names:
    """Which paths exist as apps, and which are held by label."""

    def __init__(self) -> None:
        self._known: set[AppId] = set()
        self._holder: dict[AppId, AppId] = {}  # path: who asked for it by label
        self._held: dict[AppId, set[AppId]] = {}  # the inverse
        self._seats: dict[AppId, dict[AppId, None]] = {}  # path: those in use that read as seats of it

    def apps(self) -> Collection[AppId]:
        """Every app that has a name here."""
        return self._known | self._held.keys()

    def know(self, app: AppId) -> list[AppId]:
        """The app exists. Returns the holders by label that must make way for it."""
        if app in self._known:
            return []
        self._known.add(app)
        self._index(app)
        holders = {self._holder.get(path, app) for path in self._touching(app)}
        return sorted(holders - {app})

    def remember(self, app: AppId, path: AppId) -> None:
        """The app shows this name from before; the first one remembered holds it."""
        if path != app and path not in self._holder:
            self._take(app, path)

    def hold(self, app: AppId, path: AppId) -> bool:
        """From now on the app has this name alone. Returns whether it gave up another."""
        given_up = self._held.get(app, set()) - {path}
        for other in given_up:
            self._release(app, other)
        if path != app:
            self._take(app, path)
        return bool(given_up)

    def forget(self, app: AppId) -> None:
        """The app is no more, and shows nothing."""
        for path in list(self._held.get(app, ())):
            self._release(app, path)
        self._known.discard(app)
        self._unindex(app)

    def rival(self, app: AppId, path: AppId) -> tuple[AppId, AppId] | None:
        """Why the app cannot have this name: the path in the way, and whose it is."""
        if path == app:
            return None
        for taken in self._touching(path):
            owner = taken if taken in self._known else self._holder.get(taken, app)
            if owner != app:
                return taken, owner
        return None

    def has_lost(self, app: AppId) -> bool:
        """Whether a name that the app holds has become another's."""
        return any(self.rival(app, path) for path in self._held.get(app, ()))

    def _touching(self, path: AppId) -> Iterator[AppId]:
        """The names that cannot be another's beside this one: itself, whose seat it is, its own seats."""
        yield path
        if (parent := _seat_of(path)) is not None:
            yield parent
        yield from self._seats.get(path, ())

    def _take(self, app: AppId, path: AppId) -> None:
        self._holder[path] = app
        self._held.setdefault(app, set()).add(path)
        self._index(path)

    def _release(self, app: AppId, path: AppId) -> None:
        self._held[app].discard(path)
        if not self._held[app]:
            del self._held[app]
        del self._holder[path]
        self._unindex(path)

    def _index(self, path: AppId) -> None:
        if (parent := _seat_of(path)) is not None:
            self._seats.setdefault(parent, {})[path] = None

    def _unindex(self, path: AppId) -> None:
        parent = _seat_of(path)
        if parent not in self._seats or path in self._known or path in self._holder:
            return
        self._seats[parent].pop(path, None)
        if not self._seats[parent]:
            del self._seats[parent]


def path_of(claim: Claim) -> AppId:
    """The path of the name that the claim leads to."""
    return claim.app if claim.dns_name is None else _path(claim.dns_name)


def name_at(path: AppId) -> str:
    """The name, below the zone, that stands here as this path."""
    return ".".join(reversed(path.strip("/").split("/")))


def shown_path(spec: Spec | None, zone: str) -> AppId | None:
    """The path of the app's name that this spec belongs to; None if it is no name in the zone."""
    match spec:
        case SharedNameSpec(name=name):
            pass
        case NameSpec(name=seat):
            name = seat.partition(".")[2]
        case _:
            return None
    below = name.removesuffix(f".{zone}")
    return None if below == name else _path(below)


def _path(name: str) -> AppId:
    return AppId("/" + "/".join(reversed(name.split("."))))


def _seat_of(path: AppId) -> AppId | None:
    """The path that this one reads as a seat of: `/shop/web` for `/shop/web/web-1`."""
    parent, _, last = path.rpartition("/")
    stem, _, slot = last.rpartition("-")
    reads_so = stem != "" and parent.endswith(f"/{stem}") and _SLOT.fullmatch(slot)
    return AppId(parent) if reads_so else None
