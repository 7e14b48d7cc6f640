"""Firm ground before anything is given out: the epoch, and what is already there.

    1. ask every host what it has                      survey
    2. one epoch above all that anybody remembers      store, bridges, name server
    3. ask again with that epoch as a fence            nobody older can change what was just reported
    4. adopt what no record knows                      adopt
    5. go on asking the hosts that were silent         `hear_silent_hosts`

A store that is new, or older than what the world remembers (a restored backup), does not know every lease.
Then no address is given out until every host of the inventory has answered, and addresses that only a DNS
name of ours still leads to are put into quarantine and those names removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from mooring.controller.adopt import Survey, adopt, quarantine_named, survey
from mooring.controller.engine import Engine
from mooring.controller.sinks import newest_epoch
from mooring.core.errors import Fenced, Retryable
from mooring.core.model import Epoch
from mooring.core.sink import Sink
from mooring.core.store import Contents, PutFlag
from mooring.handlers.hosts import Hosts

log = structlog.get_logger(__name__)

_REBUILD = "rebuild"  # flag in the store: not every host has said what it has
_REBUILD_AGAIN_S = 2.0  # between two surveys of silent hosts while everybody waits for them
_SILENT_AGAIN_S = 30.0  # the same while nobody does


@dataclass(slots=True)
class Ground:
    """What was found, and whether the store knows all of it."""

    hosts: Hosts
    found: Survey
    rebuild: bool
    fences: bool  # an observer asks without leaving a trace


async def survey_all(
    hosts: Hosts, names: Sequence[str], contents: Contents, sinks: Sequence[Sink], *, fences: bool
) -> Ground:
    """Steps 1 to 3. Afterwards `hosts.epoch` is this daemon's; the store has still to begin it."""
    found = await survey(hosts, names)
    remembered = max(found.epoch, *[await newest_epoch(sink) for sink in sinks])
    hosts.epoch = Epoch(max(contents.epoch, remembered) + 1)
    if fences and found.marks:
        fenced = await survey(hosts, sorted(found.marks), fence=True)
        fenced.silent |= found.silent
        found = fenced
    # A store that has lost nothing has seen every epoch that anybody can remember.
    rebuild = contents.fresh or _REBUILD in contents.flags or remembered > contents.epoch
    return Ground(hosts, found, rebuild, fences)


async def settle_in(engine: Engine, ground: Ground) -> int:
    """Step 4: adopt what the hosts have; how many ports that were."""
    if ground.rebuild:
        # Stored first: a restart half-way must not take the rebuild for done.
        await engine.records.commit([PutFlag(_REBUILD, "1")])
        engine.seats.close("the store does not know every lease, and not all hosts have been heard")
    return await adopt(engine.records, ground.found, engine.clock)


async def hear_silent_hosts(engine: Engine, ground: Ground, sinks: Sequence[Sink]) -> None:
    """Step 5: until every host has answered. Raises `Fenced` if one has seen a newer daemon."""
    while True:
        try:
            await adopt(engine.records, ground.found, engine.clock)
            if not ground.found.silent:
                await _finish(engine, ground, sinks)
                return
        except Retryable as error:
            log.warning("not settled in yet", reason=str(error))
        if ground.rebuild:
            silent = "; ".join(f"{host}: {reason}" for host, reason in sorted(ground.found.silent.items()))
            engine.seats.close(
                f"the store does not know every lease; waits for {silent or 'the name server'}"
            )
        await engine.clock.sleep(_REBUILD_AGAIN_S if ground.rebuild else _SILENT_AGAIN_S)
        if ground.found.silent:
            ground.found = await _ask_again(ground)


async def _finish(engine: Engine, ground: Ground, sinks: Sequence[Sink]) -> None:
    if not ground.rebuild:
        return
    await quarantine_named(engine.records, sinks, engine.clock)
    await engine.records.commit([PutFlag(_REBUILD, None)])
    ground.rebuild = False
    engine.seats.open()
    log.info("every host was heard; addresses are given out")


async def _ask_again(ground: Ground) -> Survey:
    hosts = ground.hosts
    found = await survey(hosts, sorted(ground.found.silent))
    if found.epoch >= hosts.epoch:
        raise Fenced(f"a host has seen epoch {found.epoch}, this daemon has {hosts.epoch}; start it again")
    if ground.fences and found.marks:
        fenced = await survey(hosts, sorted(found.marks), fence=True)
        fenced.silent |= found.silent
        return fenced
    return found
