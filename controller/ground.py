"""Firm ground before anything is given out: the epoch, and what is already there.

    1. ask every host what it has                      survey
    2. an epoch above all that anybody remembers       store, bridges, name server
    3. ask again with that epoch as a fence            nobody older can change what was just reported
    4. adopt what no record knows                      adopt
    5. go on asking the hosts that were silent         `hear_silent_hosts`

A store that is new, or older than what the world remembers (a restored backup), does not know every lease.
Then steps 3 and 4 wait for an operator (see `rebuild`), unless nothing of ours is found anywhere: that is a
first installation.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

import structlog

from mooring.controller.adopt import Survey, adopt, survey
from mooring.controller.engine import Engine
from mooring.controller.lookout import make_patrol
from mooring.controller.rebuild import Rebuild, all_keys
from mooring.controller.sinks import newest_epoch
from mooring.controller.stage import AGREED, COMPLETE, HELD, NOTHING_KNOWN, Ground, Stage, check_epochs
from mooring.core.errors import Refused, Retryable
from mooring.core.model import Epoch
from mooring.core.sink import Sink
from mooring.core.store import NO_EPOCH, Contents, PutFlag, Store
from mooring.handlers.fences import Fences, fences_in, lift_outdated
from mooring.handlers.hosts import Hosts

__all__ = ["Ground", "hear_silent_hosts", "settle_in", "survey_all"]

log = structlog.get_logger(__name__)

_AWAITED_AGAIN_S = 5.0  # between two surveys while an operator is awaited
_AGAIN_S = 2.0  # between two questions to silent hosts while everybody waits for them
_SILENT_AGAIN_S = 30.0  # the same while nobody does
_SWEEP_S = 10.0  # between two looks at fenced hosts
_STEP = 2**20  # by which an epoch rises at most


async def survey_all(
    hosts: Hosts,
    names: Sequence[str],
    store: Store,
    contents: Contents,
    sinks: Sequence[Sink],
    chance: random.Random,
    *,
    fences: bool,
) -> Ground:
    """Steps 1 to 3. Afterwards `hosts.epoch` is this daemon's, and the store has begun it."""
    hosts.fenced = {host: fence.reason for host, fence in fences_in(contents.flags).items()}
    found = await survey(hosts, names)
    remembered = Epoch(max(found.epoch, *[await newest_epoch(sink) for sink in sinks]))
    hosts.epoch = next_epoch(Epoch(max(contents.epoch, remembered)), chance)
    await store.begin(hosts.epoch)
    complete = int(contents.flags.get(COMPLETE, NOTHING_KNOWN))
    stage = _stage(contents, remembered)
    if stage is Stage.AWAITED:
        await _lift_outdated_fences(hosts, store, contents, remembered)
    else:
        # Before anybody else hears of the new epoch: what remembers it must not look newer than the store.
        flag = COMPLETE if stage is Stage.FIRM else AGREED
        await store.commit([PutFlag(flag, str(hosts.epoch))])
        if fences:
            found = await _fenced(hosts, found)
    return Ground(hosts, tuple(names), found, stage, remembered, contents.epoch, complete, fences)


async def _lift_outdated_fences(hosts: Hosts, store: Store, contents: Contents, remembered: Epoch) -> None:
    for write in lift_outdated(contents.flags, remembered):
        await store.commit([write])
        contents.flags.pop(write.name)
    hosts.fenced = {host: fence.reason for host, fence in fences_in(contents.flags).items()}


def next_epoch(newest: Epoch, chance: random.Random) -> Epoch:
    """One above all that are known, by a step that nobody else takes.

    A store gives each number once.  Two daemons over two stores that begin at the same time have asked before
    either told anybody; were the step always one, they would take the same number, and no fence could tell
    them apart.  So the later one of them refuses the other (decision 009).
    """
    return Epoch(newest + chance.randint(1, _STEP))


def _stage(contents: Contents, remembered: Epoch) -> Stage:
    if remembered <= int(contents.flags.get(COMPLETE, NOTHING_KNOWN)):
        return Stage.FIRM
    agreed = remembered <= int(contents.flags.get(AGREED, NOTHING_KNOWN))
    return Stage.LISTENING if agreed else Stage.AWAITED


async def settle_in(engine: Engine, ground: Ground) -> int:
    """Step 4: adopt what the hosts have; how many ports that were. Lets the workers go, if they may."""
    engine.rebuild = Rebuild(engine, ground)
    engine.fences = Fences(ground.hosts, engine.records, engine.clock, ground.inventory, engine.queue.add)
    make_patrol(engine, ground)
    engine.condition.ground = ground
    adopted, problem = 0, ""
    if ground.stage is Stage.AWAITED:
        problem = await _look_for_first(engine, ground)
    else:
        adopted = await _take_in(engine, ground)
        if HELD in engine.records.flags:
            engine.hold.begin()
        engine.grounded.set()
    engine.rebuild.close(problem)
    if engine.rebuild.needed:
        log.error("rebuild needed", reason=ground.reason(problem))
    return adopted


