"""The two sinks that put names into DNS.

`SeatNames` gives each seat a name of its own: an address record, and a PTR at the address where a reverse
zone of ours holds it; twice where the seat has an address of either family.  `SharedNames` lets many bindings
contribute their addresses to an app's name, adding and removing single values.  Both touch only names that
carry our mark (see `ownership`).

A value leaves only when no other binding shows it: two instances may share their host's address, and the
next instance of a seat may arrive before the last one's departure is worked off.  Hence a sink remembers
what every binding may show; `prime` fills that memory from the store.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from msgspec import structs

from mooring.core.errors import Refused
from mooring.core.model import BindingId, Epoch, SinkName
from mooring.core.sink import Change, Done, NotPossible, Observation, Outcome
from mooring.core.specs import NameSpec, SharedNameSpec, Spec
from mooring.core.strokes import in_strokes
from mooring.dns.fence import Fence
from mooring.dns.naming import (
    address_type,
    canonical_address,
    canonical_zone,
    check_name,
    reverse_name,
    zone_of,
)
from mooring.dns.ownership import Mark, check_owner
from mooring.dns.plan import Facts, Pair, Site
from mooring.dns.reading import Reading, Shown, Stranger, address_of_pointer
from mooring.dns.records import NameServer, RRset
from mooring.dns.settle import Settlement

_ADDRESSES = ("A", "AAAA")
_AT_ONCE = 100  # changes in one message: some 500 records with their prerequisites, far below 64 KB

_Value = tuple[str, Pair]  # name, and what it shows
_S = TypeVar("_S", NameSpec, SharedNameSpec)


class _Names(ABC, Generic[_S]):
    """What both sinks have in common: memory, validation, order, observation."""

    name: SinkName
    kind: str
    alone: bool
    spec_type: type[_S]

    def __init__(
        self, server: NameServer, *, zones: Sequence[str], reverse_zones: Sequence[str] = (), owner: str
    ) -> None:
        """`zones` and `reverse_zones` take dynamic updates at `server`; `owner` tells Moorings apart."""
        self._server = server
        self._zones = tuple(canonical_zone(zone) for zone in zones)
        self._reverse_zones = tuple(canonical_zone(zone) for zone in reverse_zones)
        self._mark = Mark(check_owner(owner), self.kind)
        self._fence = Fence(server, owner)
        self._shown: dict[BindingId, tuple[_S, ...]] = {}

    @abstractmethod
    def _values(self, spec: _S) -> Iterator[_Value]:
        """Every value that shows `spec`, the address first."""

    @abstractmethod
    def _entries(self, found: Shown) -> Iterator[tuple[str, _S]]:
        """What was found, by the natural keys of `observe`."""

    def _joined(self, one: Spec, two: _S) -> Spec:
        """What two record sets under one key tell together; the first of them if they do not go together."""
        return one

    def lane(self, change: Change) -> str:
        """The zone of the name."""
        names = [spec.name for spec in self._specs(change)]
        return zone_of(names[0], self._zones) or "" if names else ""

    async def apply(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        """See `core.sink`. An unusable name or address is `NotPossible` for its change alone."""
        outcomes: dict[BindingId, Outcome] = {}
        for change in changes:
            fault = self._fault(change)
            if fault is not None:
                outcomes[change.binding] = NotPossible(fault)
        sound = [change for change in changes if change.binding not in outcomes]
        held = self._held(sound)
        for change in sound:
            self._shown[change.binding] = self._specs(change)
        for start in range(0, len(sound), _AT_ONCE):
            part = sound[start : start + _AT_ONCE]
            epoch = max(change.epoch for change in part)
            settlement = Settlement(self._server, self._fence, epoch)
            settled = await settlement.settle([self._wish(change, held) for change in part])
            outcomes.update((change.binding, done) for change, done in zip(part, settled, strict=True))
        for change in sound:
            if isinstance(outcomes[change.binding], Done):
                self._remember(change.binding, (change.wanted,))
        return [outcomes[change.binding] for change in changes]

    async def observe(self) -> Observation:
        """All that stands under our mark in the zones; the TTL is that of the record set.

        What stands there without the mark is told by `SeatNames` alone, as both sinks look at one zone.
        """
        shown: dict[str, Spec] = {}
        faults: dict[str, str] = {}
        foreign: list[str] = []
        zones = (*self._zones, *self._reverse_zones)
        for zone in zones:
            async for found in self._read(zone):
                if isinstance(found, Stranger):
                    foreign += [found.line] if self.alone else []
                    continue
                for key, spec in self._entries(found):
                    both = self._joined(shown[key], spec) if key in shown else spec
                    if both == shown.setdefault(key, spec) != spec:
                        faults[key] = f"it shows {' and '.join(sorted(found.rrset.values))}"
                    shown[key] = both
        return Observation(shown, tuple(sorted(foreign)), faults, frozenset(zones))

    async def _read(self, zone: str) -> AsyncIterator[Shown | Stranger]:
        sets = await self._server.transfer(zone)
        types = ("PTR",) if zone in self._reverse_zones else _ADDRESSES
        reading = Reading(zone, sets, self._mark, types)
        async for question, rrset in in_strokes(sets.items()):
            reading.note(question, rrset)
        async for question, rrset in in_strokes(sets.items()):
            found = reading.judge(question, rrset)
            if found is not None:
                yield found

    async def prime(self, shown: Mapping[BindingId, Sequence[Spec]]) -> None:
        """Remember what the store says may be out there."""
        for binding, specs in shown.items():
            self._remember(binding, specs)

    async def check(self) -> str:
        """Ask for the SOA of every zone, and whether our key may update it; changes nothing."""
        zones = (*self._zones, *self._reverse_zones)
        answers = await self._server.lookup([(zone, "SOA") for zone in zones])
        for zone in zones:
            if (zone, "SOA") not in answers:
                raise Refused(f"name server {self._server.where} does not serve zone {zone}")
            await self._fence.probe(zone)
        serials = (f"{zone} serial {_serial(answers[zone, 'SOA'])}" for zone in zones)
        return f"name server {self._server.where}: {', '.join(serials)}"

    async def newest_epoch(self) -> Epoch:
        """The highest epoch that ever wrote to our zones; a new daemon must start above it."""
        return await self._fence.newest((*self._zones, *self._reverse_zones))

    async def fence(self, epoch: Epoch) -> None:
        """From now on the name server takes nothing from older daemons, also what they have sent already.

        Raises `Fenced` if a newer one has written.
        """
        for zone in (*self._zones, *self._reverse_zones):
            await self._fence.require(zone, epoch)

    def _specs(self, change: Change) -> tuple[_S, ...]:
        return self._ours((change.wanted, *change.was))

    def _ours(self, specs: Iterable[Spec | None]) -> tuple[_S, ...]:
        return tuple(dict.fromkeys(spec for spec in specs if isinstance(spec, self.spec_type)))

    def _remember(self, binding: BindingId, specs: Iterable[Spec | None]) -> None:
        kept = self._ours(specs)
        if kept:
            self._shown[binding] = kept
        else:
            self._shown.pop(binding, None)

    def _fault(self, change: Change) -> str | None:
        """Why the change cannot be tried. What cannot be wanted was never shown, so `was` needs no check."""
        if change.wanted is None:
            return None
        if not isinstance(change.wanted, self.spec_type):
            return f"sink {self.name} cannot show a {type(change.wanted).__name__}"
        try:
            check_name(change.wanted.name)
            for address in _addresses(change.wanted):
                canonical_address(address)
        except Refused as error:
            return str(error)
        if zone_of(change.wanted.name, self._zones) is None:
            return f"name {change.wanted.name} is in none of our zones ({', '.join(self._zones)})"
        return None

    def _held(self, changes: Sequence[Change]) -> set[_Value]:
        """What must stay whoever leaves: all that other bindings show, and all that these want."""
        batch = {change.binding for change in changes}
        others = (specs for binding, specs in self._shown.items() if binding not in batch)
        kept = [spec for specs in others for spec in specs]
        kept += self._ours(change.wanted for change in changes)
        return {value for spec in kept for value in self._values_or_none(spec)}

    def _wish(self, change: Change, held: set[_Value]) -> list[Site]:
        wanted, was = self._ours((change.wanted,)), self._ours(change.was)
        keep = [(value, spec.ttl) for spec in wanted for value in self._values_or_none(spec)]
        left = [value for spec in was for value in self._values_or_none(spec) if value not in held]
        sites = [replace(self._site(name), ttl=ttl, keep=frozenset({pair})) for (name, pair), ttl in keep]
        sites += [replace(self._site(name), drop=frozenset({pair})) for name, pair in left]
        if not self.alone:  # others write there too
            return sites
        shown: dict[str, Facts] = {}
        for spec in was:
            shown |= self._shown_as(spec)
        return [replace(site, presumed=shown.get(site.name, Facts())) for site in sites]

    def _shown_as(self, spec: _S) -> dict[str, Facts]:
        """The facts at each name of a spec that stands."""
        sets: dict[str, dict[str, RRset]] = {}
        for name, (type_, value) in self._values_or_none(spec):
            sets.setdefault(name, {})[type_] = RRset(frozenset({value}), spec.ttl)
        return {name: Facts(frozenset({str(self._mark)}), by_type) for name, by_type in sets.items()}

    def _values_or_none(self, spec: _S) -> list[_Value]:
        """The values of a spec; none of one that could never have been shown."""
        try:
            check_name(spec.name)
            return list(self._values(spec))
        except Refused:
            return []

    def _site(self, name: str) -> Site:
        reverse = zone_of(name, self._reverse_zones)
        types = _ADDRESSES if reverse is None else ("PTR",)
        zone = reverse or zone_of(name, self._zones) or ""
        return Site(zone, name, self._mark, types, self.alone)


class SeatNames(_Names[NameSpec]):
    """One name for each seat, with its PTR. Observed by name: that of the seat, and that of its pointer."""

    name = SinkName("names")
    kind = "seat"
    alone = True
    spec_type = NameSpec

    def _values(self, spec: NameSpec) -> Iterator[_Value]:
        if zone_of(spec.name, self._zones) is None:
            return
        for address in _addresses(spec):
            yield spec.name, (address_type(address), canonical_address(address))
        for pointer in map(reverse_name, _addresses(spec)):
            if zone_of(pointer, self._reverse_zones) is not None:
                yield pointer, ("PTR", spec.name)

    def _entries(self, found: Shown) -> Iterator[tuple[str, NameSpec]]:
        for value in sorted(found.rrset.values):
            if found.type != "PTR":
                yield found.name, NameSpec(found.name, value, found.rrset.ttl)
            elif (address := address_of_pointer(found.name)) is not None:
                yield found.name, NameSpec(value, canonical_address(address), found.rrset.ttl)

    def _joined(self, one: Spec, two: NameSpec) -> Spec:
        """A and AAAA of one name are one spec; which of them is read first is not known."""
        if not isinstance(one, NameSpec) or one.address6 is not None or one.ttl != two.ttl:
            return one
        types = (address_type(one.address), address_type(two.address))
        if one.name != two.name or types not in (_ADDRESSES, _ADDRESSES[::-1]):
            return one
        four, six = (one, two) if types == _ADDRESSES else (two, one)
        return structs.replace(four, address6=six.address)


class SharedNames(_Names[SharedNameSpec]):
    """Names to which several bindings contribute. Observed by "name/address"."""

    name = SinkName("app_names")
    kind = "shared"
    alone = False
    spec_type = SharedNameSpec

    def _values(self, spec: SharedNameSpec) -> Iterator[_Value]:
        if zone_of(spec.name, self._zones) is not None:
            for address in _addresses(spec):
                yield spec.name, (address_type(address), canonical_address(address))

    def _entries(self, found: Shown) -> Iterator[tuple[str, SharedNameSpec]]:
        for address in sorted(found.rrset.values):
            spec = SharedNameSpec(found.name, address, found.rrset.ttl)
            yield shared_key(spec), spec


def shared_key(spec: SharedNameSpec) -> str:
    """The natural key of one address in a shared name; see `SharedNames`."""
    return f"{spec.name}/{spec.address}"


def _addresses(spec: NameSpec | SharedNameSpec) -> tuple[str, ...]:
    return (spec.address,) if spec.address6 is None else (spec.address, spec.address6)


def _serial(soa: RRset) -> str:
    return next(iter(soa.values)).split()[2]
