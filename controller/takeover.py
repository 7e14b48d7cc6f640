"""Which containers that pipework or a script has wired may become ours, with their addresses. Pure.

A host tells of every address of a Mesos container on a port without our mark.  It may be taken over only if
afterwards nothing has to change that its traffic would feel, and if nobody else has a right to the address.
The rules are asked in this order; the first that objects gives the reason:

    the host            the other end is a port of our bridge, and the switch uses it
    alone               no second container has the address, nor this one a second address of its pool
    listed              Marathon runs that task on that host
    asks                its app asks for a pool, and its labels are in order
    in the pool         the address is one that this pool gives out, to this app
    wired alike         prefix, VLAN and gateway are the pool's, of both families in a paired pool
    heard               its interface has no address that the guards of a port of ours would silence
    free                no lease is in the way: cooling and conflicted are none, for this is who answers there
    unseated            Mooring shows the instance at no other address

In a paired pool the interface may have the partner of the address already; the two are taken over together.

An instance may have another seat of which nothing is shown yet: that is where it waits, because an attach
refuses a container that others have wired.  It gives that seat back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from mooring.controller.claims import Claims
from mooring.core.errors import Refused
from mooring.core.labels import Claim
from mooring.core.model import App, AppId, Binding, BindingId, Instance, LeaseState, State
from mooring.core.specs import MemberSpec, PortSpec, Spec
from mooring.handlers.hosts import Answer
from mooring.handlers.records import Records
from mooring.handlers.wants import NETWORK
from mooring.ipam.numbers import Address, address_of
from mooring.ipam.pools import Pool

_ALIVE = (State.STARTING, State.RUNNING, State.UNREACHABLE)
_IN_HAND = (LeaseState.BOUND, LeaseState.STRANDED)


class RouteTold(msgspec.Struct, frozen=True):
    """A route inside a container."""

    to: str
    via: str | None = None


class Candidate(msgspec.Struct, frozen=True):
    """One address of one container, as its host tells of it."""

    host: str
    task: str
    container: str  # which start of it
    interface: str = ""  # as the container calls it
    address: str = ""
    prefix: int = 0
    mac: str = ""
    mtu: int = 0
    routes: tuple[RouteTold, ...] = ()
    port: str = ""
    vlan: int | None = None
    problem: str = ""  # why its host cannot take it over

    @property
    def home(self) -> tuple[str, str]:
        """Where Marathon would know it."""
        return self.host, self.task

    @property
    def place(self) -> tuple[str, str, str]:
        """The interface that has the address."""
        return self.host, self.task, self.interface


def candidates_in(host: str, answer: Answer) -> list[Candidate]:
    """What an answer to "survey" tells."""
    rows = answer.get("containers", ())
    return [msgspec.convert({**row, "host": host}, Candidate) for row in rows]


def at_home(candidates: Iterable[Candidate], instances: Iterable[Instance]) -> list[Candidate]:
    """Without what a host tells of containers that are another's.

    One engine may serve several hosts, as in the lab; then each of them tells all containers, and Marathon's
    word tells whose they are.
    """
    homes = {str(one.task): str(one.host) for one in instances}
    return [one for one in candidates if not one.problem or homes.get(one.task, one.host) == one.host]


@dataclass(frozen=True, slots=True)
class Around:
    """What a candidate is compared with."""

    instances: Mapping[tuple[str, str], Instance]  # by host and task
    app: Callable[[AppId], App | None]
    claims: Claims
    records: Records
    holders: Mapping[str, int]  # how many candidates have an address
    addresses: Mapping[tuple[str, str], Sequence[str]]  # of each host and task
    beside: Mapping[tuple[str, str, str], Mapping[str, int]]  # of each interface, with prefix lengths

    def instance_of(self, candidate: Candidate) -> Instance | None:
        """Whom Marathon knows at that place."""
        return self.instances.get(candidate.home)

    def claim_of(self, candidate: Candidate) -> Claim | None:
        """What its app asks for, if that is known."""
        instance = self.instance_of(candidate)
        app = self.app(instance.app) if instance else None
        return self.claims.of(app) if app else None


def look_around(
    candidates: Sequence[Candidate],
    instances: Iterable[Instance],
    app: Callable[[AppId], App | None],
    claims: Claims,
    records: Records,
) -> Around:
    """Everything that the rules ask for, indexed once."""
    homes = {(str(one.host), str(one.task)): one for one in instances if one.host is not None}
    addresses: dict[tuple[str, str], list[str]] = {}
    beside: dict[tuple[str, str, str], dict[str, int]] = {}
    for candidate in candidates:
        addresses.setdefault(candidate.home, []).append(candidate.address)
        beside.setdefault(candidate.place, {})[candidate.address] = candidate.prefix
    holders = Counter(candidate.address for candidate in candidates if candidate.address)
    return Around(homes, app, claims, records, holders, addresses, beside)


def second_of(candidate: Candidate, around: Around) -> tuple[str, int] | None:
    """The partner of its address in a paired pool, with its prefix length, if that is there as well."""
    pool = _pool(candidate, around)
    partner = pool.partner(candidate.address) if pool is not None else None
    there = around.beside[candidate.place]
    return (partner, there[partner]) if partner is not None and partner in there else None


def is_second(candidate: Candidate, around: Around) -> bool:
    """Whether it is only the partner of an address of the same interface, and goes with that."""
    leased = around.records.book.pools.leased(candidate.address) if _address(candidate) else ""
    return leased != candidate.address and leased in around.beside[candidate.place]


def why_not(candidate: Candidate, around: Around) -> str:
    """Why it cannot be taken over; "" if it can."""
    return next((why for rule in _RULES if (why := rule(candidate, around))), "")


def _host(candidate: Candidate, around: Around) -> str:
    return candidate.problem


def _alone(candidate: Candidate, around: Around) -> str:
    count = around.holders[candidate.address]
    return f"{count} interfaces have {candidate.address}; stop all but one" if count > 1 else ""


def _listed(candidate: Candidate, around: Around) -> str:
    instance = around.instance_of(candidate)
    if instance is None:
        return "Marathon lists no such task on this host"
    return "" if instance.state in _ALIVE else f"its instance is {instance.state}"


def _asks(candidate: Candidate, around: Around) -> str:
    instance = around.instance_of(candidate)
    assert instance is not None, "it is listed"
    claim = around.claim_of(candidate)
    if claim is None:
        return around.claims.refusals.get(instance.app, "its app is not known yet; try again")
    return "" if claim.pool else f"{instance.app} does not ask for a pool (label MOORING_POOL)"


def _in_the_pool(candidate: Candidate, around: Around) -> str:
    claim, address = around.claim_of(candidate), _address(candidate)
    assert claim is not None, "it asks for a pool"
    pool = _pool(candidate, around)
    if pool is None or address is None:
        return f"no pool contains {candidate.address}"
    if pool.name != claim.pool:
        return f"{candidate.address} is in pool {pool.name}, and {claim.app} asks for {claim.pool}"
    if not pool.allows(claim.app):
        return f"pool {pool.name} is not for {claim.app}, only for {', '.join(pool.groups)}"
    if claim.pinned and candidate.address not in claim.pinned:
        return f"{claim.app} asks for {', '.join(claim.pinned)} only (label MOORING_IPS)"
    refusal = pool.refusal(address)
    if refusal is not None:
        return f"{candidate.address} {refusal} (pool {pool.name})"
    several = [one for one in around.addresses[candidate.home] if _is_in(one, pool)]
    return f"the container has {', '.join(sorted(several))} of pool {pool.name}" if len(several) > 1 else ""


def _wired_alike(candidate: Candidate, around: Around) -> str:
    pool = _pool(candidate, around)
    assert pool is not None, "it is in the pool"
    if candidate.prefix != pool.network.prefixlen:
        return f"its prefix is /{candidate.prefix}, that of pool {pool.name} is /{pool.network.prefixlen}"
    if candidate.vlan != pool.vlan:
        return f"its port is {_told(candidate.vlan)}, pool {pool.name} is {_told(pool.vlan)}"
    everywhere = "0.0.0.0/0" if pool.network.version == 4 else "::/0"
    return _gateway(candidate, pool, everywhere, pool.gateway) or _second_alike(candidate, pool, around)


def _second_alike(candidate: Candidate, pool: Pool, around: Around) -> str:
    second, pair = second_of(candidate, around), pool.pair
    if second is None or pair is None:
        return ""
    if second[1] != pair.network.prefixlen:
        return f"the prefix of {second[0]} is /{second[1]}, that of pool {pool.name} is {pair.network}"
    return _gateway(candidate, pool, "::/0", pair.gateway)


def _gateway(candidate: Candidate, pool: Pool, everywhere: str, wanted: Address | None) -> str:
    gateways = {route.via for route in candidate.routes if route.to == everywhere}
    if wanted is None or not gateways or str(wanted) in gateways:
        return ""
    found = ", ".join(sorted(via or candidate.interface for via in gateways))
    return f"its gateway is {found}, that of pool {pool.name} is {wanted}"


def _heard(candidate: Candidate, around: Around) -> str:
    second = second_of(candidate, around)
    own = {candidate.address, *(second or ())}
    others = sorted(one for one in around.beside[candidate.place] if one not in own)
    if not others:
        return ""
    return (
        f"{candidate.interface} has {', '.join(others)} as well, which the guards of its port would silence; "
        "remove it inside the container"
    )


def _free(candidate: Candidate, around: Around) -> str:
    instance, lease = around.instance_of(candidate), around.records.book.by_address(candidate.address)
    assert instance is not None, "it is listed"
    if lease is None or lease.state in (LeaseState.COOLING, LeaseState.CONFLICTED):
        return ""
    if lease.state in _IN_HAND and lease.binding == BindingId(instance.id):
        return ""
    if lease.state is LeaseState.IDLE and lease.app == instance.app:
        return ""
    holder = lease.binding or lease.app or lease.note or "nobody"
    return f"{candidate.address} is {lease.state} for {holder}"


def _unseated(candidate: Candidate, around: Around) -> str:
    instance = around.instance_of(candidate)
    binding = around.records.get(BindingId(instance.id)) if instance else None
    if binding is None:
        return ""
    if binding.departing:
        return f"{binding.instance} is leaving"
    former = binding.address
    if former is None or former == candidate.address:
        return ""
    if _is_reached(binding, former):
        return f"Mooring has given it {former} already; it is reached there, and nothing is touched"
    return ""


def _is_reached(binding: Binding, address: str) -> bool:
    """Whether the instance stands at the address, or anybody is sent there.

    Where it only waits, an attach was refused: then nothing more than a balancer's file knows of the address.
    """
    if isinstance(binding.sink(NETWORK).applied, PortSpec):
        return True
    others = (state for sink, state in binding.sinks.items() if sink != NETWORK)
    return any(_sends(spec, address) for state in others for spec in state.shown)


def _sends(spec: Spec, address: str) -> bool:
    if isinstance(spec, MemberSpec):
        return spec.state != "declared" and any(end.address == address for end in spec.endpoints)
    return getattr(spec, "address", None) == address


_RULES = (_host, _alone, _listed, _asks, _in_the_pool, _wired_alike, _heard, _free, _unseated)


def _address(candidate: Candidate) -> Address | None:
    try:
        return address_of(candidate.address)
    except Refused:
        return None


def _pool(candidate: Candidate, around: Around) -> Pool | None:
    address = _address(candidate)
    return None if address is None else around.records.book.pools.containing(address)


def _is_in(text: str, pool: Pool) -> bool:
    try:
        return address_of(text) in pool.network
    except Refused:
        return False


def _told(vlan: int | None) -> str:
    return "untagged" if vlan is None else f"in VLAN {vlan}"