async def hear_silent_hosts(engine: Engine, ground: Ground) -> None:
    """Step 5, and the watch over fenced hosts; never ends. Raises `Fenced` if a newer daemon was met."""
    async with asyncio.TaskGroup() as group:
        group.create_task(_listen(engine, ground), name="silent hosts")
        group.create_task(_watch_fenced(engine, ground), name="fenced hosts")
        group.create_task(_end_hold(engine), name="hold")


async def _listen(engine: Engine, ground: Ground) -> None:
    while ground.stage is Stage.AWAITED:
        await engine.clock.sleep(_AWAITED_AGAIN_S)
        await _look_again(engine, ground)
    while ground.stage is Stage.LISTENING:
        await engine.clock.sleep(_AGAIN_S)
        if not ground.pending:
            ground.found = await _ask_again(ground, sorted(ground.found.silent))
        await _take_in(engine, ground)
    await engine.rebuild.rest()
    while ground.pending or ground.waits_for():
        await engine.clock.sleep(_SILENT_AGAIN_S)
        if not ground.pending:
            names = sorted(host for host in ground.waits_for() if host not in ground.hosts.maintained)
            ground.found = await _ask_again(ground, names)
        await _take_in(engine, ground)


async def _look_again(engine: Engine, ground: Ground) -> None:
    """While an operator is awaited: who answers by now, and whether another daemon has come."""
    if engine.rebuild.busy:
        return
    found = await survey(ground.hosts, ground.inventory)
    if ground.stage is not Stage.AWAITED or engine.rebuild.busy:
        return  # the operator came meanwhile, and looks for himself
    check_epochs(ground, found)
    ground.found = found
    told_by_others = [epoch for host, epoch in found.epochs.items() if not ground.hosts.has_told(host)]
    ground.remembered = max(ground.remembered, *told_by_others, NO_EPOCH)
    engine.rebuild.close(await _look_for_first(engine, ground))


async def _look_for_first(engine: Engine, ground: Ground) -> str:
    """Nothing to rebuild from: nobody need be asked. What was in the way of finding out, if anything."""
    try:
        if not await engine.rebuild.finish_if_first():
            return ""
    except (Retryable, Refused) as error:
        log.warning("not settled in yet", reason=str(error))
        return str(error)
    log.info("first installation: nothing of ours was found anywhere")
    await _take_in(engine, ground)
    await engine.begin()
    return ""


async def _take_in(engine: Engine, ground: Ground) -> int:
    """Enter what was found; how many ports were adopted. What fails is tried again with the next beat."""
    ground.pending = True
    try:
        if ground.stage is Stage.LISTENING:
            await engine.rebuild.take_up(ground.found)
            await engine.rebuild.go_on()
            adopted = len(ground.found.ports)
        else:
            adopted = await adopt(engine.records, _trusted(ground), engine.clock)
    except (Retryable, Refused) as error:
        log.warning("not settled in yet", reason=str(error))
        engine.rebuild.close(str(error))
        return 0
    ground.pending = False
    return adopted


def _trusted(ground: Ground) -> Survey:
    """What a fenced host has is not its own any more, unless the store says so.

    Nor is a port adopted behind which nothing lives: if no record knows it either, it is collected.
    """
    found = ground.found.marks.items()
    return Survey(
        marks={
            host: [mark for mark in marks if mark.alive]
            for host, marks in found
            if host not in ground.hosts.fenced
        }
    )


async def _watch_fenced(engine: Engine, ground: Ground) -> None:
    while True:
        await engine.clock.sleep(_SWEEP_S)
        if ground.fences and engine.rebuild.is_over:  # an observer changes nothing on any host
            await engine.fences.sweep()


async def _end_hold(engine: Engine) -> None:
    """Let the clients' sinks go on when every instance has been looked at once."""
    await engine.grounded.wait()
    await engine.watch.complete.wait()
    if not engine.hold.active:
        return
    keys = [key for key in all_keys(engine) if not engine.is_paused(key)]
    for key in keys:
        engine.queue.add(key)
    in_time = await engine.hold.until_seen(keys)
    await engine.end_hold()
    log.info("clients' sinks go on", instances=len(keys), in_time=in_time)


async def _ask_again(ground: Ground, names: Sequence[str]) -> Survey:
    found = await survey(ground.hosts, names)
    check_epochs(ground, found)
    return await _fenced(ground.hosts, found) if ground.fences else found


async def _fenced(hosts: Hosts, found: Survey) -> Survey:
    """Ask those that answered once more, so that nobody older can change what they say now."""
    if not found.marks:
        return found
    fenced = await survey(hosts, sorted(found.marks), fence=True)
    fenced.silent |= found.silent
    return fenced
