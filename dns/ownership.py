"""How we know a name as ours.

Beside each name that we own stands a TXT record, one label below it (`_mooring.<name>`), after the manner
of external-dns: `heritage=mooring,owner=<owner>,kind=<seat|shared>`.  `owner` tells several Moorings apart
that share a zone, `kind` keeps an app's name and a seat's name apart if paths make them meet.  The text is
the same for the whole life of a name, so that an update can require it without reading it first.  The label
below the name, not the name itself, carries the record: that way the name may still be anything we set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mooring.core.errors import Refused
from mooring.dns.naming import OWNERSHIP_LABEL

_OWNER = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\Z")
_MARK = re.compile(r"heritage=mooring,owner=([a-z0-9-]+),kind=([a-z]+)\Z")


@dataclass(frozen=True, slots=True)
class Mark:
    """Whose a name is, and what it is used for."""

    owner: str
    kind: str  # "seat" or "shared"

    def __str__(self) -> str:
        return f"heritage=mooring,owner={self.owner},kind={self.kind}"


def check_owner(owner: str) -> str:
    """`owner` itself if it can stand in a record's name and text; otherwise `Refused`."""
    if not _OWNER.match(owner):
        raise Refused(f"owner {owner[:80]!r}: 1 to 63 of a-z, 0-9 and '-' are possible, no '-' at either end")
    return owner


def parse_mark(text: str) -> Mark | None:
    """The mark that a TXT value carries; None if it is not one of Mooring's."""
    found = _MARK.match(text)
    return Mark(found[1], found[2]) if found else None


def marker_of(name: str) -> str:
    """Where the ownership record of `name` stands."""
    return f"{OWNERSHIP_LABEL}.{name}"


def marked_name(marker: str) -> str | None:
    """The inverse of `marker_of`; None for a name that is no marker."""
    name = marker.removeprefix(OWNERSHIP_LABEL + ".")
    return name if name != marker else None
