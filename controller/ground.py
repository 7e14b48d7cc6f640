"""Firm ground before anything is given out: the epoch, and what is already there.

    1. ask every host what it has                      survey
    2. one epoch above all that anybody remembers      store, bridges, name server
    3. ask again with that epoch as a fence            nobody older can change what was just reported
    4. adopt what no record knows                      adopt
    5. go on asking the hosts that were silent         `hear_silent_hosts`

A store that is new, or older than what the world remembers (a restored backup), does not know every lease.
Then no address is given out until every host of the inventory has answered.  What is adopted takes along the
names that lead to it; addresses that only a name of ours still leads to are put into quarantine and those
names removed.  A flag in the store says up to which epoch it is complete: it is raised with each start, and
only at the end of a rebuild, so a rebuild that is cut off begins again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from mooring.controller.adopt import Survey, adopt, observe_names, quarantine_named, survey
from mooring.controller.engine import Engine
from mooring.controller.sinks import newest_epoch
from mooring.core.errors import Fenced, Retryable
from mooring.core.model import Epoch
from mooring.core.sink import Sink
from mooring.core.store import Contents, PutFlag, Store
from mooring.handlers.hosts import Hosts

log = structlog.get_logger(__name__)

_COMPLETE = "complete"  # flag in the store: up to this epoch it knows every lease
_NOTHING_KNOWN = -1
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
    hosts: Hosts,
    names: Sequence[str],
    store: Store,
    contents: Contents,
    sinks: Sequence[Sink],
    *,
    fences: bool,
) -> Ground:
    """Steps 1 to 3. Afterwards `hosts.epoch` is this daemon's, and the store has begun it."""
    found = await survey(hosts, names)
    remembered = max(found.epoch, *[await newest_epoch(sink) for sink in sinks])
    hosts.epoch = Epoch(max(contents.epoch, remembered) + 1)
    await store.begin(hosts.epoch)
    rebuild = remembered > int(contents.flags.get(_COMPLETE, _NOTHING_KNOWN))
    if not rebuild:
        # Before anybody else hears of the new epoch: what remembers it must not look newer than the store.
        await store.commit([PutFlag(_COMPLETE, str(hosts.epoch))])
    if fences and found.marks:
        fenced = await survey(hosts, sorted(found.marks), fence=True)
        fenced.silent |= found.silent
        found = fenced
    return Ground(hosts, found, rebuild, fences)


async def settle_in(engine: Engine, ground: Ground) -> int:
    """Step 4: adopt what the hosts have; how many ports that were."""
    if ground.rebuild:
        engine.seats.close("the store does not know every lease, and not all hosts have been heard")
    try:
        return await _adopt(engine, ground)
    except Retryable as error:
        log.warning("not settled in yet", reason=str(error))
        return 0  # step 5 tries again


async def hear_silent_hosts(engine: Engine, ground: Ground) -> None:
    """Step 5: until every host has answered. Raises `Fenced` if one has seen a newer daemon."""
    while True:
        problem = ""
        try:
            await _adopt(engine, ground)
            if not ground.found.silent:
                await _finish(engine, ground)
                return
        except Retryable as error:
            problem = str(error)
            log.warning("not settled in yet", reason=problem)
        if ground.rebuild:
            silent = "; ".join(f"{host}: {reason}" for host, reason in sorted(ground.found.silent.items()))
            engine.seats.close(f"the store does not know every lease; waits: {problem or silent}")
        await engine.clock.sleep(_REBUILD_AGAIN_S if ground.rebuild else _SILENT_AGAIN_S)
        if not problem:  # else what was found is not stored yet
            ground.found = await _ask_again(ground)


async def _adopt(engine: Engine, ground: Ground) -> int:
    names = await observe_names(engine.name_sinks) if ground.rebuild else {}
    return await adopt(engine.records, ground.found, engine.clock, names)


async def _finish(engine: Engine, ground: Ground) -> None:
    if not ground.rebuild:
        return
    await quarantine_named(engine.records, await observe_names(engine.name_sinks), engine.clock)
    await engine.records.commit([PutFlag(_COMPLETE, str(ground.hosts.epoch))])
    ground.rebuild = False
    engine.seats.open()
    log.info("every host was heard; addresses are given out")


async def _ask_again(ground: Ground) -> Survey:
    hosts = ground.hosts
    found = await survey(hosts, sorted(ground.found.silent))
    newer = {host: epoch for host, epoch in found.epochs.items() if _is_foreign(ground, host, epoch)}
    if newer:
        host, epoch = next(iter(newer.items()))
        raise Fenced(f"{host} has seen epoch {epoch}, this daemon has {hosts.epoch}; start it again")
    if ground.fences and found.marks:
        fenced = await survey(hosts, sorted(found.marks), fence=True)
        fenced.silent |= found.silent
        return fenced
    return found


def _is_foreign(ground: Ground, host: str, epoch: Epoch) -> bool:
    """Whether another daemon took this epoch, or a higher one.

    Our own number on a host is somebody else's only if we have not told it, and if the store, which gives
    each number once, has forgotten some.
    """
    if epoch == ground.hosts.epoch:
        return ground.rebuild and not ground.hosts.has_told(host)
    return epoch > ground.hosts.epoch
