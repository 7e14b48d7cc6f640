"""What the tests of names have in common: samples, a stranger's hand, and a lossy line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, Outcome
from mooring.core.specs import NameSpec, SharedNameSpec, Spec
from mooring.dns.naming import reverse_name
from mooring.dns.records import OK, Add, NameServer, Question, Remove, RRset, Unanswered, Update
from mooring.dns.rfc2136 import Rfc2136Server
from mooring.dns.sinks import SeatNames, SharedNames
from tests.contract.bind import KEY, REVERSE_ZONE, REVERSE_ZONE_6, SECRET, ZONE, ZONES, Named

OWNER = "site-a"
APP = f"web.shop.{ZONE}"
MARK = "heritage=mooring,owner=site-a,kind=seat"


def client_of(named: Named, **changes: str) -> Rfc2136Server:
    settings = {"key_name": KEY, "secret": SECRET, **changes}
    return Rfc2136Server(named.address, named.port, timeout_s=20, **settings)


def seats_of(server: NameServer, owner: str = OWNER) -> SeatNames:
    return SeatNames(server, zones=[ZONE], reverse_zones=[REVERSE_ZONE, REVERSE_ZONE_6], owner=owner)


def seat(slot: int, address: str | None = None, ttl: int = 10) -> NameSpec:
    return NameSpec(f"web-{slot}.{APP}", address or f"10.64.{slot // 250}.{slot % 250 + 1}", ttl)


def paired(slot: int) -> NameSpec:
    """A seat with an address of either family."""
    single = seat(slot)
    return NameSpec(single.name, single.address, single.ttl, f"2001:db8:64::{slot + 1:x}")


def share(address: str, ttl: int = 10, address6: str | None = None) -> SharedNameSpec:
    return SharedNameSpec(APP, address, ttl, address6)


def change(binding: str, wanted: Spec | None, *was: Spec, epoch: int = 1) -> Change:
    return Change(BindingId(binding), wanted, was, 1, Epoch(epoch))


def entries(*specs: NameSpec) -> dict[str, Spec]:
    """What is seen of seats: each by its own name and by those of its pointers."""
    pointed = [
        (reverse_name(address), NameSpec(spec.name, address, spec.ttl))
        for spec in specs
        for address in (spec.address, spec.address6)
        if address is not None
    ]
    return {spec.name: spec for spec in specs} | dict(pointed)


async def one(sink: SeatNames | SharedNames, wanted: Change) -> Outcome:
    (outcome,) = await sink.apply([wanted])
    return outcome


async def values(server: NameServer, name: str, type_: str = "A") -> set[str]:
    return set((await server.lookup([(name, type_)])).get((name, type_), RRset()).values)


async def everything(server: NameServer) -> dict[Question, RRset]:
    """All records but those of the zones themselves and our epochs."""
    zones = [await server.transfer(zone) for zone in ZONES]
    return {
        (name, type_): rrset
        for sets in zones
        for (name, type_), rrset in sets.items()
        if type_ not in {"SOA", "NS"} and "_mooring-epoch" not in name and not name.startswith("ns.")
    }


async def put(server: NameServer, name: str, type_: str, value: str, zone: str = ZONE) -> None:
    """Somebody else's hand."""
    assert await server.update(Update(zone, (), (Add(name, type_, value, 60),))) == OK


async def take(server: NameServer, name: str, type_: str, value: str, zone: str = ZONE) -> None:
    assert await server.update(Update(zone, (), (Remove(name, type_, value),))) == OK


async def emptied(named: Named) -> Rfc2136Server:
    """A client of the real server, with nothing left in its zones."""
    server = client_of(named)
    for zone in ZONES:
        found = await server.transfer(zone)
        edits = [
            Remove(name, type_, value)
            for (name, type_), rrset in found.items()
            if type_ not in {"SOA", "NS"} and not name.startswith("ns.")
            for value in rrset.values
        ]
        assert await server.update(Update(zone, (), tuple(edits))) == OK
    return server


class Lossy:
    """Carries everything to the real thing, and loses the answers of the next `lost` updates."""

    def __init__(self, inner: NameServer, *, lost: int, delivered: bool) -> None:
        self.where = inner.where
        self._inner = inner
        self._lost = lost
        self._delivered = delivered

    async def lookup(self, questions: Sequence[Question]) -> Mapping[Question, RRset]:
        return await self._inner.lookup(questions)

    async def transfer(self, zone: str) -> Mapping[Question, RRset]:
        return await self._inner.transfer(zone)

    async def update(self, update: Update) -> str:
        if self._lost:
            self._lost -= 1
            if self._delivered:
                await self._inner.update(update)
            raise Unanswered("the answer was lost")
        return await self._inner.update(update)
