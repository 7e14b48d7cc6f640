"""The operations a call may ask for, parsed and validated before anything is touched.

What arrives was decided by the daemon, but part of it (paths, commands, interface names) began as
somebody's app label.  Each order is therefore checked again here, where it takes effect as root.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Union

from .errors import Refused
from .links import routes_for
from .netlink import Address, Network, Route

MAX_CONTENT_BYTES = 1 << 20
MAX_TEXT = 1024
MAX_BARRED = 1024
_INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_DEVICE = re.compile(r"[^\s/]{1,15}")  # of a port that others may have named
_SIGNAL = re.compile(r"(SIG)?[A-Z][A-Z0-9]{1,9}")
_MODE = re.compile(r"0?[0-7]{3}")


@dataclass(frozen=True)
class Attach:
    """Give the container of a task an address on a switch port."""

    id: str
    task_id: str
    app: str
    slot: str
    instance: str
    address: Address
    prefix: int
    routes: frozenset[Route]
    vlan: int | None
    mtu: int | None
    generation: int
    interface: str
    sequence: int
    detect: bool  # whether to make sure first that nobody else has the address
    barred: tuple[Network, ...] = ()  # what it may not reach, in order
    address6: Address | None = None  # a second address, of IPv6, on the same interface
    prefix6: int = 0
    rate_out: int | None = None  # bit/s from the container; None: not limited
    rate_in: int | None = None  # bit/s to it

    @property
    def addresses(self) -> tuple[tuple[Address, int], ...]:
        """Each address with its prefix length, the leased one first."""
        first = (self.address, self.prefix)
        return (first,) if self.address6 is None else (first, (self.address6, self.prefix6))


@dataclass(frozen=True)
class Adopt:
    """Put our marks on a port that somebody else has made for the container of a task."""

    id: str
    task_id: str
    app: str
    slot: str
    instance: str
    address: Address
    prefix: int
    vlan: int | None  # what the port has, or the order is refused
    generation: int
    interface: str  # as it is called in the container
    port: str
    container: str  # which start of it was seen
    sequence: int
    barred: tuple[Network, ...] = ()  # what it may not reach
    address6: Address | None = None  # a second address, of IPv6, that the interface has as well
    prefix6: int = 0

    @property
    def addresses(self) -> tuple[tuple[Address, int], ...]:
        """Each address with its prefix length, the one that is taken over first."""
        first = (self.address, self.prefix)
        return (first,) if self.address6 is None else (first, (self.address6, self.prefix6))


@dataclass(frozen=True)
class Survey:
    """Tell the containers that have an address on a port which is not ours."""

    id: str


@dataclass(frozen=True)
class Detach:
    """Remove the ports of an instance or of an address; or the one named, if nothing lives behind it."""

    id: str
    instance: str | None
    address: Address | None
    task_id: str | None
    sequence: int
    port: str | None = None  # this one alone, or a device of that name that has no port
    container: str | None = None  # whose start the port was made for; None: a device without a port


@dataclass(frozen=True)
class Detect:
    """Ask the wire whether anybody has an address."""

    id: str
    address: Address
    vlan: int | None


@dataclass(frozen=True)
class Observe:
    """Tell every port that carries our mark; `fence` raises the bridge's epoch to the caller's first."""

    id: str
    fence: bool
    sequence: int = 0


@dataclass(frozen=True)
class Write:
    """Put a file into a container and tell the process about it."""

    id: str
    task_id: str
    path: str
    content: bytes
    digest: str
    mode: int
    command: list[str]
    signal: str | None
    timeout_s: float
    sequence: int


@dataclass(frozen=True)
class Probe:
    """Connect to ports from inside a container's namespace."""

    id: str
    task_id: str
    address: Address
    ports: list[int]
    timeout_s: float


@dataclass(frozen=True)
class Check:
    """Tell what this host can do."""

    id: str


