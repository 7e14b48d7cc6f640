"""Which ports of ours are dead and nobody's: a pure judgement over what a host reported.

A port outlives its container, and looks sound while it does: the switch goes on showing it as connected.
What a host reports as not alive is *suspected* from the first time that it is seen so, and *ripe* when a
later observation, at least a grace after that, shows it dead again; seen alive or gone between the two, it
begins anew.  Port and start of the container together are what is suspected, so a new start under way is
never mistaken for the one before it.

What is ripe is removed unless `keeper` names a reason not to:

    our records                                                          what is dead there
    none speaks of that address on that host                             goes
    one shows it, settled, for another task                              goes
    one shows it, settled, for that task; another port of it lives       goes (another start of the container)
    one shows it, settled, for that task; no other port of it lives      stays: it is attached again (`drift`)
    one that is not settled speaks of it, or is of that instance         stays: its own walk removes it
    its mark is of a higher epoch, or of a later generation of the lease stays: somebody knows more than we

Nothing here frees an address, and the host looks once more before it removes anything (`plan_detach`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mooring.core.model import Binding, BindingId, Epoch, Lease
from mooring.core.specs import PortSpec
from mooring.core.store import NO_EPOCH
from mooring.handlers.hosts import Answer, Operation
from mooring.handlers.marks import marks_in
from mooring.handlers.wants import NETWORK

_DIGITS_OF_INSTANCE = 16  # as many of its hash as a device's alias has

Start = tuple[str, str | None]  # port or device, and whose start it was made for
Suspects = Mapping[Start, float]  # since when it is seen dead, monotonic seconds


@dataclass(frozen=True, slots=True)
class Dead:
    """One port behind which nothing lives, or one device of ours that has no port (`port` is None)."""

    name: str
    container: str | None
    address: str
    instance: str  # its id; of a device only the beginning of its hash is known
    epoch: Epoch = NO_EPOCH
    port: PortSpec | None = None
    replaced: bool = False  # another port of the same task and address lives on that host

    @property
    def start(self) -> Start:
        """What is suspected."""
        return (self.name, self.container)


def dead_in(host: str, answer: Answer) -> list[Dead]:
    """Everything of ours that is dead in an answer to "observe"."""
    told = list(zip(marks_in(host, answer), answer.get("ports", []), strict=True))
    living = {(mark.port.address, mark.port.task) for mark, _ in told if mark.alive}
    ports = [
        Dead(
            name=str(raw["port"]),
            container=str(raw.get("container", "")),
            address=mark.port.address,
            instance=mark.port.instance,
            epoch=mark.epoch,
            port=mark.port,
            replaced=(mark.port.address, mark.port.task) in living,
        )
        for mark, raw in told
        if not mark.alive
    ]
    devices = [
        Dead(str(raw["device"]), None, str(raw.get("address", "")), str(raw.get("instance", "")))
        for raw in answer.get("orphans", [])
    ]
    return ports + devices


def suspects_after(before: Suspects, dead: Iterable[Dead], now: float) -> dict[Start, float]:
    """Since when each thing that is dead now has been seen so without a break."""
    return {one.start: before.get(one.start, now) for one in dead}


def ripe(dead: Iterable[Dead], suspects: Suspects, now: float, grace_s: float) -> list[Dead]:
    """Those that were first seen dead at least `grace_s` before this observation."""
    return [one for one in dead if now - suspects.get(one.start, now) >= grace_s]


def keeper(dead: Dead, host: str, records: Sequence[Binding], lease: Lease | None, epoch: Epoch) -> str:
    """Why a thing that is ripe stays all the same; "" if it goes.

    `records`: all bindings that may speak of it; `lease`: of its address, if anybody has one; `epoch`: ours.
    """
    if dead.epoch > epoch:
        return f"its mark is of epoch {dead.epoch}"
    if dead.port is not None and lease is not None and dead.port.lease_generation > lease.generation:
        return f"its mark is of generation {dead.port.lease_generation} of its lease"
    for record in records:
        if reason := _claims(dead, host, record):
            return f"{record.id} {reason}"
    return ""


def _claims(dead: Dead, host: str, record: Binding) -> str:
    state = record.sink(NETWORK)
    specs = [spec for spec in (state.wanted, *state.shown) if isinstance(spec, PortSpec)]
    here = [spec for spec in specs if (spec.address, spec.host) == (dead.address, host)]
    own = _is_of(dead, record)
    if not state.settled:
        return "is on its way there" if here or own else ""
    if dead.port is None:
        return "has that address there" if here and own else ""
    same = any(spec.task == dead.port.task for spec in here)
    return "has that port, and has it attached again" if same and not dead.replaced else ""


def _is_of(dead: Dead, record: Binding) -> bool:
    if dead.port is not None:
        return dead.instance == record.instance
    return dead.instance == hashlib.sha256(record.instance.encode()).hexdigest()[:_DIGITS_OF_INSTANCE]


def removals(dead: Iterable[Dead]) -> Iterator[Operation]:
    """One detach for each, which spares what has come to life since."""
    for one in dead:
        yield {"op": "detach", "id": BindingId(one.name), "port": one.name, "container": one.container}
