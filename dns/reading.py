"""What a transferred zone shows: which values are ours, and what somebody else put there. Pure.

A value is ours if an ownership record of ours stands beside its name (see `ownership`).  Everything else
is foreign, except what keeps a zone going: whatever stands at its apex, its name servers' addresses,
delegations, signatures, the epoch records and the ownership records of Moorings.  A record of a type that
we never set is foreign also at a name of ours.

A zone may be large, so it is taken record set by record set: `note` each of them first, then `judge` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mooring.dns.ownership import Mark, marked_name, parse_mark
from mooring.dns.records import NOTHING, Question, RRset

_EPOCH_LABEL = "._mooring-epoch."
_KEEPS_ZONES_GOING = frozenset(
    {"SOA", "NS", "DS", "DNSKEY", "CDS", "CDNSKEY", "RRSIG", "NSEC", "NSEC3", "NSEC3PARAM", "TYPE65534"}
)
_UNMARKED: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Shown:
    """All values of one type at a name of ours."""

    name: str
    type: str
    rrset: RRset


@dataclass(frozen=True, slots=True)
class Stranger:
    """What somebody else put into the zone, in one line."""

    line: str


class Reading:
    """One look at one zone."""

    def __init__(self, zone: str, apex: Mapping[Question, RRset], mark: Mark, types: tuple[str, ...]) -> None:
        """`apex`: where the zone's own records are found; `types`: those that we set in this zone."""
        self._zone = zone
        self._mark = mark
        self._types = types
        self._servers = {value.removesuffix(".") for value in apex.get((zone, "NS"), NOTHING).values}
        self._marks: dict[str, frozenset[str]] = {}

    def note(self, question: Question, rrset: RRset) -> None:
        """Remember the set if it is an ownership record."""
        name = marked_name(question[0])
        if question[1] == "TXT" and name is not None:
            self._marks[name] = rrset.values

    def judge(self, question: Question, rrset: RRset) -> Shown | Stranger | None:
        """What the set is; None for what keeps the zone going, and for what another sink of ours shows."""
        name, type_ = question
        if self._keeps_the_zone_going(name, type_, rrset):
            return None
        marks = self._marks.get(name, _UNMARKED)
        if type_ in self._types:
            if str(self._mark) in marks:
                return Shown(name, type_, rrset)
            if self._mark.owner in _owners(marks):
                return None
        return Stranger(f"{name} {type_} {' '.join(sorted(rrset.values))}: {self._whose(marks)}")

    def _keeps_the_zone_going(self, name: str, type_: str, rrset: RRset) -> bool:
        if name == self._zone or name in self._servers or type_ in _KEEPS_ZONES_GOING:
            return True
        if type_ != "TXT":
            return False
        marker = marked_name(name) is not None and all(map(parse_mark, rrset.values))
        return marker or _EPOCH_LABEL in name

    def _whose(self, marks: frozenset[str]) -> str:
        others = sorted(_owners(marks) - {self._mark.owner})
        return f"belongs to another Mooring, owner {', '.join(others)}" if others else "not ours"


def address_of_pointer(name: str) -> str | None:
    """The address that a reverse name stands for, not in canonical form; None if it stands for none."""
    labels = name.split(".")[::-1]
    if labels[:2] == ["arpa", "in-addr"] and len(labels) == 6:
        return ".".join(labels[2:])
    if labels[:2] == ["arpa", "ip6"] and len(labels) == 34:
        nibbles = "".join(labels[2:])
        return ":".join(nibbles[start : start + 4] for start in range(0, 32, 4))
    return None


def _owners(marks: frozenset[str]) -> set[str]:
    return {mark.owner for mark in map(parse_mark, marks) if mark is not None}
