"""How far a daemon is on its way to knowing every lease.

    AWAITED     the store does not know every lease, and no operator has agreed to a rebuild: nothing is done
    LISTENING   an operator has; what was heard is in the books, and hosts that were silent are waited for:
                everything goes its way, except that no address is given out
    FIRM        the store knows every lease

Two flags in the store carry it over a restart (COMPLETE, AGREED).  Each holds the epoch of the daemon that
raised it and is raised again, before anybody else hears of it, with each later epoch: whoever remembers a
higher one has met a daemon that this store knows nothing of.  A third one (FIRST) makes a first installation
that was cut off begin again by itself, although hosts remember its epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from mooring.controller.adopt import Survey
from mooring.core.errors import Fenced
from mooring.core.model import Epoch
from mooring.handlers.hosts import Hosts

COMPLETE = "complete"  # flag: up to this epoch the store knows every lease
FIRST = "first"  # flag: up to this epoch the store gave nothing out, and was about to begin as the first one
AGREED = "rebuilding"  # flag: up to this epoch it knows all that was heard, and an operator has agreed
HELD = "held"  # flag: what clients are shown has not been worked out anew since a rebuild
NOTHING_KNOWN = -1


class Stage(StrEnum):
    """See this module's header."""

    AWAITED = "awaited"
    LISTENING = "listening"
    FIRM = "firm"


@dataclass(slots=True)
class Ground:
    """What was found, and whether the store knows all of it."""

    hosts: Hosts
    inventory: tuple[str, ...]
    found: Survey
    stage: Stage
    remembered: Epoch  # the highest that hosts and names knew before this daemon came
    stored: Epoch  # the store's, likewise
    complete: int  # up to which epoch the store said that it knows every lease
    fences: bool  # an observer asks without leaving a trace
    pending: bool = False  # what was found is not in the books yet

    def waits_for(self) -> Mapping[str, str]:
        """Hosts that have not been heard and are not fenced, and why."""
        silent = sorted(self.found.silent.items())
        return {host: " ".join(why.split()) for host, why in silent if host not in self.hosts.fenced}

    def unheard(self) -> tuple[str, ...]:
        """Fenced hosts that have not been heard."""
        return tuple(sorted(host for host in self.found.silent if host in self.hosts.fenced))

    def hosts_by_state(self) -> Mapping[str, int]:
        """How many hosts of the inventory are in each state, by what was heard last."""
        counts = dict.fromkeys(("answering", "silent", "fenced", "maintenance"), 0)
        for host in self.inventory:
            counts[self.state_of(host)] += 1
        return counts

    def state_of(self, host: str) -> str:
        """ "answering", "silent", "fenced" or "maintenance"."""
        if host in self.hosts.fenced:
            return "fenced"
        if host in self.hosts.maintained:
            return "maintenance"
        return "silent" if host in self.hosts.attendance.silences else "answering"

    def reason(self, problem: str = "") -> str:
        """Why no address may be given out at this stage."""
        silent = self.waits_for()
        told = "; ".join(f"{host}: {why}" for host, why in silent.items())
        first = next(iter(silent), "HOST")
        remedy = f"bring it back, or `mooring hosts fence {first}`"
        if self.stage is Stage.LISTENING:
            waits = f"waits for {told} ({remedy})" if silent else "finishing the rebuild"
            return "the store does not know every lease yet; " + (problem or waits)
        known = "is new" if self.complete == NOTHING_KNOWN else f"ends with epoch {self.complete}"
        if not self.remembered and not self.found.ports:
            why = problem or f"{told or 'names of ours are left'} ({remedy})"
            return f"the store {known}, and who holds which address is not certain; {why}"
        silence = f"; silent: {told}" if silent else ""
        return (
            f"the store {known}, but hosts or names remember epoch {self.remembered}; nothing is changed "
            f"anywhere until you look at `mooring rebuild` and apply it{silence}"
        )


def check_epochs(ground: Ground, found: Survey) -> None:
    """Raises `Fenced` if a host has seen another daemon that took our epoch, or a higher one."""
    newer = {host: epoch for host, epoch in found.epochs.items() if _is_foreign(ground, host, epoch)}
    if newer:
        host, epoch = next(iter(newer.items()))
        raise Fenced(f"{host} has seen epoch {epoch}, this daemon has {ground.hosts.epoch}; start it again")


def _is_foreign(ground: Ground, host: str, epoch: Epoch) -> bool:
    """Whether another daemon took this epoch, or a higher one.

    Our own number on a host is somebody else's only if we have not told it, and if the store, which gives
    each number once, has forgotten some.
    """
    if epoch == ground.hosts.epoch:
        return ground.stage is not Stage.FIRM and not ground.hosts.has_told(host)
    return epoch > ground.hosts.epoch
