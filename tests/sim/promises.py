"""What must hold, asked of the switches, the name server, the balancers and the store themselves.

`at_every_step` holds whatever goes wrong; it is asked after every effect that lands anywhere.  `when_calm`
holds some time after things stopped going wrong: everything Marathon runs is shown everywhere, and nothing
else is.  Both return what is wrong in words; none means all is well.

Leases are those that stand in the store (`audit`), not what a daemon believes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from mooring.core.errors import LabelRefused
from mooring.core.labels import Claim, Rules, parse_claim
from mooring.core.model import App, AppId, LeaseState, Port
from mooring.core.specs import ItemSpec
from mooring.dns.naming import app_name, reverse_name, seat_name
from mooring.handlers.memory_hosts import MemoryHost, MemoryPort
from tests.sim.apps import PORT, SimApp, SimInstance
from tests.sim.audit import Row, told
from tests.sim.pairs import both, leased, partner
from tests.sim.world import ZONE, World

Leases = Mapping[str, Row]
OURS = "10.64."


def at_every_step(
    world: World, leases: Leases | None, spared: Collection[str] = (), *, held: bool = False
) -> Iterator[str]:
    """What is wrong right now. `leases` None: the store is being rebuilt and does not know every port.

    `spared`: addresses that a rebuild has found in names only, and keeps from everybody until these are gone.
    `held`: a rebuild has not begun to write balancers and apps' names yet.
    """
    ports_of: dict[str, list[tuple[MemoryHost, MemoryPort]]] = defaultdict(list)
    for host, port in world.agents.answering():
        for address in port.addresses:
            ports_of[address].append((host, port))
    for address, places in ports_of.items():
        if len(places) > 1:
            where = ", ".join(f"{port.task} on {host.name}" for host, port in places)
            yield f"{address} is on several ports: {where}"
    for host, port in world.agents.answering():
        if port.addresses != both(port.address):
            yield f"{port.task} on {host.name} has {port.addresses} instead of {both(port.address)}"
    if leases is None:
        return
    for address, places in ports_of.items():
        lease = leases.get(leased(address))
        for host, port in places:
            if lease is None or not lease.in_hand or lease.instance != port.instance:
                yield f"{address} has a port for {port.task} on {host.name}, but its lease is {told(lease)}"
    yield from _astray(world, leases, spared, held)


def _astray(world: World, leases: Leases, spared: Collection[str], held: bool) -> Iterator[str]:
    """Names and members that lead to an address which its app does not hold."""
    apps = {app_name(AppId(app), ZONE) for app in world.marathon.apps}
    for name, addresses in world.names().items():
        for shown in addresses:
            address = leased(shown)
            lease = leases.get(address)
            usable = lease is not None and (_is_kept(lease) or (held and name in apps))
            if address.startswith(OURS) and address not in spared and not usable:
                yield f"the name {name} leads to {shown}, whose lease is {told(lease)}"
    for balancer, proxy in world.proxies.items():
        if world.unread.get(balancer, 0) > 0:
            continue
        for spec in proxy.members.values():
            for endpoint in spec.endpoints:
                lease = leases.get(endpoint.address)
                address = endpoint.address
                if spec.state != "up" or not address.startswith(OURS) or address in spared:
                    continue
                usable = lease is not None and (_is_kept(lease) or held)
                if lease is None or not usable or lease.app != endpoint.service.app:
                    yield f"{balancer} sends {endpoint.service.app} to {endpoint.address}: {told(lease)}"


def _is_kept(lease: Row) -> bool:
    """Whether nobody else can get the address: in a conflict it stays until what led there is gone."""
    return lease.in_hand or lease.state == LeaseState.CONFLICTED


@dataclass
class Expected:
    """What shall stand in each sink."""

    ports: set[tuple[str, str, str]] = field(default_factory=set)  # host, task, address
    seats: set[tuple[str, str]] = field(default_factory=set)  # name, each of its addresses
    shared: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    pointers: dict[str, str] = field(default_factory=dict)
    members: set[tuple[str, str]] = field(default_factory=set)  # address:port, state
    items: dict[str, tuple[str, str]] = field(default_factory=dict)  # key: task, status
    without: list[SimInstance] = field(default_factory=list)  # who wants an address and has none


def when_calm(world: World, leases: Leases, waiting: Mapping[str, str]) -> list[str]:
    """Where the sinks differ from what Marathon runs. `waiting`: who says that he waits, and why."""
    wrong: list[str] = []
    expected = Expected()
    for instance in world.marathon.instances.values():
        if instance.app.id in world.marathon.apps:
            wrong += _expect(world, leases, instance, expected)
    wrong += _unserved(world, leases, expected, waiting)
    wrong += _compare(world, expected, _lost_addresses(world, leases))
    wrong += _lease_faults(world, leases)
    return wrong


def _unserved(world: World, leases: Leases, expected: Expected, waiting: Mapping[str, str]) -> Iterator[str]:
    """Who has no address: only where the pool has none left, and then it says so."""
    for pool, network in world.pools.items():
        without = [one for one in expected.without if one.app.labels["MOORING_POOL"] == pool]
        apps = {one.app.id for one in without}
        gone = {
            row.address
            for row in leases.values()
            if row.in_hand
            or row.state in (LeaseState.RESERVED, LeaseState.CONFLICTED)
            or (row.state == LeaseState.IDLE and row.app not in apps)
        }
        free = {str(address) for address in ip_network(network).hosts()} - world.kept - gone
        if without and free:
            yield f"{without[0].task} has no port, although pool {pool} has {len(free)} addresses"
        seated = {row.binding for row in leases.values() if row.in_hand}
        for one in without:
            if one.id in seated:
                yield f"{one.task} has an address, but no port on {one.host}"
            if not waiting.get(one.id):
                yield f"{one.id} waits for an address and does not say so"


def _expect(world: World, leases: Leases, instance: SimInstance, expected: Expected) -> Iterator[str]:
    claim = claim_of(world.marathon.apps[instance.app.id])
    if claim is None or instance.host in world.agents.silent:
        return
    if instance.condition != "Running" or instance.host is None:
        yield f"{instance.id} is {instance.condition} on {instance.host}"
        return
    if claim.pool is None:
        address, port_number = f"192.0.2.{instance.host[1:]}", instance.host_port
        expected.items[instance.id] = (instance.task, "live")
    else:
        port = _port_of(world.agents.hosts[instance.host], instance)
        if port is None:
            expected.without.append(instance)
            return
        address, port_number = port.address, PORT
        expected.ports.add((instance.host, instance.task, address))
        seat = seat_name(instance.app.id, port.slot, ZONE)  # type: ignore[arg-type]
        expected.seats.update((seat, one) for one in both(address))
        expected.pointers.update((reverse_name(one), seat) for one in both(address))
        expected.items[f"{instance.app.id}/{port.slot}"] = (instance.task, "live")
        yield from _bad_lease(leases, instance, address)
        if instance.ready:
            expected.shared[app_name(AppId(instance.app.id), ZONE)].update(both(address))
    if claim.services:
        expected.members.add((f"{address}:{port_number}", "up" if instance.ready else "declared"))
    yield from _bad_files(world, claim, instance, _lost_addresses(world, leases))


def _bad_lease(leases: Leases, instance: SimInstance, address: str) -> Iterator[str]:
    lease = leases.get(address)
    if lease is None or (lease.state, lease.binding, lease.host) != ("bound", instance.id, instance.host):
        yield f"{instance.id} has {address}, whose lease is {told(lease)}"


def _bad_files(world: World, claim: Claim, instance: SimInstance, lost: set[str]) -> Iterator[str]:
    """Dependency files hold the addresses of the members, one on a line; `lost` ones may be among them."""
    assert instance.host is not None
    container = world.agents.hosts[instance.host].containers[instance.task]
    for notice in claim.notices:
        members = {
            port.address
            for host in world.agents.hosts.values()
            for port in host.ports.values()
            if port.app in notice.sources and port.task in _running(world)
        }
        written = container.files.get(notice.path)
        told = set((written or "").split())
        if written is None or not members <= told <= members | lost:
            yield f"{notice.path} in {instance.task} says {written!r} instead of {sorted(members)}"


def _running(world: World) -> set[str]:
    return {one.task for one in world.marathon.instances.values() if one.condition == "Running"}


def _port_of(host: MemoryHost, instance: SimInstance) -> MemoryPort | None:
    return next(
        (port for port in host.ports.values() if port.task == instance.task and host.alive(port)), None
    )


def _lost_addresses(world: World, leases: Leases) -> set[str]:
    """What is shown for these cannot be judged: their containers live on hosts that do not answer."""
    silent = [world.agents.hosts[name] for name in world.agents.silent]
    on_ports = {port.address for host, port in world.agents.answering() if host in silent}
    listed = {one.id for one in world.marathon.instances.values() if one.host in world.agents.silent}
    in_hand = {lease.address for lease in leases.values() if lease.binding in listed}
    lost = on_ports | in_hand | {f"192.0.2.{host.name[1:]}" for host in silent}
    return {one for address in lost for one in both(address)}


def _compare(world: World, expected: Expected, lost: set[str]) -> Iterator[str]:
    awake = [host for host in world.agents.hosts.values() if host.name not in world.agents.silent]
    ports = {(host.name, port.task, port.address) for host in awake for port in host.ports.values()}
    yield from _differences("port", ports, expected.ports)
    yield from _compare_names(world, expected, lost)
    away = {one.id for one in world.marathon.instances.values() if one.host in world.agents.silent}
    apps_away = {one.app.id for one in world.marathon.instances.values() if one.id in away}
    for balancer, proxy in world.proxies.items():
        found = {
            (f"{one.address}:{one.port}", spec.state): one.service.app
            for spec in proxy.members.values()
            for one in spec.endpoints
            if one.address not in lost
        }
        # Who moved to a lost host unseen is still declared where he was; no traffic goes there.
        excused = {pair for pair, app in found.items() if pair[1] == "declared" and app in apps_away}
        yield from _differences(
            f"{balancer} member", found.keys() - (excused - expected.members), expected.members
        )
    items = {
        (key, (item.task, item.status))
        for key, item in world.inventory.items()
        if item.host not in world.agents.silent
        and item.instance not in away
        and not _waits_for_another_seat(world, item)
    }
    yield from _differences("item", items, set(expected.items.items()))
    for key, item in world.inventory.items():
        if item.address is not None and item.address6 != partner(item.address):
            yield f"item {key} has {item.address6} beside {item.address}"


def _waits_for_another_seat(world: World, item: ItemSpec) -> bool:
    return item.status == "down" and item.address is None and item.instance in world.marathon.instances


def _compare_names(world: World, expected: Expected, lost: set[str]) -> Iterator[str]:
    apps = {app_name(AppId(app), ZONE) for app in world.marathon.apps}
    names = {(name, address) for name, addresses in world.names().items() for address in addresses}
    seats = {(name, address) for name, address in names if name not in apps and address not in lost}
    yield from _differences("name", seats, expected.seats)
    shared = {(name, address) for name, addresses in expected.shared.items() for address in addresses}
    yield from _differences("app name", {pair for pair in names if pair[0] in apps}, shared)
    pointers = {(name, value) for name, values in world.pointers().items() for value in values}
    away = {reverse_name(address) for address in lost}
    found = {pair for pair in pointers if pair[0] not in away}
    yield from _differences("pointer", found, set(expected.pointers.items()))


def _differences(what: str, found: set[Any], wanted: set[Any]) -> Iterator[str]:
    for surplus in sorted(map(str, found - wanted)):
        yield f"{what} {surplus} is there and should not be"
    for missing in sorted(map(str, wanted - found)):
        yield f"{what} {missing} should be there and is not"


def _lease_faults(world: World, leases: Leases) -> Iterator[str]:
    running = {one.id for one in world.marathon.instances.values()}
    for lease in leases.values():
        if lease.state == LeaseState.STRANDED and not world.agents.silent:
            yield f"{lease.address} is stranded, but every host answers"
        if lease.state == LeaseState.BOUND and lease.instance not in running:
            yield f"{lease.address} is bound to {lease.binding}, which does not exist"


def claim_of(app: SimApp) -> Claim | None:
    """What the app asks for, read as the daemon reads it; None if its labels are unacceptable."""
    rules = Rules(pools={name: _Anyone() for name in ("blue", "green", "tiny", "extra")}, zone=ZONE)
    read = App(
        AppId(app.id), app.instances, app.labels, ports=(Port(PORT, None),), checked=app.checked,
        minimum_health=app.minimum_health, over_capacity=app.over_capacity,
    )  # fmt: skip
    try:
        return parse_claim(read, rules)
    except LabelRefused:
        return None


class _Anyone:
    """A pool rule without conditions."""

    groups: tuple[str, ...] = ()

    def allows(self, app: AppId) -> bool:
        return True

    def refusal(self, address: object) -> str | None:
        return None
