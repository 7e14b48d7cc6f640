"""What each sink shall show for an instance: pure functions from facts to specs.

Everything that decides about the *content* of a sink stands here; everything that decides about *order*
stands in `converge`.  The functions look at what Marathon says (`Instance`), what the owner asked for
(`Claim`) and what we hold (`Binding`), and nothing else, so calling them again with the same facts
gives equal specs, and equal specs mean there is nothing to do.

    sink           serving   not yet healthy   draining   dead   departing
    ────────────   ───────   ───────────────   ────────   ────   ─────────
    network        port      port              port       -      -
    probe          probe*    probe*            -          -      -
    names          A, PTR    A, PTR            A, PTR     A, PTR -          (and AAAA, PTR in a paired pool)
    ledger, hook   live      live              down       down   -
    files          files     files             as it was  -      -
    haproxy, nginx up        declared          drain      decl.  -
    app_names      A         -                 -          -      -

    * only where neither Marathon nor Mesos checks the app's health.
    dead: this container has ended, as Marathon says, or as a newer incarnation proves.

Two kinds of instance are not served by what their app asks for *now*.  Where the labels are refused and
nothing good is known of the app (`Facts.claim` is None), everything stays as it was last wanted, and only
state and place are followed.  A container of an earlier version keeps the ports that it listens on, while the
app's newest definition may name others.

An instance serves when it runs, its port and files are in place, and its health is known to be good.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from mooring.core.labels import Claim
from mooring.core.model import App, AppId, Binding, Health, Instance, SinkName, SinkState, State
from mooring.core.specs import (
    Endpoint,
    FileSpec,
    FilesSpec,
    ItemSpec,
    MemberSpec,
    NameSpec,
    PortSpec,
    ProbeSpec,
    Route,
    SharedNameSpec,
    Spec,
)
from mooring.core.template import Member, TemplateRefused, render_template
from mooring.dns.naming import app_name, seat_name

NETWORK = SinkName("network")
PROBE = SinkName("probe")
NAMES = SinkName("names")
LEDGER = SinkName("ledger")
WEBHOOK = SinkName("webhook")
FILES = SinkName("files")
HAPROXY = SinkName("haproxy")
NGINX = SinkName("nginx")
APP_NAMES = SinkName("app_names")

BALANCERS = (HAPROXY, NGINX)
INVENTORIES = (LEDGER, WEBHOOK)


@dataclass(frozen=True, slots=True)
class Second:
    """The IPv6 address that goes with an IPv4 address, in a pool that is paired."""

    address: str
    prefix: int
    gateway: str | None = None


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a pool says about a port in it."""

    prefix: int
    gateway: str | None = None
    vlan: int | None = None
    mtu: int | None = None
    routes: tuple[Route, ...] = ()
    barred: tuple[str, ...] = ()  # networks that it may not reach
    second: Second | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """All that the wants of one instance depend on."""

    instance: Instance
    app: App
    claim: Claim | None  # None: its labels are refused, and nothing good is known of it
    wiring: Wiring | None  # None: the app has no pool
    zone: str | None  # None: no DNS
    lease_generation: int
    host_address: str | None  # of the agent; None when its name does not resolve
    members: Mapping[str, tuple[Member, ...] | None]  # of every app that this one depends on; None: not known


@dataclass(frozen=True, slots=True)
class Wants:
    """What every sink shall show, and what could not be worked out (for its owner to read)."""

    specs: Mapping[SinkName, Spec | None]
    problem: str = ""


def wants_of(facts: Facts, binding: Binding) -> Wants:
    """What every sink shall show for this instance now. Sinks that are not configured are ignored later."""
    if binding.departing:
        return Wants(nothing())
    if facts.instance.incarnation > binding.incarnation:
        # The container that the binding stands for has ended: its instance has had another one since.
        facts = replace(facts, instance=structs.replace(facts.instance, state=State.DEAD))
    files, problem = _files(facts, binding)
    gates = {NETWORK: _port(facts, binding), PROBE: _probe(facts, binding), FILES: files}
    ready = _healthy(facts) and all(_open(binding, sink, spec) for sink, spec in gates.items())
    ready = ready and (not problem or _has_files(binding))
    item = _item(facts, binding)
    members = _members(facts, binding, ready)
    specs = {
        **gates,
        NAMES: _seat_name(facts, binding),
        LEDGER: item,
        WEBHOOK: item,
        HAPROXY: members,
        NGINX: members,
        APP_NAMES: _shared_name(facts, binding) if ready else None,
    }
    return Wants(specs, problem)


def nothing() -> dict[SinkName, Spec | None]:
    """What every sink shows for an instance that leaves."""
    sinks = (NETWORK, PROBE, NAMES, *INVENTORIES, FILES, *BALANCERS, APP_NAMES)
    return dict.fromkeys(sinks)


def without_seat(binding: Binding) -> Binding:
    """The binding as it waits for another seat: all that led to the one it had is to go.

    Else the seat could not be given back while the binding waits, and in a full pool it may wait for that
    very address.
    """
    rest = replace(binding, slot=None, address=None, pool=None)
    for sink, spec in nothing().items():
        if sink in rest.sinks:
            rest = rest.with_sink(sink, rest.sink(sink).want(spec))
    return rest


