"""Which hosts answered when they were last asked, and since when the others have not.

Told by `Hosts` of every play; nothing here asks anybody, so that status and metrics cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mooring.core.clock import Clock


@dataclass(frozen=True, slots=True)
class Silence:
    """A host that did not answer."""

    since: float  # Unix seconds of the first play without an answer
    why: str  # in the words of the newest


@dataclass(frozen=True, slots=True)
class Census:
    """What a host reported when its ports were last read."""

    ports: int
    epoch: int
    fixtures: int = 0  # ports of ours that belong to no container: tunnels and gateways


class Attendance:
    """Keeps the newest word of every host."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.silences: dict[str, Silence] = {}
        self.censuses: dict[str, Census] = {}
        self.returned: list[Callable[[str], None]] = []  # told of each silence that ends

    def answered(self, host: str, answers: Sequence[Mapping[str, Any]]) -> None:
        """A play came back."""
        was_silent = self.silences.pop(host, None) is not None
        for answer in answers:
            if "bridge_epoch" in answer:
                ports = answer.get("ports", ())
                fixtures = len(answer.get("fixtures", ()))
                self.censuses[host] = Census(len(ports), int(answer["bridge_epoch"] or 0), fixtures)
        if was_silent:
            for tell in self.returned:
                tell(host)

    def silent(self, host: str, why: str) -> None:
        """A play failed as a whole."""
        known = self.silences.get(host)
        self.silences[host] = Silence(known.since if known else self._clock.now(), why)
