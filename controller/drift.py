"""What stands there, against what our records say stands there: a pure comparison.

    the records say      found there            finding
    shown                nothing                missing
    shown                something else         different   (also: shown, and something wrong with it)
    nobody's             under our mark         surplus
    -                    without our mark       foreign

Only what is settled is judged.  A binding that is on its way in, out or elsewhere at this sink is in the air:
neither its presence nor its absence proves anything, so everything that it may have there is left out of
the comparison.  The same goes for a key that two bindings claim with different contents, and for whatever
lies at a place (a host, a zone) that could not be read.

A sink shows one spec under several keys (each member of a service, a name and its pointer), and some of a
spec nowhere (a port's mark does not tell its routes).  `standing` says what an applied spec looks like to
somebody who observes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from mooring.controller.breath import Breath
from mooring.core.bandwidth import bandwidth_text
from mooring.core.errors import Refused
from mooring.core.model import Binding, BindingId, SinkName
from mooring.core.sink import Observation
from mooring.core.specs import (
    Endpoint,
    ItemSpec,
    MemberSpec,
    NameSpec,
    PortSpec,
    ServiceSpec,
    SharedNameSpec,
    Spec,
)
from mooring.dns.naming import canonical_address, reverse_name, zone_of
from mooring.dns.sinks import shared_key
from mooring.handlers.hosts import as_marked, port_key
from mooring.handlers.wants import NGINX
from mooring.lb.model import canonical, member_key
from mooring.lb.nginx_render import serves

_ANY_SERVICE = ServiceSpec("", 0, "", 0)


class Kind(StrEnum):
    """What is wrong with a thing."""

    MISSING = "missing"
    SURPLUS = "surplus"  # ours, and nobody's
    DIFFERENT = "different"
    FOREIGN = "foreign"  # in our place and not ours


class Finding(msgspec.Struct, frozen=True):
    """One difference, as people and programs are told of it."""

    sink: str
    kind: Kind
    key: str  # the sink's own name for the thing
    detail: str
    app: str | None = None
    instance: str | None = None  # whose it is; None if nobody's
    remedy: str = ""  # what becomes of it


class Claim(msgspec.Struct, frozen=True, gc=False):
    """What shall be found under one key, and for whom."""

    spec: Spec
    binding: Binding
    generation: int


@dataclass(frozen=True, slots=True)
class Deviation:
    """A finding with what a repair needs."""

    finding: Finding
    claim: Claim | None = None  # whose share has to be shown again
    stands: Spec | None = None  # what has to be undone
    dead: bool = False  # nothing lives behind what stands there


@dataclass(slots=True)
class Expected:
    """What one sink should show: everything settled by key, and the keys that prove nothing now."""

    claims: dict[str, Claim] = field(default_factory=dict)
    in_the_air: set[str] = field(default_factory=set)

    def take(self, sink: SinkName, binding: Binding) -> None:
        """Add one binding's share."""
        state = binding.sink(sink)
        if not state.settled:
            for spec in (state.wanted, *state.shown):
                self.in_the_air.update(key for key, _ in standing(sink, spec))
            return
        for key, spec in standing(sink, state.applied):
            rival = self.claims.get(key)
            if rival is not None and rival.spec != spec:
                self.in_the_air.add(key)
            self.claims[key] = Claim(spec, binding, state.generation)


async def expected_of(sink: SinkName, bindings: Iterable[Binding], breath: Breath) -> Expected:
    """What the sink should show for all these bindings."""
    expected = Expected()
    for binding in bindings:
        expected.take(sink, binding)
        await breath.draw()
    return expected


async def deviations(
    sink: SinkName, expected: Expected, seen: Observation, breath: Breath
) -> AsyncIterator[Deviation]:
    """Every difference between the two."""
    for key, claim in expected.claims.items():
        await breath.draw()
        if key not in expected.in_the_air and _is_read(key, claim.spec, seen.places):
            detail = _judged(key, claim.spec, seen)
            if detail is not None:
                yield Deviation(_finding(sink, *detail, key, claim.binding), claim)
    for key, spec in seen.shown.items():
        await breath.draw()
        if key not in expected.claims and key not in expected.in_the_air:
            dead = key in seen.dead
            yield Deviation(_finding(sink, Kind.SURPLUS, told(spec), key), stands=spec, dead=dead)
    for line in seen.foreign:
        thing, _, whose = line.rpartition(": ")
        yield Deviation(_finding(sink, Kind.FOREIGN, whose, thing or line))