@dataclass(frozen=True)
class Fabric:
    """Have a tunnel to each of these peers (address by name), and no other."""

    id: str
    local: Address | None  # None: no tunnels
    peers: dict[str, Address]
    vni: int
    port: int
    check: bool  # only tell what would change
    sequence: int


@dataclass(frozen=True)
class GatewayOf:
    """The gateway of one pool."""

    pool: str
    address: Address
    prefix: int
    vlan: int | None
    mtu: int | None
    nat: bool


@dataclass(frozen=True)
class Gateway:
    """Be the gateway of these pools, and of no other."""

    id: str
    gateways: list[GatewayOf]
    check: bool
    sequence: int


# Union and not |, because this is evaluated at run time and hosts may run Python 3.9.
Order = Union[Attach, Adopt, Detach, Detect, Observe, Survey, Write, Probe, Check, Fabric, Gateway]  # noqa: UP007


def parse(order: Mapping[str, Any]) -> Order:
    """Validate one operation; raises Refused naming the operation, the key and what is wrong."""
    kind = order.get("op")
    parser = _PARSERS.get(kind) if isinstance(kind, str) else None
    if parser is None:
        raise Refused(f"op {kind!r} is unknown; known are {', '.join(sorted(_PARSERS))}")
    return parser(order)


def _attach(order: Mapping[str, Any]) -> Attach:
    address, address6 = _address(order, "address"), _second(order)
    families = {address.version} if address6 is None else {4, 6}
    return Attach(
        id=_text(order, "id"),
        task_id=_text(order, "task_id"),
        app=_text(order, "app"),
        slot=str(_number(order, "slot", 0, 1 << 31)),
        instance=_text(order, "instance"),
        address=address,
        prefix=_number(order, "prefix", 1, address.max_prefixlen),
        routes=_routes(order, families),
        vlan=_vlan(order),
        mtu=None if order.get("mtu") is None else _number(order, "mtu", 1280 if address6 else 576, 65535),
        generation=_number(order, "generation", 0, 1 << 62),
        interface=_matching(order, "interface", _INTERFACE, "eth0"),
        sequence=_sequence(order),
        detect=bool(order.get("detect", False)),
        barred=_networks(order, "barred"),
        address6=address6,
        prefix6=0 if address6 is None else _number(order, "prefix6", 1, 128),
        rate_out=_rate(order, "rate_out"),
        rate_in=_rate(order, "rate_in"),
    )


def _adopt(order: Mapping[str, Any]) -> Adopt:
    address, address6 = _address(order, "address"), _second(order)
    return Adopt(
        id=_text(order, "id"),
        task_id=_text(order, "task_id"),
        app=_text(order, "app"),
        slot=str(_number(order, "slot", 0, 1 << 31)),
        instance=_text(order, "instance"),
        address=address,
        prefix=_number(order, "prefix", 1, address.max_prefixlen),
        vlan=_vlan(order),
        generation=_number(order, "generation", 0, 1 << 62),
        interface=_text(order, "interface"),
        port=_text(order, "port"),
        container=_text(order, "container"),
        sequence=_sequence(order),
        barred=_networks(order, "barred"),
        address6=address6,
        prefix6=0 if address6 is None else _number(order, "prefix6", 1, 128),
    )


def _survey(order: Mapping[str, Any]) -> Survey:
    return Survey(str(order.get("id", "")))


def _second(order: Mapping[str, Any]) -> Address | None:
    """The IPv6 address that an IPv4 address is paired with, if it is."""
    if order.get("address6") is None:
        return None
    address = _address(order, "address6")
    if (_address(order, "address").version, address.version) != (4, 6):
        raise _refusal(order, "address6", "must be of IPv6, beside an address of IPv4")
    return address


def _detach(order: Mapping[str, Any]) -> Detach:
    if order.get("port") is not None:
        return _detach_dead(order)
    instance = _text(order, "instance") if order.get("instance") else None
    address = _address(order, "address") if order.get("address") else None
    if instance is None and address is None:
        raise Refused(f"{order.get('op')}: give an instance, an address or both")
    return Detach(_text(order, "id"), instance, address, order.get("task_id") or None, _sequence(order))


