"""What the balancers shall serve: one table folded from the shares of all bindings.

Each binding brings a `Share`, its endpoints and their state.  `fold` merges all shares into services
(one per app and port index) and members (one per address and port).  It is pure and does not depend on
the order in which shares arrived; time enters only through `Share.stamp`.  Its rules:

    the same endpoint in several shares      the stronger state wins: up, then drain, then declared
    one service described in several ways    the newest share that is not on its way out decides
    one port or host name, two services      who held it before keeps it, else the lower app id wins;
                                             the other service is left out and named in `conflicts`
    terms in `refused`                       as if nobody had asked for them

Names derive from app and endpoint alone and never from the neighbours: a member keeps its name for
ever, and no name is ever used for another endpoint, because HAProxy and its state files would carry
the old one's state over.

Everything here was validated at the door once.  It is validated again, since a line break in one host
name would be a configuration line of the attacker's choice.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from mooring.core.errors import Refused
from mooring.core.model import BindingId
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec, Spec

ServiceKey = tuple[str, int]  # app id, port index

BALANCES = frozenset({"roundrobin", "leastconn", "source", "random", "first", "uri"})
STRENGTH: Mapping[str, int] = {"declared": 0, "drain": 1, "up": 2}

_APP = re.compile(r"/[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*\Z")
_FAITHFUL = re.compile(r"/[a-z0-9.-]+(?:/[a-z0-9.-]+)*\Z")  # folds into a name without losing anything
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_VHOST = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
_LONGEST_APP = 512
_LONGEST_NAME = 80
_MOST_VHOSTS = 64


@dataclass(frozen=True, slots=True)
class Member:
    """One endpoint of one service under its balancer-wide stable name."""

    name: str
    address: str  # canonical text form
    port: int
    state: str  # "declared", "up", "drain"

    @property
    def target(self) -> str:
        """`address:port`, with brackets around an IPv6 address."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Service:
    """One balanced port of one app with all its members, sorted by name."""

    terms: ServiceSpec
    name: str
    members: tuple[Member, ...]

    @property
    def key(self) -> ServiceKey:
        return (self.terms.app, self.terms.index)

    @property
    def vhosts(self) -> tuple[str, ...]:
        """The host names that lead here, lower case, sorted; none in tcp mode."""
        return vhosts_of(self.terms)

    @property
    def port(self) -> int | None:
        """The port of its own that this service listens on; None if host names lead here."""
        return None if self.vhosts else self.terms.port


@dataclass(frozen=True, slots=True)
class Share:
    """What one binding brings: specs that may stand there now, and when it said so (a rising number)."""

    specs: tuple[MemberSpec, ...]
    stamp: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """All that is served, sorted by app and index, and what cannot be."""

    services: tuple[Service, ...] = ()
    conflicts: Mapping[ServiceKey, str] = field(default_factory=dict)

    def claims(self) -> dict[str, ServiceKey]:
        """Who holds which port and which host name."""
        return {claim: service.key for service in self.services for claim in claims_of(service.terms)}

    def only(self, keys: Collection[ServiceKey]) -> Table:
        """The table with these services alone."""
        return Table(tuple(service for service in self.services if service.key in keys))


def vhosts_of(terms: ServiceSpec) -> tuple[str, ...]:
    """Host names in lower case, sorted, each once; none in tcp mode, where nothing could tell them apart."""
    return tuple(sorted({name.lower() for name in terms.vhosts})) if terms.mode == "http" else ()


def claims_of(terms: ServiceSpec) -> tuple[str, ...]:
    """What this service needs for itself alone: its host names, or else its port."""
    return tuple(f"host {name}" for name in vhosts_of(terms)) or (f"port {terms.port}",)


def service_name(app: str, index: int) -> str:
    """The name of a service at every balancer: `/shop/web`, 0 -> `shop_web_0`.

    Marathon allows no underscore in ids, so folding `/` into `_` is reversible for every valid id; any
    other id, and a very long one, gets a short hash, so that two apps can never share a name.
    """
    folded = re.sub(r"[^a-z0-9.-]", "_", app.strip("/").lower())
    if _FAITHFUL.match(app) and len(folded) <= _LONGEST_NAME:
        return f"{folded}_{index}"
    digest = hashlib.sha256(app.encode()).hexdigest()[:8]
    return f"{folded[:_LONGEST_NAME]}__{digest}_{index}"


@lru_cache(maxsize=65536)  # the table is folded anew for every flight, its addresses hardly change
def server_name(address: str, port: int) -> str:
    """The name of a member: `10.64.0.10`, 8080 -> `10_64_0_10_8080`; IPv6 addresses in full."""
    return re.sub(r"[.:]", "_", ipaddress.ip_address(address).exploded) + f"_{port}"


@lru_cache(maxsize=65536)
def canonical(address: str) -> str:
    """The one spelling of an IP address; raises `ValueError` if it is none."""
    return ipaddress.ip_address(address).compressed


def member_key(endpoint: Endpoint) -> str:
    """The natural key of one member at a balancer, `service/server`; see `Sink.observe`."""
    service = endpoint.service
    return f"{service_name(service.app, service.index)}/{server_name(endpoint.address, endpoint.port)}"


def validate(spec: Spec) -> MemberSpec:
    """The same spec if it can do no harm in a configuration file; raises `Refused` naming app and fault."""
    if not isinstance(spec, MemberSpec):
        raise Refused(f"a balancer cannot show a {type(spec).__name__}")
    if spec.state not in STRENGTH:
        raise Refused(f"member state {spec.state!r} is not one of {', '.join(sorted(STRENGTH))}")
    for endpoint in spec.endpoints:
        _validate_service(endpoint.service)
        place = f"app {endpoint.service.app}: port index {endpoint.service.index}"
        _validate_address(endpoint.address, place)
        _validate_number(endpoint.port, 1, 65535, f"{place}: member port")
    return spec


