"""The daemon: the one place where all rooms meet.

Everything is built here and handed to who needs it; no other module names a concrete store, sink or
client.  A life goes like this:

    1. open the store, alone                                   (another daemon's lock ends it here)
    2. ask every host for our marks, take the next epoch       ground
       (if the store does not know every lease, 3 and 5 wait for an operator: rebuild)
    3. prime the sinks with what the store says is out there
    4. watch Marathon; the first snapshot completes the view   watch
    5. let the workers go, only then                           workers
    6. on SIGTERM: no new keys, let the walks end, close everything in the reverse order

Nothing is lost by dying at any of these points: what was wanted is stored before any effect.
"""

from __future__ import annotations

import asyncio
import gc
import random
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import aiohttp
import structlog
from prometheus_client import CollectorRegistry

from mooring.cext import IMPLEMENTATION
from mooring.controller.access import Access
from mooring.controller.adoption import Adopter
from mooring.controller.capabilities import HostReport
from mooring.controller.capabilities import check_hosts as ask_hosts
from mooring.controller.capacity import pool_lines
from mooring.controller.claims import Claims
from mooring.controller.control import ControlServer
from mooring.controller.control_client import ControlClient, NotPermitted, Unreachable
from mooring.controller.doors import adopt as doors_adopt
from mooring.controller.doors import history as doors_history
from mooring.controller.doors import hosts as doors_hosts
from mooring.controller.doors import hosts_check as doors_hosts_check
from mooring.controller.doors import pools as doors_pools
from mooring.controller.doors import rebuild as doors_rebuild
from mooring.controller.doors import verify as doors_verify
from mooring.controller.engine import Engine, Outside, rules_of
from mooring.controller.ground import Ground, hear_silent_hosts, settle_in, survey_all
from mooring.controller.rehearse import Rehearsal
from mooring.controller.runners import open_plays
from mooring.controller.settings import MarathonSettings, Settings, pools_of
from mooring.controller.sinks import edge_sinks, host_sinks, read_secret
from mooring.controller.snapshot import Marathon
from mooring.controller.store.memory import MemoryStore
from mooring.controller.stores import store_of
from mooring.controller.stream import Pace, StreamReader
from mooring.controller.tenure import keep_history
from mooring.controller.version import version
from mooring.controller.ways import check_keepers, keep_ways, lay_fabric, mesh_of
from mooring.core.clock import SystemClock
from mooring.core.errors import ConfigRefused, Fatal, Refused, Retryable
from mooring.core.model import PoolSpec
from mooring.core.readmodel import PoolRow
from mooring.core.sink import Sink
from mooring.core.store import NO_EPOCH, Contents, Store
from mooring.handlers.hosts import Hosts
from mooring.handlers.inventory import inventory_hosts
from mooring.handlers.records import Records
from mooring.ipam.book import LeaseBook
from mooring.ipam.estate import homeless_lines
from mooring.ipam.pools import Pool, Pools
from mooring.portal.http import make_app, serve
from mooring.portal.metrics import Metrics
from mooring.portal.pulse import Pulse
from mooring.portal.pulse import start as start_pulse
from mooring.portal.turns import Turns, timed_loop

log = structlog.get_logger(__name__)

_LAST_WALKS_S = 20.0  # how long walks may go on after SIGTERM


def run(settings: Settings, *, observe: bool = False) -> int:
    """Live until SIGTERM or SIGINT; 0 after an orderly end, 1 if it could not start or had to give up.

    Raises `ConfigRefused` for what only shows when the parts are put together.
    """
    try:
        turns, clock = Turns(), SystemClock()
        gc.collect()
        gc.freeze()  # modules and classes stay for good: the collector shall not walk through them again
        with asyncio.Runner(loop_factory=lambda: timed_loop(turns, clock)) as runner:
            runner.run(_live(settings, observe, turns))
    except ConfigRefused:
        raise
    except (Refused, Retryable, Fatal) as error:
        log.error("cannot run", reason=str(error))
        return 1
    except ExceptionGroup as group:  # from the workers, who end together
        if group.subgroup(Fatal) is None:
            raise
        log.error("stopped for safety", reason="; ".join(map(str, group.exceptions)))
        return 1
    return 0


async def _live(settings: Settings, observe: bool, turns: Turns) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        engine, ground = await _build(settings, observe, stack)
        control = await _open_doors(settings, engine, ground, turns, stack)
        await _work_until(stop, engine, ground, control)
    log.info("stopped")


