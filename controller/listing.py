"""From a REST reply to apps and instances: the decoding half of a snapshot.

Typed decoding keeps only the fields named here, so a listing of fifty thousand tasks costs little and
nothing else of it is ever built.  Both generations are read: `networks` and `container.portMappings`
(1.5 and later), `ipAddress`, `container.docker.*` and `ports` (before).  What is unset may be null, empty
or missing, depending on the version, and means the same here.

A large listing arrives cut into its elements (`mooring.cext.ArraySplitter`), one app or pod each, and is
decoded one element at a time, so that the event loop runs in between.  One app may have thousands of tasks
of its own: `listed_app_steps` and `app_steps` cut such a one once more and pause after every slice of tasks.
What tasks repeat (their app, host and version) is one string for all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec

from mooring.cext import ArraySplitter
from mooring.controller.dialect import STATUS_STATES, read_host, read_instance_id, read_task_id, shared_app
from mooring.core.errors import Retryable
from mooring.core.model import App, AppId, Health, Instance, InstanceId, Port, State, TaskId

_APPS_AT, _APP_AT, _PODS_AT = "/v2/apps", "/v2/apps/<id>", "/v2/pods/::status"
_LARGE = 256 * 1024  # bytes of an element from which its tasks are decoded in slices
_SLICE = 64 * 1024


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
    unreadable: Mapping[AppId, str] = field(default_factory=dict)  # apps that are listed, and why not here


_Name = Annotated[str, msgspec.Meta(min_length=1)]
_PortNumber = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class _PortMapping(msgspec.Struct, rename="camel"):
    container_port: _PortNumber | None = None
    service_port: _PortNumber | None = None
    protocol: str | None = None
    name: str | None = None


class _Docker(msgspec.Struct, rename="camel"):
    network: str | None = None
    port_mappings: list[_PortMapping] | None = None


class _Container(msgspec.Struct, rename="camel"):
    docker: _Docker | None = None
    port_mappings: list[_PortMapping] | None = None


class _PortDefinition(msgspec.Struct):
    port: _PortNumber | None = None
    protocol: str | None = None
    name: str | None = None


class _Network(msgspec.Struct):
    mode: str | None = None


class _DiscoveryPort(msgspec.Struct):
    number: _PortNumber
    protocol: str | None = None
    name: str | None = None


class _Discovery(msgspec.Struct):
    ports: list[_DiscoveryPort] | None = None


class _IpAddress(msgspec.Struct):
    discovery: _Discovery | None = None


class _UpgradeStrategy(msgspec.Struct, rename="camel"):
    minimum_health_capacity: float | None = None
    maximum_over_capacity: float | None = None


class _HealthResult(msgspec.Struct, gc=False):
    alive: bool | None = None


class _Task(msgspec.Struct, rename="camel", gc=False):
    id: Annotated[TaskId, msgspec.Meta(min_length=1)]
    state: str | None = None  # before 1.4 only live tasks were listed, without a state
    host: str | None = None
    ports: tuple[_PortNumber, ...] | None = None
    staged_at: str | None = None
    version: str | None = None
    health_check_results: tuple[_HealthResult | None, ...] | None = None


class _HealthCheck(msgspec.Struct):
    pass


class _Named(msgspec.Struct):
    id: _Name


class _AppFields(msgspec.Struct, rename="camel"):
    id: _Name
    instances: Annotated[int, msgspec.Meta(ge=0)] = 1
    labels: dict[str, str] | None = None
    container: _Container | None = None
    networks: list[_Network] | None = None
    ip_address: _IpAddress | None = None
    port_definitions: list[_PortDefinition] | None = None
    ports: list[_PortNumber] | None = None
    health_checks: list[_HealthCheck] | None = None
    upgrade_strategy: _UpgradeStrategy | None = None
    version: str | None = None


class _App(_AppFields):
    tasks: list[_Task] | None = None


class _LargeApp(_AppFields):
    tasks: msgspec.Raw = msgspec.Raw()  # a view into the element


class _OneApp(msgspec.Struct):
    app: _App


class _OneLargeApp(msgspec.Struct):
    app: _LargeApp


class _PodInstance(msgspec.Struct):
    id: _Name


class _Pod(msgspec.Struct):
    id: _Name
    instances: list[_PodInstance] | None = None


_Reply = TypeVar("_Reply")

_APP = msgspec.json.Decoder(_App)
_LARGE_APP = msgspec.json.Decoder(_LargeApp)
_TASK = msgspec.json.Decoder(_Task)
_ONE_APP = msgspec.json.Decoder(_OneApp)
_ONE_LARGE_APP = msgspec.json.Decoder(_OneLargeApp)
_POD = msgspec.json.Decoder(_Pod)
_NAMED = msgspec.json.Decoder(_Named)


def read_listed_app(element: bytes, begun: float) -> AppListing:
    """Decode one element of `/v2/apps?embed=apps.tasks`; raises `Retryable` on anything else."""
    return _listing(_decoded(_APP, element, _APPS_AT), begun)


def read_listed_id(element: bytes) -> AppId:
    """The id of an app of which nothing else could be read; raises `Retryable` if not even that can."""
    return AppId(_decoded(_NAMED, element, _APPS_AT).id)


def listed_app_steps(element: bytes, begun: float) -> Generator[None, None, AppListing]:
    """`read_listed_app` in steps of a few milliseconds, however many tasks the app has: `yield from` it."""
    if len(element) <= _LARGE:
        return read_listed_app(element, begun)
    return (yield from _steps(_decoded(_LARGE_APP, element, _APPS_AT), begun, _APPS_AT))


def read_listed_pod(element: bytes) -> tuple[AppId, frozenset[InstanceId]]:
    """Decode one element of `/v2/pods/::status`; raises `Retryable` on anything else."""
    wire = _decoded(_POD, element, _PODS_AT)
    return AppId(wire.id), frozenset(read_instance_id(instance.id) for instance in wire.instances or ())


def read_app(body: bytes, begun: float) -> AppListing:
    """Decode `/v2/apps/<id>`; raises `Retryable` on anything else."""
    return _listing(_decoded(_ONE_APP, body, _APP_AT).app, begun)


def app_steps(body: bytes, begun: float) -> Generator[None, None, AppListing]:
    """`read_app` in steps, likewise."""
    if len(body) <= _LARGE:
        return read_app(body, begun)
    return (yield from _steps(_decoded(_ONE_LARGE_APP, body, _APP_AT).app, begun, _APP_AT))


def _decoded(decoder: msgspec.json.Decoder[_Reply], body: bytes, where: str) -> _Reply:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Retryable(
            f"{where}: the reply is truncated or not what Marathon sends: {error}: {bytes(body[:60])!r}"
        ) from error


def _steps(wire: _LargeApp, begun: float, where: str) -> Generator[None, None, AppListing]:
    """An app at once, and its tasks a slice at a time, with a pause after each."""
    yield
    app = _app(wire)
    where = f"{where}: a task of {app.id}"
    checks = len(wire.health_checks or ())
    newest: dict[InstanceId, Instance] = {}
    for elements in _slices(wire.tasks, where):
        _add(newest, (_decoded(_TASK, task, where) for task in elements), app.id, checks)
        yield
    return AppListing(app.id, app, tuple(newest.values()), begun)


def _slices(tasks: msgspec.Raw, where: str) -> Iterator[list[bytes]]:
    """The elements of a long array, a slice of it at a time."""
    array = memoryview(tasks)
    if bytes(array[:5]) in (b"", b"null"):
        return
    splitter = ArraySplitter(None)
    try:
        for at in range(0, len(array), _SLICE):
            yield splitter.feed(array[at : at + _SLICE])
        splitter.close()  # a task lost in the cutting would look like one that is gone
    except ValueError as error:
        raise Retryable(f"{where}: not what Marathon sends: {error}") from error


def _listing(wire: _App, begun: float) -> AppListing:
    app = _app(wire)
    newest: dict[InstanceId, Instance] = {}
    _add(newest, wire.tasks or (), app.id, len(wire.health_checks or ()))
    return AppListing(app.id, app, tuple(newest.values()), begun)


def _app(wire: _AppFields) -> App:
    strategy = wire.upgrade_strategy or _UpgradeStrategy()
    return App(
        id=shared_app(wire.id),
        instances=wire.instances,
        labels=wire.labels or {},
        ports=_ports(wire),
        checked=bool(wire.health_checks),
        minimum_health=_or_1(strategy.minimum_health_capacity),
        over_capacity=_or_1(strategy.maximum_over_capacity),
        own_network=_own_network(wire),
        version=sys.intern(wire.version or ""),
    )


def _or_1(share: float | None) -> float:
    return 1.0 if share is None else share


def _own_network(wire: _AppFields) -> bool:
    if wire.networks:
        return any(network.mode != "host" for network in wire.networks)
    docker = wire.container.docker if wire.container else None
    return wire.ip_address is not None or (docker is not None and docker.network not in (None, "", "HOST"))


def _ports(wire: _AppFields) -> tuple[Port, ...]:
    """The app's ports in the order in which tasks list their host ports."""
    container = wire.container or _Container()
    mappings = container.port_mappings or (container.docker.port_mappings if container.docker else None)
    discovery = wire.ip_address.discovery if wire.ip_address else None
    # Port 0 means "some port of Marathon's choice": there is nothing to know ahead.
    if mappings:
        return tuple(_port(each.container_port, each.service_port, each) for each in mappings)
    if discovery and discovery.ports:
        return tuple(_port(each.number, None, each) for each in discovery.ports)
    if wire.port_definitions:
        return tuple(_port(None, each.port, each) for each in wire.port_definitions)
    return tuple(Port(None, port or None) for port in wire.ports or ())