def standing(sink: SinkName, spec: Spec | None) -> Iterator[tuple[str, Spec]]:
    """What an observation shows of an applied spec, by key."""
    match spec:
        case PortSpec():
            yield port_key(spec), as_marked(spec)
        case NameSpec():
            yield from _name(spec)
        case SharedNameSpec():
            for address in _addresses(spec):
                shown = SharedNameSpec(spec.name, address, spec.ttl)
                yield shared_key(shown), shown
        case ItemSpec():
            yield spec.key, spec
        case MemberSpec():
            for endpoint in spec.endpoints:
                if sink != NGINX or (spec.state == "up" and serves(endpoint.service)):
                    yield member_key(endpoint), _member(spec.state, endpoint)
        case _:
            return  # nothing that can be read back


def _name(spec: NameSpec) -> Iterator[tuple[str, Spec]]:
    addresses = _addresses(spec)
    if addresses:
        yield spec.name, NameSpec(spec.name, addresses[0], spec.ttl, *addresses[1:])
    for address in addresses:
        yield reverse_name(address), NameSpec(spec.name, address, spec.ttl)


def _addresses(spec: NameSpec | SharedNameSpec) -> list[str]:
    try:
        return [canonical_address(text) for text in (spec.address, spec.address6) if text is not None]
    except Refused:
        return []  # such a name was never shown


def _member(state: str, endpoint: Endpoint) -> MemberSpec:
    return MemberSpec((Endpoint(_ANY_SERVICE, canonical(endpoint.address), endpoint.port),), state)


def _is_read(key: str, spec: Spec, places: frozenset[str]) -> bool:
    """Whether the place where this should stand was looked at. A pointer may lie outside of our zones."""
    match spec:
        case PortSpec():
            return spec.host in places
        case NameSpec():
            return zone_of(key, places) is not None
        case SharedNameSpec():
            return zone_of(spec.name, places) is not None
    return True


def _judged(key: str, wanted: Spec, seen: Observation) -> tuple[Kind, str] | None:
    found = seen.shown.get(key)
    if found is None:
        return Kind.MISSING, told(wanted)
    differences = _differences(wanted, _comparable(found))
    if key in seen.faults:
        differences = [seen.faults[key]]
    return (Kind.DIFFERENT, ", ".join(differences)) if differences else None


def _comparable(found: Spec) -> Spec:
    if isinstance(found, MemberSpec) and len(found.endpoints) == 1:
        try:
            return _member(found.state, found.endpoints[0])
        except ValueError:  # somebody gave the server a name or a socket in place of an address
            return found
    return found


def _differences(wanted: Spec, found: Spec) -> list[str]:
    if wanted == found:
        return []
    if isinstance(wanted, MemberSpec) and isinstance(found, MemberSpec):
        pairs = [("state", wanted.state, found.state), ("endpoint", _endpoints(wanted), _endpoints(found))]
    else:
        fields = [name for name in wanted.__struct_fields__ if hasattr(found, name)]
        pairs = [(name, getattr(wanted, name), getattr(found, name)) for name in fields]
    return [f"{name} is {there} in place of {due}" for name, due, there in pairs if due != there]


def told(spec: Spec | None) -> str:
    """A spec in a few words."""
    match spec:
        case PortSpec():
            vlan = "" if spec.vlan is None else f" in VLAN {spec.vlan}"
            second = f" and {spec.address6}/{spec.prefix6}" if spec.address6 else ""
            rates = bandwidth_text(spec.rate_out, spec.rate_in)
            limit = f" limited to {rates}" if rates else ""
            return f"port of {spec.task} with {spec.address}/{spec.prefix}{second}{vlan}{limit}"
        case NameSpec():
            return f"{spec.name} and {spec.address}"
        case SharedNameSpec():
            return f"{spec.name} at {spec.address}"
        case ItemSpec():
            return f"{spec.status}, {spec.address or 'no address'} on {spec.host}"
        case MemberSpec():
            return f"{spec.state} at {_endpoints(spec)}"
        case None:
            return "nothing"
    return type(spec).__name__


def _endpoints(spec: MemberSpec) -> str:
    return " ".join(f"{end.address}:{end.port}" for end in spec.endpoints)


def _finding(sink: SinkName, kind: Kind, detail: str, key: str, owner: Binding | None = None) -> Finding:
    if owner is None:
        return Finding(sink, kind, key, detail)
    return Finding(sink, kind, key, detail, owner.app, owner.id)


def key_of(deviation: Deviation) -> tuple[str, str, str, BindingId | None, int]:
    """What makes two sights of a deviation the same: thing, owner and generation."""
    finding, claim = deviation.finding, deviation.claim
    return (
        finding.sink,
        finding.kind,
        finding.key,
        claim.binding.id if claim else None,
        claim.generation if claim else 0,
    )
