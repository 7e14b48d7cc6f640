"""Verifier, planner and patrol over the running parts of one engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mooring.controller.collector import Collector
from mooring.controller.patrol import Patrol
from mooring.controller.plan import Planner
from mooring.controller.queue import Priority
from mooring.controller.verify import Verifier, counts
from mooring.controller.ways import look_at_ways
from mooring.core.model import AppId
from mooring.core.readmodel import EVERYTHING
from mooring.handlers.maintenance import Maintenance

if TYPE_CHECKING:
    from mooring.controller.engine import Engine, Outside
    from mooring.controller.stage import Ground


def make_verifier(engine: Engine, outside: Outside) -> Verifier:
    """What compares the sinks with the records, and has repaired."""
    return Verifier(
        outside.sinks,
        engine.records,
        engine.clock,
        engine.doubts,
        every_s=engine.settings.verify_every_s,
        wake=lambda key: engine.queue.add(key, Priority.RESYNC),
        waits=lambda app: _is_paused(engine, app),
        hindrance=lambda: _hindrance(engine, outside),
        repaired=engine.metrics.repaired,
        looked=lambda found: engine.metrics.verified(engine.clock.now(), counts(found)),
        beside=lambda repair: look_at_ways(engine, repair),
    )


def make_planner(engine: Engine) -> Planner:
    """What says what would change."""
    return Planner(
        engine.view,
        engine.records,
        engine.claims,
        engine.reconciler,
        engine.verifier,
        engine.clock,
        engine.is_paused,
        tuple(engine.batchers),
    )


def make_patrol(engine: Engine, ground: Ground) -> None:
    """What looks after each host; the engine gets it, with maintenance."""
    settings = engine.settings.host_life
    engine.maintenance = Maintenance(ground.hosts, engine.records, engine.clock, ground.inventory)
    collector = Collector(
        ground.hosts,
        engine.records,
        engine.clock,
        grace_s=settings.collect_after_s,
        waits=lambda app: _is_paused(engine, app),
        collected=engine.metrics.port_collected,
    )
    engine.patrol = Patrol(
        ground.hosts,
        ground.inventory,
        engine.records,
        engine.clock,
        engine.chance,
        engine.verifier,
        collector,
        engine.maintenance,
        every_s=settings.observe_every_s,
        wake=engine.queue.add,
    )


def _is_paused(engine: Engine, app: AppId) -> bool:
    return not {EVERYTHING, app}.isdisjoint(engine.paused())


def _hindrance(engine: Engine, outside: Outside) -> str:
    """Why the records do not say what should be there; "" if they do."""
    if outside.observe:
        return "this daemon only observes, and has applied nothing"
    if not engine.view.complete:
        return "there is no complete listing of Marathon yet"
    if engine.hold.active:
        return "after a rebuild not every instance has been looked at yet"
    if not engine.grounded.is_set():
        return "it is not known yet what is whose"
    return engine.seats.closed or ""