async def _build(settings: Settings, observe: bool, stack: AsyncExitStack) -> tuple[Engine, Ground]:
    """Steps 1 to 3."""
    clock, chance = SystemClock(), random.SystemRandom()
    store, contents = await _store(settings, observe, stack)
    names = await inventory_hosts(settings.ansible.inventory)
    check_keepers(list(pools_of(settings)), names)
    mesh = await mesh_of(settings, names)
    runner = open_plays(settings, clock, stack)
    hosts = Hosts(runner, clock, contents.epoch)
    stack.push_async_callback(hosts.close)
    session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
    sinks = [
        *host_sinks(hosts, names, settings.ansible.interface),
        *edge_sinks(settings, store, session, clock),
    ]
    ground = await survey_all(hosts, names, store, contents, sinks, chance, fences=not observe)
    policy: list[Sink] = [Rehearsal(sink) for sink in sinks] if observe else sinks
    records = _records(settings, store, contents)
    access = access_of(settings.marathon)
    marathon = Marathon(
        access, clock, framework=contents.flags.get("framework"), timeout_s=settings.marathon.timeout_s
    )
    await stack.enter_async_context(marathon)
    metrics = Metrics(CollectorRegistry(), version(), [sink.name for sink in policy], framer=IMPLEMENTATION)
    hosts.drops.told = metrics.guards_dropped
    outside = Outside(clock, chance, marathon, policy, hosts.epoch, metrics, observe)
    engine = Engine(settings, records, outside)
    stack.push_async_callback(engine.close)
    if not observe:  # an observer changes nothing on any host
        lay_fabric(engine, hosts, names, mesh)
    adopted = await settle_in(engine, ground)
    await engine.prime()
    silent = ground.found.silent
    log.info(
        "ground laid",
        epoch=hosts.epoch,
        adopted=adopted,
        silent=silent,
        observe=observe,
        framer=IMPLEMENTATION,
    )
    pace = Pace(silence_s=settings.marathon.silence_s)
    engine.condition.reader = StreamReader(access, engine.watch, clock, chance, pace=pace)
    return engine, ground


async def _store(settings: Settings, observe: bool, stack: AsyncExitStack) -> tuple[Store, Contents]:
    """The store, opened. An observer reads the real one, lets go of it and goes on in memory."""
    real = store_of(settings, stack)
    contents = await real.open()
    if contents.created:
        log.warning(
            "there was no store, a new one was made: is this the first start?",
            store=str(settings.store or f"redis, prefix {settings.redis and settings.redis.prefix}"),
        )
    if not observe:
        stack.push_async_callback(real.close)
        return real, contents
    await real.close()
    rehearsed = MemoryStore(contents)
    return rehearsed, await rehearsed.open()


def _records(settings: Settings, store: Store, contents: Contents) -> Records:
    ttl = settings.dns.ttl if settings.dns else 0
    book = LeaseBook(
        pools_of(settings),
        contents.leases,
        contents.pools,
        idle_ttl_s=settings.leases.idle_ttl_s,
        cooling_s=settings.leases.cooling_s,
        dns_ttl_s=ttl,
    )
    if lines := homeless_lines(book):
        raise ConfigRefused(lines)
    return Records(store, book, contents)


def access_of(marathon: MarathonSettings) -> Access:
    """Endpoints and credentials, secrets read from their files."""
    return Access(
        endpoints=marathon.endpoints,
        user=marathon.user,
        password=read_secret(marathon.password_file) if marathon.password_file else None,
        token=read_secret(marathon.token_file) if marathon.token_file else None,
        ca_file=marathon.ca_file,
    )


async def _open_doors(
    settings: Settings, engine: Engine, ground: Ground, turns: Turns, stack: AsyncExitStack
) -> ControlServer:
    """The portal and the control socket: from here on the daemon can be asked."""
    pulse = Pulse(engine.clock)
    beat = start_pulse(pulse)
    stack.callback(beat.cancel)
    engine.metrics.collect_from(engine.report, pulse, turns)
    app = make_app(engine.report, engine.metrics.registry, pulse)
    portal = await serve(app, settings.portal.address, settings.portal.port)
    stack.push_async_callback(portal.cleanup)
    control = ControlServer(
        settings.control.socket,
        engine.report,
        engine,
        group=settings.control.group,
        routes=[
            *doors_adopt.routes(Adopter(engine, ground.hosts, ground.inventory, fences=ground.fences)),
            *doors_history.routes(
                engine.records.store,
                engine.clock,
                ground.hosts.epoch,
                lambda address: engine.records.book.pools.leased(address),
            ),
            *doors_pools.routes(engine.pools),
            *doors_hosts.routes(engine, ground),
            *doors_hosts_check.routes(ground),
            *doors_rebuild.routes(engine.rebuild),
            *doors_verify.routes(engine.verifier, engine.planner),
        ],
    )
    await control.start()
    stack.push_async_callback(control.close)
    return control