def _healthy(facts: Facts) -> bool:
    instance = facts.instance
    if instance.state is not State.RUNNING or instance.health is Health.UNHEALTHY:
        return False
    return instance.health is Health.HEALTHY or not facts.app.checked


def _open(binding: Binding, gate: SinkName, spec: Spec | None) -> bool:
    """Whether this gate lets traffic through: it shows what it shall.

    Files are a gate only until the first version is in the container; a later version may follow while
    the instance serves.  So may a second address, and other guards of its port, which change without
    touching the rest.
    """
    if gate == FILES and _has_files(binding):
        return True
    state = binding.sink(gate)
    return (state.applied == spec and not state.residue) or _serves_already(state, spec)


def _serves_already(state: SinkState, wanted: Spec | None) -> bool:
    """Whether all that may stand there is the wanted port, but for what may follow."""
    if not isinstance(wanted, PortSpec) or state.applied in (None, wanted):
        return False
    return all(isinstance(spec, PortSpec) and _core(spec) == _core(wanted) for spec in state.shown)


def _core(port: PortSpec) -> PortSpec:
    """A port as far as its leased address goes."""
    later = {"barred": (), "rate_out": None, "rate_in": None}
    return structs.replace(port, address6=None, prefix6=None, gateway6=None, **later)


def _has_files(binding: Binding) -> bool:
    """Whether this container got a first version of its files."""
    applied = binding.sink(FILES).applied
    return isinstance(applied, FilesSpec) and applied.task == binding.task


def _port(facts: Facts, binding: Binding) -> Spec | None:
    if binding.address is None or facts.instance.state is State.DEAD:
        return None
    if facts.wiring is None:
        # Its pool is no longer configured. That is no reason to pull a live container off the network.
        return binding.sink(NETWORK).wanted
    assert binding.slot is not None
    rate_out, rate_in = _rates(facts, binding)
    port = PortSpec(
        host=binding.host,
        task=binding.task,
        app=binding.app,
        slot=binding.slot,
        instance=binding.instance,
        address=binding.address,
        prefix=facts.wiring.prefix,
        gateway=facts.wiring.gateway,
        routes=facts.wiring.routes,
        vlan=facts.wiring.vlan,
        mtu=facts.wiring.mtu,
        lease_generation=facts.lease_generation,
        barred=facts.wiring.barred,
        rate_out=rate_out,
        rate_in=rate_in,
    )
    second = facts.wiring.second
    if second is None:
        return port
    return structs.replace(port, address6=second.address, prefix6=second.prefix, gateway6=second.gateway)


def _address6(facts: Facts, binding: Binding) -> str | None:
    """The IPv6 address beside the binding's own, if there is one."""
    if binding.address is None:
        return None
    if facts.wiring is not None:
        return facts.wiring.second.address if facts.wiring.second else None
    earlier = binding.sink(NETWORK).wanted  # as in `_port`
    return earlier.address6 if isinstance(earlier, PortSpec) else None


def _rates(facts: Facts, binding: Binding) -> tuple[int | None, int | None]:
    """As its app asks for now; what it asked for last, where nothing good is known of the app."""
    if facts.claim is not None:
        return facts.claim.rate_out, facts.claim.rate_in
    earlier = binding.sink(NETWORK).wanted
    return (earlier.rate_out, earlier.rate_in) if isinstance(earlier, PortSpec) else (None, None)


def _probe(facts: Facts, binding: Binding) -> ProbeSpec | None:
    unchecked = not facts.app.checked and facts.instance.state is State.RUNNING
    if not unchecked or binding.address is None:
        return None
    earlier = binding.sink(PROBE).wanted
    ports = facts.claim.tcp_ports if facts.claim else ()
    if isinstance(earlier, ProbeSpec) and _keeps_ports(facts):
        ports = earlier.ports
    return ProbeSpec(binding.host, binding.task, binding.address, ports) if ports else None


def _keeps_ports(facts: Facts) -> bool:
    instance, app = facts.instance, facts.app
    return facts.claim is None or bool(instance.version and app.version and instance.version != app.version)


def _seat_name(facts: Facts, binding: Binding) -> NameSpec | None:
    if facts.zone is None or binding.address is None or binding.slot is None:
        return None
    if facts.claim is None:
        earlier = binding.sink(NAMES).wanted
        return earlier if isinstance(earlier, NameSpec) and earlier.address == binding.address else None
    name = seat_name(_named(facts.claim), binding.slot, facts.zone)
    return NameSpec(name, binding.address, facts.claim.ttl, _address6(facts, binding))


def _shared_name(facts: Facts, binding: Binding) -> SharedNameSpec | None:
    if facts.zone is None or binding.address is None:
        return None
    if facts.claim is None:
        seat = _seat_name(facts, binding)  # the app's name is the rest of the seat's
        if seat is None:
            return None
        return SharedNameSpec(seat.name.partition(".")[2], seat.address, seat.ttl, seat.address6)
    name = app_name(_named(facts.claim), facts.zone)
    return SharedNameSpec(name, binding.address, facts.claim.ttl, _address6(facts, binding))


