"""Every entry of the view, and the indexes that spare it from ever looking through all of them.

`put` is the only place where an entry is stored or replaced, so the indexes are kept there: the instances
of each app, how many are not gone, which are absent, and which of the absent the brake holds.

An instance that is gone and done with becomes an echo: unseen, no longer of its app, but remembered for
ten minutes so that a late event does not raise it again.  Echoes are kept in the order in which they were
forgotten; each further one drops those that are too old.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator

from mooring.controller.entry import Entry
from mooring.core.model import AppId, Instance, InstanceId

_ECHO_S = 600.0


class Index:
    """Entries by instance, by app, and by what the brake has to know."""

    def __init__(self) -> None:
        self.living = 0  # entries that are not GONE
        self.absent: set[InstanceId] = set()  # missing from a listing without a reason, and not held
        self.held: set[InstanceId] = set()  # missing from a listing without a reason, and held by the brake
        self._entries: dict[InstanceId, Entry] = {}
        self._members: dict[AppId, dict[InstanceId, None]] = {}  # in the order in which they were met
        # With when each was forgotten, the oldest first.
        self._echoes: OrderedDict[InstanceId, tuple[float, Entry]] = OrderedDict()

    def get(self, id: InstanceId) -> Entry | None:
        """What is known, echoes included."""
        entry = self._entries.get(id)
        if entry is None and id in self._echoes:
            return self._echoes[id][1]
        return entry

    def instance(self, id: InstanceId) -> Instance | None:
        """The instance as last described; None if unknown or forgotten."""
        entry = self._entries.get(id)
        return None if entry is None else entry.instance

    def instances(self) -> list[Instance]:
        """All that are not forgotten."""
        return [entry.instance for entry in self._entries.values()]

    def members(self, app: AppId) -> Collection[InstanceId]:
        """The app's instances that are not forgotten; not to be iterated over while they change."""
        return self._members.get(app, ())

    def apps(self) -> Iterator[AppId]:
        """The apps that have such instances."""
        return iter(self._members)

    def put(self, known: Entry, entry: Entry) -> bool:
        """Store `entry` in place of `known`; whether the instance reads differently now."""
        if entry is known:
            return False
        id = entry.instance.id
        before = self._entries.get(id)
        if before is None:
            if id in self._echoes and entry.gone:
                self._echoes[id] = (self._echoes[id][0], entry)
                return False
            self._add(id, entry)
        elif before.gone is not entry.gone:
            self.living += -1 if entry.gone else 1
        self._entries[id] = entry
        if entry.unexplained is not known.unexplained:
            self._note_absence(id, entry.unexplained)
        return entry.instance is not known.instance

    def _add(self, id: InstanceId, entry: Entry) -> None:
        self._echoes.pop(id, None)
        self._members.setdefault(entry.instance.app, {})[id] = None
        self.living += not entry.gone

    def _note_absence(self, id: InstanceId, absent: bool) -> None:
        if not absent:
            self.absent.discard(id)
            self.held.discard(id)
        elif id not in self.held:
            self.absent.add(id)

    def hold(self) -> None:
        """The brake holds all that are absent now."""
        self.held |= self.absent
        self.absent.clear()

    def forget(self, id: InstanceId, now: float) -> None:
        """A GONE instance becomes an echo; too old echoes are dropped."""
        entry = self._entries.pop(id)
        app = entry.instance.app
        del self._members[app][id]
        if not self._members[app]:
            del self._members[app]
        self._echoes[id] = (now, entry)
        self.drop_echoes(now)

    def drop_echoes(self, now: float) -> None:
        """Drop the echoes that are too old by now."""
        while self._echoes:
            oldest = next(iter(self._echoes))
            if now - self._echoes[oldest][0] <= _ECHO_S:
                return
            del self._echoes[oldest]

    def remembered(self) -> int:
        """How many entries there are, echoes included."""
        return len(self._entries) + len(self._echoes)