async def _work_until(stop: asyncio.Event, engine: Engine, ground: Ground, control: ControlServer) -> None:
    """Steps 4 to 6."""
    assert engine.condition.reader is not None
    tasks = [
        asyncio.create_task(stop.wait(), name="signal"),
        asyncio.create_task(engine.condition.reader.run(), name="stream"),
        asyncio.create_task(engine.watch.run(), name="watch"),
        asyncio.create_task(engine.work(), name="workers"),
        asyncio.create_task(engine.janitor.run(), name="janitor"),
        asyncio.create_task(
            keep_history(engine.records.store, engine.clock, engine.settings.leases.history_keep_s),
            name="history",
        ),
        asyncio.create_task(engine.verifier.run(), name="verifier"),
        asyncio.create_task(engine.patrol.run(), name="patrol"),
        asyncio.create_task(hear_silent_hosts(engine, ground), name="hosts"),
        asyncio.create_task(keep_ways(engine), name="fabric"),
        asyncio.create_task(control.until_fatal(), name="control"),
    ]
    ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    log.info("stopping", because=next(iter(ended)).get_name())
    for task in tasks:
        if task.get_name() != "workers":
            task.cancel()
    with suppress(TimeoutError):  # what hangs is cancelled next; all it wanted is stored
        await asyncio.wait_for(engine.queue.drain(), _LAST_WALKS_S)
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result
    if not stop.is_set():
        raise RuntimeError("a part of the daemon ended by itself, which none may")


async def check(settings: Settings) -> list[tuple[str, bool, str]]:
    """Reach every part and weigh every pool: (part, whether it is well, one line)."""
    async with AsyncExitStack() as stack:
        marathon = Marathon(
            access_of(settings.marathon), SystemClock(), timeout_s=settings.marathon.timeout_s
        )
        await stack.enter_async_context(marathon)
        lines = [await _checked("marathon", lambda: _who_answers(marathon))]
        lines += [await _checked(sink.name, sink.check) for sink in await _sinks_to_check(settings, stack)]
        return lines + await _pools_checked(settings, marathon)


async def check_hosts(settings: Settings, names: Sequence[str]) -> list[HostReport]:
    """What the hosts can do, asked without a daemon; all if none is named. Raises `Refused` for others."""
    async with AsyncExitStack() as stack:
        clock = SystemClock()
        hosts = Hosts(open_plays(settings, clock, stack), clock, NO_EPOCH)
        return await ask_hosts(hosts, await inventory_hosts(settings.ansible.inventory), names)


async def _sinks_to_check(settings: Settings, stack: AsyncExitStack) -> Sequence[Sink]:
    clock = SystemClock()
    runner = open_plays(settings, clock, stack)
    session = await stack.enter_async_context(aiohttp.ClientSession(trust_env=False))
    names = await inventory_hosts(settings.ansible.inventory)
    check_keepers(list(pools_of(settings)), names)
    await mesh_of(settings, names)
    blank = MemoryStore()  # the real one belongs to the daemon that may be running
    await blank.open()
    return [
        host_sinks(Hosts(runner, clock, NO_EPOCH), names, settings.ansible.interface)[0],
        *edge_sinks(settings, blank, session, clock),
    ]


async def _who_answers(marathon: Marathon) -> str:
    found = await marathon.identity()
    return f"Marathon {found.version}, leader {found.leader}"


async def _pools_checked(settings: Settings, marathon: Marathon) -> list[tuple[str, bool, str]]:
    try:
        snapshot = await marathon.snapshot()
        pools, rows = await asyncio.to_thread(_pools_now, settings)
    except (Retryable, Refused) as error:
        return [("pools", False, f"not weighed: {error}")]
    apps = [listing.app for listing in snapshot.apps.values() if listing.app is not None]
    return pool_lines(apps, Claims(rules_of(settings, pools)), pools, rows)


def _pools_now(settings: Settings) -> tuple[Pools, Sequence[PoolRow]]:
    """As the running daemon has them; without one those of the configuration, and nothing of their leases."""
    client = ControlClient(settings.control.socket)
    try:
        return Pools(map(Pool.of, client.ask("GET", "/pools/specs", list[PoolSpec]))), client.pools()
    except (Unreachable, NotPermitted):
        return pools_of(settings), ()


async def _checked(name: str, ask: Callable[[], Awaitable[str]]) -> tuple[str, bool, str]:
    try:
        return name, True, await ask()
    except Exception as error:  # whatever it is, this part cannot be reached, and the others shall be tried
        return name, False, f"{type(error).__name__}: {error}"
