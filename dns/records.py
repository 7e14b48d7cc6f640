"""What is said to a name server, without saying how.

A name server answers questions and takes updates.  An update is one message for one zone: prerequisites
and edits, carried out as a whole or not at all.  These few types keep the planning free of any DNS library
and let an in-memory server stand in for a real one.

Values are in one canonical spelling: addresses as the `ipaddress` module writes them, names absolute, in
lower case and without the last dot, TXT strings joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mooring.core.errors import Retryable

OK = "NOERROR"
STALE = frozenset({"YXDOMAIN", "YXRRSET", "NXRRSET", "NXDOMAIN"})  # a prerequisite did not hold

Question = tuple[str, str]  # name, record type


@dataclass(frozen=True, slots=True)
class RRset:
    """All values of one type at one name. The TTL is in seconds."""

    values: frozenset[str] = frozenset()
    ttl: int = 0


NOTHING = RRset()


@dataclass(frozen=True, slots=True)
class NameAbsent:
    """Nothing at all stands at the name itself."""

    name: str


@dataclass(frozen=True, slots=True)
class SetAbsent:
    """No record of that type stands at the name."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class SetEquals:
    """Exactly these values stand there, whatever their TTL."""

    name: str
    type: str
    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class Add:
    """Add one value; a TTL other than that of the set retimes the whole set."""

    name: str
    type: str
    value: str
    ttl: int


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove one value; removing an absent one is no error."""

    name: str
    type: str
    value: str


Require = NameAbsent | SetAbsent | SetEquals
Edit = Add | Remove


@dataclass(frozen=True, slots=True)
class Update:
    """One atomic message for one zone."""

    zone: str
    requires: tuple[Require, ...]
    edits: tuple[Edit, ...]


class Unanswered(Retryable):
    """Sent, but no answer came: an update may or may not have been carried out."""


class NameServer(Protocol):
    """The primary of our zones. Raises `Retryable` when it is away, `Refused` when it rejects our key."""

    where: str  # how messages name it

    async def lookup(self, questions: Sequence[Question]) -> Mapping[Question, RRset]:
        """What stands there. Absent sets are left out; an alias shows as a set of type CNAME."""

    async def update(self, update: Update) -> str:
        """Carry it out; the response code by its name (`OK`, one of `STALE`, or another)."""

    async def transfer(self, zone: str) -> Mapping[Question, RRset]:
        """Every record set of the zone."""
