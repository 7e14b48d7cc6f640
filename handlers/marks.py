"""A port as its host reported it: what our mark on it says, and how strong a claim that is.

The mark is the second copy of a lease, written at the moment an address became real.  Where two ports claim
one address, the higher epoch wins, then the higher lease generation: a later daemon knew more than an earlier
one, and within one daemon's life generations rise with every change of hand.
"""

from __future__ import annotations

from dataclasses import dataclass

from mooring.core.model import Epoch
from mooring.core.specs import PortSpec
from mooring.handlers.hosts import Answer, port_marks

_INCARNATION_AFTER = "._app."

Strength = tuple[int, int]  # epoch, lease generation


@dataclass(frozen=True, slots=True)
class Mark:
    """One port under our mark."""

    port: PortSpec
    epoch: Epoch  # that of the daemon which changed it last
    alive: bool  # whether the container that it was made for still runs

    @property
    def strength(self) -> Strength:
        """What it is compared by with other claims on its address."""
        return (self.epoch, self.port.lease_generation)

    @property
    def incarnation(self) -> int:
        """Which start of its instance it was made for; 1 if the task's id does not tell."""
        _, _, number = self.port.task.rpartition(_INCARNATION_AFTER)
        return int(number) if number.isdigit() else 1


def marks_in(host: str, answer: Answer) -> list[Mark]:
    """The ports of an answer to "observe"."""
    told = answer.get("ports", [])
    return [
        Mark(port, Epoch(int(raw.get("epoch") or 0)), bool(raw.get("alive")))
        for port, raw in zip(port_marks(host, answer), told, strict=True)
    ]