def _named(claim: Claim) -> AppId:
    """The app id that names are derived from: a `MOORING_DNS_NAME` read as a path, or the app's own."""
    if claim.dns_name is None:
        return claim.app
    return AppId("/" + "/".join(reversed(claim.dns_name.split("."))))


def _item(facts: Facts, binding: Binding) -> ItemSpec:
    live = facts.instance.state in (State.RUNNING, State.STARTING)
    key = binding.instance if binding.slot is None else f"{binding.app}/{binding.slot}"
    return ItemSpec(
        key=key,
        app=binding.app,
        instance=binding.instance,
        task=binding.task,
        host=binding.host,
        status="live" if live else "down",
        address=binding.address,
        slot=binding.slot,
        pool=binding.pool,
        address6=_address6(facts, binding),
    )


def _members(facts: Facts, binding: Binding, ready: bool) -> MemberSpec | None:
    endpoints = _endpoints(facts, binding)
    if not endpoints:
        return None
    if ready:
        return MemberSpec(endpoints, "up")
    draining = facts.instance.state in (State.KILLING, State.UNREACHABLE)
    return MemberSpec(endpoints, "drain" if draining else "declared")


def _endpoints(facts: Facts, binding: Binding) -> tuple[Endpoint, ...]:
    """Where each balanced service of the app is served by this instance: its own address, or its host's."""
    own = binding.address is not None
    address = binding.address or facts.host_address
    if address is None:
        return ()
    if _keeps_ports(facts) and (earlier := _earlier_endpoints(binding, address)):
        return earlier
    if facts.claim is None:
        return ()
    ports = facts.claim.ports if own else facts.instance.host_ports
    return tuple(
        Endpoint(service, address, ports[service.index])
        for service in facts.claim.services
        if service.index < len(ports) and ports[service.index]  # 0: not known
    )


def _earlier_endpoints(binding: Binding, address: str) -> tuple[Endpoint, ...]:
    """The endpoints last wanted, if they are of this very address and, on a host's address, of this task."""
    if binding.address is None and _item_task(binding) != binding.task:
        return ()
    for balancer in BALANCERS:
        earlier = binding.sink(balancer).wanted
        if isinstance(earlier, MemberSpec) and all(end.address == address for end in earlier.endpoints):
            return earlier.endpoints
    return ()


def _item_task(binding: Binding) -> str | None:
    item = binding.sink(LEDGER).wanted
    return item.task if isinstance(item, ItemSpec) else None


def _files(facts: Facts, binding: Binding) -> tuple[Spec | None, str]:
    """The files of the instance, and why they cannot be rendered: then it keeps what it has."""
    earlier = binding.sink(FILES).wanted
    if facts.instance.state is State.DEAD:
        return None, ""
    if facts.claim is None:
        if isinstance(earlier, FilesSpec):
            return FilesSpec(binding.host, binding.task, earlier.files), ""
        return None, ""
    if not facts.claim.notices:
        return None, ""
    if facts.instance.state is not State.RUNNING:
        return earlier, ""
    try:
        return _rendered(facts, binding), ""
    except _Unrenderable as error:
        return (earlier if _has_files(binding) else None), str(error)


class _Unrenderable(Exception):
    """Names the app, the file and the reason."""


def _rendered(facts: Facts, binding: Binding) -> FilesSpec:
    assert facts.claim is not None
    own = member_of(facts, binding)
    files = []
    for notice in facts.claim.notices:
        chosen: dict[str, tuple[Member, ...]] = {}
        for source in notice.sources:
            members = facts.members.get(source, ())
            if members is None:
                raise _Unrenderable(
                    f"app {binding.app}: file {notice.path}: who belongs to {source} is not known until "
                    "Marathon lists it; the file stays as it is"
                )
            chosen[source] = members
        try:
            content = render_template(notice.template, chosen, own)
        except TemplateRefused as error:
            raise _Unrenderable(f"app {binding.app}: file {notice.path}: {error}") from error
        files.append(FileSpec(notice.path, content, notice.mode, notice.command, notice.signal))
    return FilesSpec(binding.host, binding.task, tuple(files))


def member_of(facts: Facts, binding: Binding) -> Member:
    """How this instance looks to the apps that depend on it."""
    listed: Sequence[int] = facts.instance.host_ports
    if binding.address and facts.claim:
        listed = facts.claim.ports
    elif binding.address:
        listed = [end.port for end in _earlier_endpoints(binding, binding.address)]
    ports = tuple(port for port in listed if port)
    seat = _seat_name(facts, binding)
    return Member(
        app=binding.app,
        slot=binding.slot,
        address=binding.address or facts.host_address or binding.host,
        port=ports[0] if ports else None,
        ports=ports,
        name=seat.name if seat else None,
        host=binding.host,
        address6=_address6(facts, binding),
    )
