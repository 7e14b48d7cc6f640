"""What a sink can be asked to show, one type per kind of sink.

A spec is a complete, comparable description of one binding's share in one sink.  Two equal specs mean
nothing has to be done; that comparison replaces every special case for duplicated or reordered events.
Specs are stored as tagged JSON (`decode_spec`, `encode_spec`), hence plain values only.
"""

from __future__ import annotations

import msgspec


class Route(msgspec.Struct, frozen=True):
    """A route inside the container: network in CIDR form, next hop."""

    to: str
    via: str


class PortSpec(msgspec.Struct, frozen=True, tag="port"):
    """The switch port and address of one container on one host."""

    host: str
    task: str
    app: str
    slot: int
    instance: str
    address: str
    prefix: int
    gateway: str | None = None
    routes: tuple[Route, ...] = ()
    vlan: int | None = None
    mtu: int | None = None
    lease_generation: int = 0
    barred: tuple[str, ...] = ()  # networks in CIDR form that it may not reach
    address6: str | None = None  # the partner of `address`, where the pool is paired
    prefix6: int | None = None
    gateway6: str | None = None
    rate_out: int | None = None  # bit/s from the container; None: not limited
    rate_in: int | None = None  # bit/s to it


class ProbeSpec(msgspec.Struct, frozen=True, tag="probe"):
    """Asks for an answer from the container's own ports before it may serve."""

    host: str
    task: str
    address: str
    ports: tuple[int, ...]


class NameSpec(msgspec.Struct, frozen=True, tag="name"):
    """The name of one seat: A and PTR, owned by it alone. Names are absolute, without the last dot.

    Where the seat has an IPv6 address as well, AAAA and its PTR.
    """

    name: str
    address: str
    ttl: int
    address6: str | None = None


class SharedNameSpec(msgspec.Struct, frozen=True, tag="shared-name"):
    """One instance in a name that several share (an app's name), by its one or two addresses."""

    name: str
    address: str
    ttl: int
    address6: str | None = None


class ItemSpec(msgspec.Struct, frozen=True, tag="item"):
    """A configuration item. `key` is natural and unique: one item for each seat or unaddressed instance."""

    key: str
    app: str
    instance: str
    task: str
    host: str
    status: str  # "live", "down"
    address: str | None = None
    slot: int | None = None
    pool: str | None = None
    address6: str | None = None


class ServiceSpec(msgspec.Struct, frozen=True):
    """One balanced port of an app. Everything in it was validated at the door."""

    app: str
    index: int  # which of the app's ports
    mode: str  # "http" or "tcp"
    port: int  # where the balancer listens in tcp mode, and in http mode without a vhost
    vhosts: tuple[str, ...] = ()
    balance: str = "roundrobin"


class Endpoint(msgspec.Struct, frozen=True):
    """One member of one service."""

    service: ServiceSpec
    address: str
    port: int


class MemberSpec(msgspec.Struct, frozen=True, tag="member"):
    """A binding's share in a balancer: its endpoints, and whether they take traffic."""

    endpoints: tuple[Endpoint, ...]
    state: str  # "declared" (known, no traffic), "up", "drain"


class FileSpec(msgspec.Struct, frozen=True):
    """A file inside a container, and what tells the process that it changed."""

    path: str
    content: str
    mode: str = "0644"
    command: tuple[str, ...] = ()  # argument vector, executed inside the container without a shell
    signal: str | None = None


class FilesSpec(msgspec.Struct, frozen=True, tag="files"):
    """Every file that a running container depends on."""

    host: str
    task: str
    files: tuple[FileSpec, ...]


Spec = PortSpec | ProbeSpec | NameSpec | SharedNameSpec | ItemSpec | MemberSpec | FilesSpec

_decoder: msgspec.json.Decoder[Spec] = msgspec.json.Decoder(Spec)
_encoder = msgspec.json.Encoder(order="deterministic")


def encode_spec(spec: Spec) -> bytes:
    """Deterministic tagged JSON."""
    return _encoder.encode(spec)


def decode_spec(data: bytes | str) -> Spec:
    """The inverse of `encode_spec`; raises `msgspec.DecodeError` on anything else."""
    return _decoder.decode(data)
