"""HAProxy kept in step: one file, one running process, one table behind both.

A flight of changes goes through these steps:

 1. the file on disk must be ours and not of a newer epoch;
 2. the changes are taken into the table; what asks for somebody else's port or name is refused;
 3. if the running process has another structure than the table (frontends, backends, options), or is
    away: the new file is tried by `haproxy -c`, and services it does not like are refused alone;
 4. if it has another structure: ports that other processes hold are refused alone, the file is replaced,
    HAProxy reloads once; if that fails the old file comes back and the newcomers wait;
 5. members are added, enabled, drained, taken out through the runtime API, whatever the cause of the
    difference (a change, a reload, somebody's restart); then the file follows;
 6. all states are read back, and only what is really shown counts as done.

Nothing is remembered about the process between flights: which structure it runs and what its servers do
is asked each time, so a restart behind our back needs no special case.  HAProxy cannot compare epochs:
a daemon that lost its leadership can still write until it notices; the file's mark narrows that window.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Refused
from mooring.core.model import BindingId, SinkName
from mooring.core.sink import Change, Done, NotPossible, Observation, Outcome, RetryAfter
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec, Spec
from mooring.lb import files, haproxy_diff
from mooring.lb.checker import Checker
from mooring.lb.desk import Desk, Flight
from mooring.lb.haproxy_render import HaproxySettings, Rendering, render
from mooring.lb.haproxy_runtime import Cli, Info, ReloadFailed, Runtime, ServerKey, SocketAway
from mooring.lb.listeners import refuse_taken_ports
from mooring.lb.model import Service, ServiceKey, server_name, service_name
from mooring.lb.offenders import offenders

log = structlog.get_logger(__name__)


class HaproxySink:
    """The sink "haproxy". `observe` is keyed by `backend/server`."""

    name = SinkName("haproxy")

    def __init__(self, settings: HaproxySettings, clock: Clock) -> None:
        """Own `settings.config` and the process that was started with it."""
        self._settings = settings
        self._desk = Desk(reserved=settings.reserved())
        self._checker = Checker((settings.binary, "-c", "-f"), settings.check_timeout_s)
        self._runtime = Runtime(
            Cli(settings.runtime_socket, settings.command_timeout_s),
            Cli(settings.master_socket, settings.command_timeout_s),
            clock,
            settings.reload_timeout_s,
        )
        self._accepted: frozenset[ServiceSpec] = frozenset()  # terms that HAProxy has taken before

    def lane(self, change: Change) -> str:
        """One balancer, one lane."""
        return str(self._settings.config)

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Fill the table from the store; who holds which port and host name stands in the file."""
        text = await asyncio.to_thread(files.read, self._settings.config)
        self._desk.prime(shown, files.read_claims(text or ""))

    async def check(self) -> str:
        """Reach both sockets; raises `SocketAway` (retryable) or `Refused`."""
        text = await asyncio.to_thread(files.read, self._settings.config)
        mark = files.read_mark(text or "")
        epoch = mark.epoch if mark else self._desk.epoch
        files.guard(self._settings.config, text, self._settings.owner, epoch, adopt=self._settings.adopt)
        info = await self._runtime.info()
        processes = await self._runtime.processes()
        return (
            f"HAProxy {info.version} answers on {self._settings.runtime_socket} (worker {info.pid}), "
            f"its master on {self._settings.master_socket} ({processes.reloads} reloads)"
        )

    async def observe(self) -> Observation:
        """The real state of every server that is wanted or takes traffic."""
        servers = await self._runtime.servers()
        wanted = haproxy_diff.members(self._desk.table)
        terms = {service.name: service.terms for service in self._desk.table.services}
        shown: dict[str, Spec] = {
            f"{backend}/{server.name}": MemberSpec(
                (Endpoint(terms.get(backend, _unknown(backend)), server.address, server.port),), server.state
            )
            for (backend, _), server in servers.items()
            if (backend, server.name) in wanted or server.state != "declared"
        }
        return Observation(shown)

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """The six steps of this module's header."""
        stored = await asyncio.to_thread(files.read, self._settings.config)
        epoch = max(change.epoch for change in changes) if changes else self._desk.epoch
        files.guard(self._settings.config, stored, self._settings.owner, epoch, adopt=self._settings.adopt)
        flight = self._desk.take(changes)
        try:
            info = await self._runtime.info()
        except SocketAway as error:
            return await self._without_process(flight, stored, error)
        trouble = await self._restructure(flight, info, stored)
        worked, said = await self._push()
        if trouble is None:
            worked = await self._follow(stored) or worked
        self._desk.accept()
        wrong = haproxy_diff.differences(haproxy_diff.members(flight.table), await self._runtime.servers())
        if wrong:
            log.warning("haproxy does not show all that it shall", servers=len(wrong), said=said[:5])
        return flight.outcomes(lambda change: _judge(flight, change, wrong, trouble, said, worked))

    def _render(self) -> Rendering:
        return render(self._desk.table, self._settings, self._desk.epoch)

    async def _without_process(
        self, flight: Flight, stored: str | None, error: SocketAway
    ) -> Sequence[Outcome]:
        await self._screen(flight)
        await self._follow(stored)
        self._desk.accept()
        reason = f"{error}; the file {self._settings.config} is up to date"
        return flight.outcomes(lambda _: RetryAfter(reason))

    async def _screen(self, flight: Flight) -> None:
        """Refuse the services that `haproxy -c` does not accept, alone."""

        async def judge(keys: Collection[ServiceKey]) -> str | None:
            rendering = render(flight.table.only(keys), self._settings, self._desk.epoch)
            return await self._checker.complaint(candidate, rendering.text)

        candidate = self._settings.config.with_name(self._settings.config.name + ".candidate")
        every = [service.key for service in flight.table.services]
        if await judge(every) is None:
            return
        if (reason := await judge(())) is not None:
            raise Refused(f"HAProxy refuses the configuration even without any service: {reason}")
        bad = await offenders(judge, self._newcomers_last(flight), ())
        flight.reject(
            {key: NotPossible(f"app {key[0]}: HAProxy refuses it: {why}") for key, why in bad.items()}
        )

    def _newcomers_last(self, flight: Flight) -> list[ServiceKey]:
        """What clashes loses to what was accepted earlier."""
        services = sorted(flight.table.services, key=lambda s: (s.terms not in self._accepted, s.key))
        return [service.key for service in services]

    async def _restructure(self, flight: Flight, info: Info, stored: str | None) -> str | None:
        """Make HAProxy run the table's structure; returns what prevented it, None if nothing did."""
        if self._render().structure == info.structure:
            self._remember(flight.table.services)
            return None
        await self._screen(flight)
        await refuse_taken_ports(flight, info.pid, "haproxy")
        trouble = await self._reload(info, stored)
        if trouble is not None and flight.reject(self._newcomers(flight, trouble), bar=False):
            trouble = await self._reload(info, stored)
        if trouble is None:
            self._remember(flight.table.services)
        return trouble

    def _newcomers(self, flight: Flight, trouble: str) -> dict[ServiceKey, Outcome]:
        return {
            service.key: RetryAfter(f"app {service.terms.app}: {trouble}")
            for service in flight.table.services
            if service.terms not in self._accepted
        }

    async def _reload(self, info: Info, stored: str | None) -> str | None:
        rendering = self._render()
        if rendering.structure == info.structure:
            return None
        await asyncio.to_thread(files.replace_durably, self._settings.config, rendering.text)
        try:
            fresh = await self._runtime.reload(rendering.structure)
        except (ReloadFailed, SocketAway) as error:
            log.error("reload failed, the old file comes back", reason=str(error))
            if stored is not None:
                await asyncio.to_thread(files.replace_durably, self._settings.config, stored)
            return str(error)
        log.info("haproxy reloaded", worker=fresh.pid, structure=rendering.structure)
        return None

    def _remember(self, services: Sequence[Service]) -> None:
        self._accepted = frozenset(service.terms for service in services)

    async def _push(self) -> tuple[bool, list[str]]:
        """Bring the running servers to the table; returns whether anything was done, and what was said."""
        wanted = haproxy_diff.members(self._desk.table)
        servers = await self._runtime.servers()
        backends = await self._runtime.backends()
        steps = haproxy_diff.commands(wanted, servers, backends, self._settings)
        said = await self._runtime.tell(steps)
        if leftovers := {key for key in servers if key not in wanted and key[0] in backends}:
            steps_after = haproxy_diff.deletions(leftovers, await self._runtime.unused())
            await self._runtime.tell(steps_after)
        return bool(steps), said

    async def _follow(self, stored: str | None) -> bool:
        """Let the file say what the process does; returns whether `stored` said something else."""
        text = self._render().text
        if await asyncio.to_thread(files.read, self._settings.config) != text:
            await asyncio.to_thread(files.replace_durably, self._settings.config, text)
        if stored is not None and files.altered(stored):
            log.warning("the file was changed by hand, overwritten", path=str(self._settings.config))
        return text != stored


def _unknown(backend: str) -> ServiceSpec:
    return ServiceSpec(app=backend, index=0, mode="http", port=0)


def _judge(
    flight: Flight,
    change: Change,
    wrong: Mapping[ServerKey, str],
    trouble: str | None,
    said: Sequence[str],
    worked: bool,
) -> Outcome:
    if trouble is not None:
        return RetryAfter(trouble)
    for endpoint in flight.touched(change):
        service = endpoint.service
        key = (service_name(service.app, service.index), server_name(endpoint.address, endpoint.port))
        if key in wrong:
            return RetryAfter(
                f"HAProxy shows {'/'.join(key)} as {wrong[key]}; it said {' '.join(said[:3])!r}"
            )
    return Done(changed=worked)