def _detect(order: Mapping[str, Any]) -> Detect:
    return Detect(_text(order, "id"), _address(order, "address"), _vlan(order))


def _vlan(order: Mapping[str, Any]) -> int | None:
    return None if order.get("vlan") is None else _number(order, "vlan", 1, 4094)


def _detach_dead(order: Mapping[str, Any]) -> Detach:
    port = _matching(order, "port", _DEVICE, "")
    container = None if order.get("container") is None else _text(order, "container")
    return Detach(_text(order, "id"), None, None, None, _sequence(order), port, container)


def _observe(order: Mapping[str, Any]) -> Observe:
    return Observe(str(order.get("id", "")), bool(order.get("fence", False)), _sequence(order))


def _write(order: Mapping[str, Any]) -> Write:
    path = _text(order, "path")
    parts = path.split("/")
    if not path.startswith("/") or not parts[-1] or {".", ".."} & set(parts) or "\0" in path:
        raise Refused(f"write: path {path!r} must be absolute, name a file and hold no '.' or '..'")
    content = order.get("content")
    if not isinstance(content, str) or len(content.encode()) > MAX_CONTENT_BYTES:
        raise Refused(f"write: content must be text of at most {MAX_CONTENT_BYTES} bytes")
    command = order.get("command") or []
    if not isinstance(command, list) or not all(
        isinstance(word, str) and "\0" not in word for word in command
    ):
        raise Refused("write: command must be a list of strings")
    return Write(
        id=_text(order, "id"),
        task_id=_text(order, "task_id"),
        path=path,
        content=content.encode(),
        digest=_text(order, "digest"),
        mode=int(_matching(order, "mode", _MODE, "0644"), 8),
        command=command,
        signal=_matching(order, "signal", _SIGNAL, "") or None,
        timeout_s=_seconds(order, "timeout_s", 10.0),
        sequence=_sequence(order),
    )


def _probe(order: Mapping[str, Any]) -> Probe:
    ports = order.get("ports")
    if not isinstance(ports, list) or not all(isinstance(port, int) and 0 < port < 65536 for port in ports):
        raise Refused("probe: ports must be a list of port numbers")
    return Probe(
        id=_text(order, "id"),
        task_id=_text(order, "task_id"),
        address=_address(order, "address"),
        ports=ports,
        timeout_s=_seconds(order, "timeout_s", 1.0),
    )


def _check(order: Mapping[str, Any]) -> Check:
    return Check(str(order.get("id", "")))


def _fabric(order: Mapping[str, Any]) -> Fabric:
    peers: dict[str, Address] = {}
    for peer in _tables(order, "peers"):
        name = _text(peer, "name")
        if name in peers:
            raise Refused(f"fabric: peer {name} is named twice")
        peers[name] = _address(peer, "address")
    local = _address(order, "local") if order.get("local") else None
    addresses = [*peers.values(), *([local] if local is not None else [])]
    if peers and (local is None or len(set(addresses)) < len(addresses)):
        raise Refused("fabric: each host, this one among them, needs a tunnel address of its own")
    if len({address.version for address in addresses}) > 1:
        raise Refused("fabric: the tunnel addresses are of two families")
    vni, port = _number(order, "vni", 1, (1 << 24) - 1), _number(order, "port", 1, 65535)
    check = bool(order.get("check", False))
    return Fabric(_text(order, "id"), local, peers, vni, port, check, _sequence(order))


def _gateway(order: Mapping[str, Any]) -> Gateway:
    gateways = [_gateway_of(one) for one in _tables(order, "gateways")]
    for key in ("pool", "address"):
        if len({getattr(one, key) for one in gateways}) < len(gateways):
            raise Refused(f"gateway: two gateways have the same {key}")
    return Gateway(_text(order, "id"), gateways, bool(order.get("check", False)), _sequence(order))


