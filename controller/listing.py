"""From a REST reply to apps and instances: the decoding half of a snapshot.

Typed decoding keeps only the fields named here, so a listing of fifty thousand tasks costs little and
nothing else of it is ever built.  Both generations are read: `networks` and `container.portMappings`
(1.5 and later), `ipAddress` and `container.docker.*` (before).  What is unset may be null, empty or
missing, depending on the version, and means the same here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from mooring.controller.dialect import STATUS_STATES, read_host, read_instance_id, read_task
from mooring.core.errors import Retryable
from mooring.core.model import App, AppId, Health, Instance, InstanceId, Port, State


@dataclass(frozen=True, slots=True)
class AppListing:
    """What Marathon says about one app and all its instances."""

    id: AppId
    app: App | None  # None: Marathon has no such app
    instances: tuple[Instance, ...] = ()
    begun: float = 0.0  # monotonic seconds just before the request


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What Marathon says about everything, at one moment not before `begun`."""

    begun: float  # monotonic seconds just before the first request
    apps: Mapping[AppId, AppListing]
    pods: Mapping[AppId, frozenset[InstanceId]] = field(default_factory=dict)
    framework: str = ""
    leader: str = ""


class _PortMapping(msgspec.Struct, rename="camel"):
    container_port: int | None = None
    service_port: int | None = None
    protocol: str | None = None
    name: str | None = None


class _Docker(msgspec.Struct, rename="camel"):
    network: str | None = None
    port_mappings: list[_PortMapping] | None = None


class _Container(msgspec.Struct, rename="camel"):
    docker: _Docker | None = None
    port_mappings: list[_PortMapping] | None = None


class _PortDefinition(msgspec.Struct):
    port: int | None = None
    protocol: str | None = None
    name: str | None = None


class _Network(msgspec.Struct):
    mode: str = ""


class _DiscoveryPort(msgspec.Struct):
    number: int
    protocol: str | None = None
    name: str | None = None


class _Discovery(msgspec.Struct):
    ports: list[_DiscoveryPort] | None = None


class _IpAddress(msgspec.Struct):
    discovery: _Discovery | None = None


class _UpgradeStrategy(msgspec.Struct, rename="camel"):
    minimum_health_capacity: float = 1.0
    maximum_over_capacity: float = 1.0


class _HealthResult(msgspec.Struct):
    alive: bool = False


class _Task(msgspec.Struct, rename="camel"):
    id: str
    state: str = "TASK_RUNNING"  # before 1.4 only live tasks were listed, without a state
    host: str | None = None
    ports: list[int] | None = None
    staged_at: str | None = None
    version: str | None = None
    health_check_results: list[_HealthResult | None] | None = None


class _HealthCheck(msgspec.Struct):
    pass


class _App(msgspec.Struct, rename="camel"):
    id: str
    instances: int = 1
    labels: dict[str, str] | None = None
    container: _Container | None = None
    networks: list[_Network] | None = None
    ip_address: _IpAddress | None = None
    port_definitions: list[_PortDefinition] | None = None
    health_checks: list[_HealthCheck] | None = None
    upgrade_strategy: _UpgradeStrategy | None = None
    version: str | None = None
    tasks: list[_Task] | None = None


class _Apps(msgspec.Struct):
    apps: list[_App]


class _OneApp(msgspec.Struct):
    app: _App


class _PodInstance(msgspec.Struct):
    id: str


class _Pod(msgspec.Struct):
    id: str
    instances: list[_PodInstance] | None = None


_Reply = TypeVar("_Reply")

_APPS = msgspec.json.Decoder(_Apps)
_ONE_APP = msgspec.json.Decoder(_OneApp)
_PODS = msgspec.json.Decoder(list[_Pod])


def read_apps(body: bytes, begun: float) -> dict[AppId, AppListing]:
    """Decode `/v2/apps?embed=apps.tasks`; raises `Retryable` on anything else."""
    return {AppId(wire.id): _listing(wire, begun) for wire in _decoded(_APPS, body, "/v2/apps").apps}


