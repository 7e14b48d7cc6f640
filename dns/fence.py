"""A daemon that was overtaken cannot write any more.

Each zone holds one record of ours, `<owner>._mooring-epoch.<zone>`, with the newest epoch that wrote there.
Every update requires its exact text.  A daemon with a higher epoch replaces it first, by compare and swap;
from that moment the server itself refuses all that the older one still sends, also what is in flight.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mooring.core.errors import Fenced, Refused, Retryable
from mooring.core.model import Epoch
from mooring.dns.records import (
    NOTHING,
    OK,
    STALE,
    Add,
    Edit,
    NameAbsent,
    NameServer,
    Remove,
    Require,
    SetEquals,
    Update,
)

_TTL_S = 60  # nobody resolves it
_ATTEMPTS = 3  # two daemons that start together may each lose a swap once


class Fence:
    """The epoch records of the zones of one name server."""

    def __init__(self, server: NameServer, owner: str) -> None:
        self._server = server
        self._owner = owner
        self._taken: dict[str, Epoch] = {}

    async def require(self, zone: str, epoch: Epoch) -> Require:
        """What each update of the zone must require; takes the zone for `epoch` first.

        Raises `Fenced` if a newer daemon has it.
        """
        for _ in range(_ATTEMPTS):
            if self._taken.get(zone) == epoch:
                return SetEquals(self._name(zone), "TXT", frozenset({self._text(epoch)}))
            await self._take(zone, epoch)
        raise Retryable(f"name server {self._server.where}: the epoch record of {zone} keeps changing")

    def forget(self, zone: str) -> None:
        """Look again before the next update: a prerequisite failed, and it may have been this one."""
        self._taken.pop(zone, None)

    async def probe(self, zone: str) -> None:
        """Raise if our key may not update the zone. Removes a value that never stood there: no change."""
        name = self._name(zone)
        code = await self._server.update(Update(zone, (), (Remove(name, "TXT", "probe"),)))
        if code != OK:
            raise refusal(self._server.where, zone, name, code)

    async def newest(self, zones: Iterable[str]) -> Epoch:
        """The highest epoch that has written to any of the zones; 0 if none has."""
        asked = [(self._name(zone), "TXT") for zone in zones]
        answers = await self._server.lookup(asked)
        return max(
            (self._epoch(answers.get(question, NOTHING).values) for question in asked), default=Epoch(0)
        )

    async def _take(self, zone: str, epoch: Epoch) -> None:
        name = self._name(zone)
        values = (await self._server.lookup([(name, "TXT")])).get((name, "TXT"), NOTHING).values
        seen = self._epoch(values)
        if seen > epoch:
            raise Fenced(f"zone {zone} was written in epoch {seen}, this daemon has {epoch} and must stop")
        text = self._text(epoch)
        if values != {text}:
            before: Require = SetEquals(name, "TXT", values) if values else NameAbsent(name)
            edits: list[Edit] = [Remove(name, "TXT", value) for value in sorted(values)]
            edits.append(Add(name, "TXT", text, _TTL_S))
            code = await self._server.update(Update(zone, (before,), tuple(edits)))
            if code in STALE:
                return
            if code != OK:
                raise refusal(self._server.where, zone, name, code)
        self._taken[zone] = epoch

    def _name(self, zone: str) -> str:
        return f"{self._owner}._mooring-epoch.{zone}"

    def _text(self, epoch: Epoch) -> str:
        return f"heritage=mooring,owner={self._owner},epoch={epoch}"

    def _epoch(self, values: Iterable[str]) -> Epoch:
        pattern = re.compile(rf"heritage=mooring,owner={re.escape(self._owner)},epoch=(\d+)")
        found = [pattern.fullmatch(value) for value in values]
        return max((Epoch(int(match[1])) for match in found if match), default=Epoch(0))


def refusal(where: str, zone: str, name: str, code: str) -> Refused | Retryable:
    """The error for a response code that is neither success nor a failed prerequisite."""
    if code in {"REFUSED", "NOTZONE", "NOTIMP"}:
        return Refused(
            f"name server {where} refused the update of {name} in zone {zone} ({code}); "
            "check that the zone takes updates from our key for this name"
        )
    hint = "; a limit of records for each name may be reached" if code == "SERVFAIL" else ""
    return Retryable(f"name server {where} failed to update {name} in zone {zone} ({code}{hint})")