def _validate_service(service: ServiceSpec) -> None:
    if not isinstance(service.app, str) or len(service.app) > _LONGEST_APP or not _APP.match(service.app):
        raise Refused(f"{str(service.app)[:80]!r} is not an app id")
    _validate_number(service.index, 0, 9999, f"app {service.app}: port index")
    place = f"app {service.app}: port index {service.index}"
    if service.mode not in ("http", "tcp"):
        raise Refused(f"{place}: mode {service.mode!r} is neither http nor tcp")
    if service.balance not in BALANCES:
        raise Refused(f"{place}: balance {service.balance!r} is not one of {', '.join(sorted(BALANCES))}")
    if service.balance == "uri" and service.mode == "tcp":
        raise Refused(f"{place}: balance uri needs mode http")
    if len(service.vhosts) > _MOST_VHOSTS:
        raise Refused(f"{place}: {len(service.vhosts)} host names, more than {_MOST_VHOSTS}")
    for name in service.vhosts:
        if not isinstance(name, str) or not _VHOST.match(name):
            raise Refused(f"{place}: {str(name)[:80]!r} is not a host name")
    _validate_number(service.port, 0 if vhosts_of(service) else 1, 65535, f"{place}: service port")


def _validate_address(address: str, place: str) -> None:
    try:
        parsed = ipaddress.ip_address(address) if isinstance(address, str) else None
    except ValueError:
        parsed = None
    if parsed is None or "%" in address or parsed.is_unspecified or parsed.is_multicast:
        raise Refused(f"{place}: {str(address)[:80]!r} is not the address of a member")


def _validate_number(value: object, low: int, high: int, what: str) -> None:
    if type(value) is not int or not low <= value <= high:
        raise Refused(f"{what}: {str(value)[:80]!r} is not a number from {low} to {high}")


def fold(
    shares: Mapping[BindingId, Share],
    *,
    held: Mapping[str, ServiceKey] | None = None,
    reserved: Mapping[int, str] | None = None,
    refused: Collection[ServiceSpec] = (),
) -> Table:
    """All shares as one table.

    `held` says who has which claim now, `reserved` which ports belong to the balancer itself and what for,
    `refused` which terms nobody shall get.  The shares must have passed `validate`.
    """
    terms = {key: _decide(candidates) for key, candidates in _candidates(shares.values(), refused).items()}
    members = _members(shares.values())
    conflicts = _conflicts(terms, held or {}, reserved or {})
    services = (
        Service(terms[key], service_name(*key), tuple(sorted(members[key], key=lambda m: m.name)))
        for key in sorted(terms)
        if key not in conflicts
    )
    return Table(tuple(services), conflicts)


_Weight = tuple[bool, int, int]  # not on its way out, newest stamp, how many say so


def _candidates(
    shares: Iterable[Share], refused: Collection[ServiceSpec]
) -> dict[ServiceKey, dict[ServiceSpec, _Weight]]:
    found: dict[ServiceKey, dict[ServiceSpec, _Weight]] = {}
    for share in shares:
        for spec in share.specs:
            for terms in {endpoint.service for endpoint in spec.endpoints}.difference(refused):
                candidates = found.setdefault((terms.app, terms.index), {})
                staying, stamp, count = candidates.get(terms, (False, 0, 0))
                staying_now = spec.state != "drain"
                # A leaving member may still carry terms from before a change: its stamp counts for nothing
                # against one that stays.
                newest = max((staying, stamp), (staying_now, share.stamp))
                candidates[terms] = (*newest, count + 1)
    return found


def _decide(candidates: Mapping[ServiceSpec, _Weight]) -> ServiceSpec:
    return max(candidates, key=lambda terms: (candidates[terms], repr(terms)))


def _members(shares: Iterable[Share]) -> dict[ServiceKey, list[Member]]:
    states: dict[ServiceKey, dict[tuple[str, int], str]] = {}
    for share in shares:
        for spec in share.specs:
            for endpoint in spec.endpoints:
                service = states.setdefault((endpoint.service.app, endpoint.service.index), {})
                place = (canonical(endpoint.address), endpoint.port)
                service[place] = max(service.get(place, spec.state), spec.state, key=STRENGTH.__getitem__)
    return {
        key: [Member(server_name(*place), *place, state) for place, state in service.items()]
        for key, service in states.items()
    }


def _conflicts(
    terms: Mapping[ServiceKey, ServiceSpec], held: Mapping[str, ServiceKey], reserved: Mapping[int, str]
) -> dict[ServiceKey, str]:
    asked = {key: claims_of(wish) for key, wish in terms.items()}
    owner: dict[str, ServiceKey] = {
        claim: key for claim, key in held.items() if key in asked and claim in asked[key]
    }
    ours = {f"port {port}": purpose for port, purpose in reserved.items()}
    conflicts: dict[ServiceKey, str] = {}
    for key in sorted(asked):
        reason = _first_conflict(key, asked[key], lambda claim: owner.get(claim), ours)
        if reason is None:
            owner.update(dict.fromkeys(asked[key], key))
        else:
            conflicts[key] = reason
    return conflicts


def _first_conflict(
    key: ServiceKey,
    claims: Iterable[str],
    owner: Callable[[str], ServiceKey | None],
    ours: Mapping[str, str],
) -> str | None:
    place = f"app {key[0]}: port index {key[1]}"
    for claim in claims:
        if claim in ours:
            return f"{place}: {claim} is taken by {ours[claim]}; choose another service port"
        other = owner(claim)
        if other is not None and other != key:
            return f"{place}: {claim} is taken by app {other[0]} (port index {other[1]}); choose another one"
    return None
