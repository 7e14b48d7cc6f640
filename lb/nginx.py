"""Nginx kept in step: every change is a new generation of its whole configuration.

A flight of changes goes through these steps:

 1. the live configuration on disk must be ours and not of a newer epoch;
 2. the changes are taken into the table; what asks for somebody else's port or name is refused;
 3. if the text differs from the one on disk, or the workers tell another marker: the candidate is tried
    by `nginx -t`, services it does not like are refused alone, and so are ports of other processes;
 4. the new generation is written, `current` is switched to it, the master gets HUP, and only workers
    that tell the new marker count as proof; if they do not come, `current` is switched back;
 5. the marker that was proved covers every member in the file, so all changes in it are done.

Which generation runs is asked in each flight, never remembered: a restart behind our back needs no
special case.  Changes for tcp services are `Done` without effect: Nginx does not serve them here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence

import msgspec
import structlog

from mooring.core.clock import Clock
from mooring.core.errors import Refused
from mooring.core.model import BindingId, Epoch, SinkName
from mooring.core.sink import Change, Done, NotPossible, Observation, Outcome, RetryAfter
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec, Spec
from mooring.lb import files
from mooring.lb.checker import Checker
from mooring.lb.desk import Desk, Flight
from mooring.lb.generations import CONFIG, Generations
from mooring.lb.listeners import refuse_taken_ports
from mooring.lb.model import ServiceKey, Table
from mooring.lb.nginx_process import NginxAway, NginxProcess, ReloadFailed, ensure_directories
from mooring.lb.nginx_render import NginxSettings, Rendering, render, serves
from mooring.lb.offenders import offenders

log = structlog.get_logger(__name__)

_MANIFEST = "members.json"


class NginxSink:
    """The sink "nginx". `observe` is keyed by `upstream/server` and shows only members that are up."""

    name = SinkName("nginx")

    def __init__(self, settings: NginxSettings, clock: Clock) -> None:
        """Own `settings.root` and the process that was started with `current/nginx.conf`."""
        self._settings = settings
        self._desk = Desk(reserved=settings.reserved(), serves=serves)
        self._checker = Checker((settings.binary, "-t", "-c"), settings.check_timeout_s)
        self._process = NginxProcess(settings, clock)
        self._shelf = Generations(settings.root)
        self._accepted: frozenset[ServiceSpec] = frozenset()  # terms that Nginx has taken before

    def lane(self, change: Change) -> str:
        """One balancer, one lane."""
        return str(self._settings.root)

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Fill the table from the store; who holds which port and host name stands in the file."""
        text = await asyncio.to_thread(self._shelf.text)
        self._desk.prime(shown, files.read_claims(text or ""))

    async def check(self) -> str:
        """Reach master and status socket; raises `NginxAway` (retryable) or `Refused`."""
        text = await asyncio.to_thread(self._shelf.text)
        mark = files.read_mark(text or "")
        self._guard(text, mark.epoch if mark else self._desk.epoch)
        version, master = await self._process.version(), self._process.master()
        marker = await self._process.marker()
        return f"Nginx {version} runs as process {master}, generation {marker or 'not ours yet'}"

    async def observe(self) -> Observation:
        """The members in the generation that the workers tell; empty if that is none of ours.

        Raises `NginxAway` if no Nginx runs.
        """
        self._process.master()
        marker = await self._process.marker()
        directory = await asyncio.to_thread(self._shelf.find, marker) if marker else None
        manifest = await asyncio.to_thread(files.read, directory / _MANIFEST) if directory else None
        return Observation(dict(_manifest_of(manifest)))

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """The five steps of this module's header."""
        stored = await asyncio.to_thread(self._shelf.text)
        self._guard(stored, max((change.epoch for change in changes), default=self._desk.epoch))
        flight = self._desk.take(changes)
        running = await self._process.marker()
        rendering = self._render()
        if stored == rendering.text and running == rendering.marker:
            return flight.outcomes(lambda _: Done(changed=False))
        await asyncio.to_thread(ensure_directories, self._settings.root)
        await self._screen(flight)
        trouble = await self._bring_up(flight, running)
        self._desk.accept()
        if trouble is not None:
            reason = trouble
            return flight.outcomes(lambda _: RetryAfter(reason))
        self._accepted = frozenset(service.terms for service in flight.table.services)
        return flight.outcomes(lambda _: Done())

    def _guard(self, text: str | None, epoch: Epoch) -> None:
        path = self._settings.root / "current" / CONFIG
        files.guard(path, text, self._settings.owner, epoch, adopt=self._settings.adopt)

    def _render(self) -> Rendering:
        return render(self._desk.table, self._settings, self._desk.epoch)

    async def _screen(self, flight: Flight) -> None:
        """Refuse the services that `nginx -t` does not accept, alone."""

        async def judge(keys: Collection[ServiceKey]) -> str | None:
            rendering = render(flight.table.only(keys), self._settings, self._desk.epoch)
            return await self._checker.complaint(candidate, rendering.text)

        candidate = self._settings.root / "candidate" / CONFIG
        services = sorted(flight.table.services, key=lambda s: (s.terms not in self._accepted, s.key))
        keys = [service.key for service in services]
        if await judge(keys) is None:
            return
        if (reason := await judge(())) is not None:
            raise Refused(f"Nginx refuses the configuration even without any service: {reason}")
        bad = await offenders(judge, keys, ())
        flight.reject(
            {key: NotPossible(f"app {key[0]}: Nginx refuses it: {why}") for key, why in bad.items()}
        )

    async def _bring_up(self, flight: Flight, running: str | None) -> str | None:
        """Make the table live; returns what prevented it, None if nothing did."""
        try:
            await refuse_taken_ports(flight, self._process.master(), "nginx")
        except NginxAway as error:
            await self._store(self._render())
            await self._process.remove_stale_socket()
            return f"{error}; the configuration on disk is up to date"
        trouble = await self._reload(running)
        if trouble is not None and flight.reject(self._newcomers(flight, trouble), bar=False):
            trouble = await self._reload(running)
        return trouble

    def _newcomers(self, flight: Flight, trouble: str) -> dict[ServiceKey, Outcome]:
        return {
            service.key: RetryAfter(f"app {service.terms.app}: {trouble}")
            for service in flight.table.services
            if service.port is not None and service.terms not in self._accepted
        }

    async def _reload(self, running: str | None) -> str | None:
        rendering = self._render()
        previous = await asyncio.to_thread(self._shelf.current)
        await self._store(rendering)
        if rendering.marker == running:
            return None
        try:
            await self._process.reload(rendering.marker)
        except (ReloadFailed, NginxAway) as error:
            log.error("reload failed, the old generation comes back", reason=str(error))
            if previous is not None:
                await asyncio.to_thread(self._shelf.switch, previous)
                # Without this the master would keep trying for the ports of the generation that failed.
                self._process.signal_reload()
            return str(error)
        log.info("nginx reloaded", generation=rendering.marker)
        return None

    async def _store(self, rendering: Rendering) -> None:
        """Let `current` be this configuration; it and the generation before stay, others go."""
        previous = await asyncio.to_thread(self._shelf.current)
        if await asyncio.to_thread(self._shelf.text) == rendering.text:
            return
        contents = {CONFIG: rendering.text, _MANIFEST: _manifest(self._desk.table)}
        fresh = await asyncio.to_thread(self._shelf.add, rendering.marker, contents)
        await asyncio.to_thread(self._shelf.switch, fresh)
        await asyncio.to_thread(self._shelf.prune, {fresh, *([previous] if previous else [])})


def _manifest_of(text: str | None) -> dict[str, MemberSpec]:
    return msgspec.json.decode(text, type=dict[str, MemberSpec]) if text else {}


def _manifest(table: Table) -> str:
    members = {
        f"{service.name}/{member.name}": MemberSpec(
            (Endpoint(service.terms, member.address, member.port),), member.state
        )
        for service in table.services
        for member in service.members
        if member.state == "up"
    }
    return msgspec.json.encode(members, order="deterministic").decode()