def read_app(body: bytes, begun: float) -> AppListing:
    """Decode `/v2/apps/<id>`; raises `Retryable` on anything else."""
    return _listing(_decoded(_ONE_APP, body, "/v2/apps/<id>").app, begun)


def read_pods(body: bytes) -> dict[AppId, frozenset[InstanceId]]:
    """Decode `/v2/pods/::status`; raises `Retryable` on anything else."""
    return {
        AppId(pod.id): frozenset(read_instance_id(instance.id) for instance in pod.instances or ())
        for pod in _decoded(_PODS, body, "/v2/pods/::status")
    }


def _decoded(decoder: msgspec.json.Decoder[_Reply], body: bytes, where: str) -> _Reply:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Retryable(f"{where}: the reply is truncated or not what Marathon sends: {error}") from error


def _listing(wire: _App, begun: float) -> AppListing:
    app = AppId(wire.id)
    checks = len(wire.health_checks or ())
    instances = _newest(_instance(task, app, checks) for task in wire.tasks or ())
    return AppListing(app, _app(wire), instances, begun)


def _app(wire: _App) -> App:
    strategy = wire.upgrade_strategy or _UpgradeStrategy()
    return App(
        id=AppId(wire.id),
        instances=wire.instances,
        labels=wire.labels or {},
        ports=_ports(wire),
        checked=bool(wire.health_checks),
        minimum_health=strategy.minimum_health_capacity,
        over_capacity=strategy.maximum_over_capacity,
        own_network=_own_network(wire),
        version=wire.version or "",
    )


def _own_network(wire: _App) -> bool:
    if wire.networks:
        return any(network.mode != "host" for network in wire.networks)
    docker = wire.container.docker if wire.container else None
    return wire.ip_address is not None or (docker is not None and docker.network in ("BRIDGE", "USER"))


def _ports(wire: _App) -> tuple[Port, ...]:
    """The app's ports in the order in which tasks list their host ports."""
    container = wire.container or _Container()
    mappings = container.port_mappings or (container.docker.port_mappings if container.docker else None)
    if mappings:
        # Port 0 means "some port of Marathon's choice": there is nothing to know ahead.
        return tuple(
            Port(
                mapping.container_port or None,
                mapping.service_port or None,
                mapping.protocol or "tcp",
                mapping.name,
            )
            for mapping in mappings
        )
    if wire.ip_address and wire.ip_address.discovery and wire.ip_address.discovery.ports:
        return tuple(
            Port(port.number, None, port.protocol or "tcp", port.name)
            for port in wire.ip_address.discovery.ports
        )
    return tuple(
        Port(None, port.port or None, port.protocol or "tcp", port.name)
        for port in wire.port_definitions or ()
    )


def _newest(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """One entry for each instance, in order: its highest incarnation."""
    newest: dict[InstanceId, Instance] = {}
    for instance in instances:
        known = newest.get(instance.id)
        if known is None or known.incarnation < instance.incarnation:
            newest[instance.id] = instance
    return tuple(newest.values())


def _instance(wire: _Task, app: AppId, checks: int) -> Instance:
    task, name = read_task(wire.id)
    # A word we do not know says no more than that Marathon still counts on the task.
    state = STATUS_STATES.get(wire.state, State.UNREACHABLE)
    if state is State.UNREACHABLE and wire.staged_at is None:
        state = State.INACTIVE  # listings give it no word of its own, but strip these fields
    return Instance(
        id=name.instance,
        incarnation=name.incarnation,
        task=task,
        app=app,
        host=read_host(wire.host),
        state=state,
        health=_health(wire.health_check_results or (), checks),
        host_ports=tuple(wire.ports or ()),
        version=wire.version or "",
    )


def _health(results: Sequence[_HealthResult | None], checks: int) -> Health:
    known = [result.alive for result in results if result is not None]
    if not all(known):
        return Health.UNHEALTHY
    return Health.HEALTHY if known and len(known) >= checks else Health.UNKNOWN