def _port(
    container: int | None, service: int | None, wire: _PortMapping | _DiscoveryPort | _PortDefinition
) -> Port:
    return Port(container or None, service or None, wire.protocol or "tcp", wire.name)


def _add(newest: dict[InstanceId, Instance], tasks: Iterable[_Task], app: AppId, checks: int) -> None:
    """Add one entry for each instance, in order: its highest incarnation."""
    for task in tasks:
        instance = _instance(task, app, checks)
        known = newest.get(instance.id)
        if known is None or known.incarnation < instance.incarnation:
            newest[instance.id] = instance


def _instance(wire: _Task, app: AppId, checks: int) -> Instance:
    name = read_task_id(wire.id)
    return Instance(
        name.instance,
        name.incarnation,
        wire.id,
        app,
        read_host(wire.host),
        _state(wire),
        _health(wire.health_check_results, checks) if wire.health_check_results else Health.UNKNOWN,
        wire.ports or (),
        sys.intern(wire.version or ""),
    )


def _state(wire: _Task) -> State:
    state = STATUS_STATES.get(wire.state or "TASK_RUNNING")
    if state is None:
        return State.UNREACHABLE  # a word we do not know: no more than that Marathon still counts on the task
    if state is State.UNREACHABLE and wire.staged_at is None:
        return State.INACTIVE  # listings give it no word of its own, but strip this field
    return state


def _health(results: Sequence[_HealthResult | None], checks: int) -> Health:
    known = [result.alive for result in results if result is not None and result.alive is not None]
    if not all(known):
        return Health.UNHEALTHY
    return Health.HEALTHY if known and len(known) >= checks else Health.UNKNOWN