def _gateway_of(one: Mapping[str, Any]) -> GatewayOf:
    address = _address(one, "address")
    return GatewayOf(
        pool=_text(one, "pool"),
        address=address,
        prefix=_number(one, "prefix", 1, address.max_prefixlen),
        vlan=None if one.get("vlan") is None else _number(one, "vlan", 1, 4094),
        mtu=None if one.get("mtu") is None else _number(one, "mtu", 576, 65535),
        nat=bool(one.get("nat", False)),
    )


def _tables(order: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A list of objects; what is inside is reported under the operation's name."""
    value = order.get(key)
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise _refusal(order, key, "must be a list of objects")
    return [{"op": order.get("op"), **one} for one in value]


_PARSERS: dict[str, Callable[[Mapping[str, Any]], Order]] = {
    "attach": _attach,
    "adopt": _adopt,
    "detach": _detach,
    "detect": _detect,
    "observe": _observe,
    "survey": _survey,
    "write": _write,
    "probe": _probe,
    "check": _check,
    "fabric": _fabric,
    "gateway": _gateway,
}


def _refusal(order: Mapping[str, Any], key: str, wish: str) -> Refused:
    return Refused(f"{order.get('op')}: {key} {str(order.get(key))[:80]!r} {wish}")


def _text(order: Mapping[str, Any], key: str) -> str:
    value = order.get(key)
    if not isinstance(value, str) or not value or len(value) > MAX_TEXT:
        raise _refusal(order, key, f"must be text of 1 to {MAX_TEXT} characters")
    return value


def _number(order: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = order.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _refusal(order, key, f"must be a number from {low} to {high}")
    return value


def _sequence(order: Mapping[str, Any]) -> int:
    """The caller's running number of this call; 0 where calls are not numbered."""
    return 0 if order.get("sequence") is None else _number(order, "sequence", 0, 1 << 62)


def _rate(order: Mapping[str, Any], key: str) -> int | None:
    return None if order.get(key) is None else _number(order, key, 64_000, 100_000_000_000)


def _seconds(order: Mapping[str, Any], key: str, default: float) -> float:
    value = order.get(key, default)
    if not isinstance(value, (int, float)) or not 0 < value <= 60:
        raise _refusal(order, key, "must be a number of seconds from 0 to 60")
    return float(value)


def _matching(order: Mapping[str, Any], key: str, pattern: re.Pattern[str], default: str) -> str:
    value = order.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _refusal(order, key, f"must match {pattern.pattern}")
    return value


def _address(order: Mapping[str, Any], key: str) -> Address:
    try:
        return ipaddress.ip_address(_text(order, key))
    except ValueError as error:
        raise _refusal(order, key, "is not an IP address") from error


def _networks(order: Mapping[str, Any], key: str) -> tuple[Network, ...]:
    """Networks in one order, whatever the caller's: IPv4 first, by address."""
    texts = order.get(key) or []
    if not isinstance(texts, (list, tuple)) or len(texts) > MAX_BARRED:
        raise _refusal(order, key, f"must be a list of at most {MAX_BARRED} networks in CIDR form")
    try:
        networks = {ipaddress.ip_network(text) for text in texts if isinstance(text, str)}
    except ValueError as error:
        raise Refused(f"{order.get('op')}: {key}: {error}; give networks in CIDR form") from error
    if not all(isinstance(text, str) for text in texts):
        raise _refusal(order, key, "must hold networks in CIDR form, as text")
    return tuple(sorted(networks, key=lambda one: (one.version, int(one.network_address), one.prefixlen)))


def _routes(order: Mapping[str, Any], families: Collection[int]) -> frozenset[Route]:
    try:
        pairs = [(route["to"], route.get("via")) for route in order.get("routes") or []]
        routes = routes_for([order.get("gateway"), order.get("gateway6")], pairs)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"attach: gateway or routes: {error}") from error
    for route in routes:
        if route.to.version not in families or (
            route.via is not None and route.via.version != route.to.version
        ):
            raise Refused(f"attach: the route to {route.to} is not of the address's family")
    return routes
