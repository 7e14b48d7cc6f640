"""A name server in memory, for simulation and tests: the twin of `Rfc2136Server`.

It keeps the rules of RFC 2136 that the sinks build on: a message is checked against all its prerequisites
and then carried out as a whole, an alias and data do not mix (the later one is ignored), a record with
another TTL retimes its set, and removing what is absent is no error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mooring.core.errors import Refused
from mooring.dns.records import (
    NOTHING,
    OK,
    Add,
    Edit,
    NameAbsent,
    Question,
    Require,
    RRset,
    SetAbsent,
    Update,
)


class MemoryServer:
    """Zones held in a dictionary. `sets` may be read and changed by whoever owns the simulation."""

    def __init__(self, zones: Iterable[str], *, largest_set: int = 100) -> None:
        """Serve `zones`; a set of more than `largest_set` records fails the message, as in BIND."""
        self.where = "memory"
        self.sets: dict[Question, RRset] = {
            (zone, "SOA"): RRset(frozenset({f"ns.{zone} admin.{zone} 1 3600 600 86400 10"}), 10)
            for zone in zones
        }
        self._largest_set = largest_set

    async def lookup(self, questions: Sequence[Question]) -> Mapping[Question, RRset]:
        """See `NameServer`."""
        asked = [(name, type_) for name, wanted in questions for type_ in (wanted, "CNAME")]
        return {question: self.sets[question] for question in asked if question in self.sets}

    async def update(self, update: Update) -> str:
        """See `NameServer`."""
        if (update.zone, "SOA") not in self.sets:
            raise Refused(f"name server {self.where} is not the primary of zone {update.zone} (NOTAUTH)")
        touched = [item.name for item in (*update.requires, *update.edits)]
        if not all(name == update.zone or name.endswith("." + update.zone) for name in touched):
            return "NOTZONE"
        for require in update.requires:
            code = self._checked(require)
            if code != OK:
                return code
        after = dict(self.sets)
        for edit in update.edits:
            _edit(after, edit)
        if any(len(rrset.values) > self._largest_set for rrset in after.values()):
            return "SERVFAIL"
        self.sets = after
        return OK

    async def transfer(self, zone: str) -> Mapping[Question, RRset]:
        """See `NameServer`."""
        return {
            (name, type_): rrset
            for (name, type_), rrset in self.sets.items()
            if name == zone or name.endswith("." + zone)
        }

    def _checked(self, require: Require) -> str:
        if isinstance(require, NameAbsent):
            return "YXDOMAIN" if any(name == require.name for name, _ in self.sets) else OK
        found = self.sets.get((require.name, require.type), NOTHING)
        if isinstance(require, SetAbsent):
            return "YXRRSET" if found.values else OK
        return OK if found.values == require.values else "NXRRSET"


def _edit(sets: dict[Question, RRset], edit: Edit) -> None:
    question = (edit.name, edit.type)
    values = sets.get(question, NOTHING).values
    if isinstance(edit, Add):
        others = {type_ for name, type_ in sets if name == edit.name} - {edit.type}
        if "CNAME" not in others and (edit.type != "CNAME" or not others):
            sets[question] = RRset(values | {edit.value}, edit.ttl)
        return
    left = values - {edit.value}
    if left:
        sets[question] = RRset(left, sets[question].ttl)
    else:
        sets.pop(question, None)
