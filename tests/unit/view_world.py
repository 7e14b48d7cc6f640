"""A view with a clock, and short ways to say what Marathon says."""

from __future__ import annotations

from dataclasses import replace

from mooring.controller.events import (
    Event,
    HealthReported,
    InstanceReported,
    TaskReported,
)
from mooring.controller.listing import AppListing, Snapshot
from mooring.controller.view import Dirty, View
from mooring.core.model import App, AppId, Health, HostName, Instance, InstanceId, State, TaskId

WEB = AppId("/web")
ONE = InstanceId("web.instance-1")
HOST = HostName("agent-1")
S, H = State, Health


def app(id: AppId = WEB, **changes: object) -> App:
    return replace(App(id, 1, {}, checked=True), **changes)  # type: ignore[arg-type]


def instance(
    id: InstanceId = ONE,
    n: int = 1,
    state: State = S.RUNNING,
    health: Health = H.UNKNOWN,
    of: AppId = WEB,
    host: HostName | None = HOST,
) -> Instance:
    return Instance(id, n, TaskId(f"{id}._app.{n}"), of, host, state, health, (31000,), "v1")


def task(state: State, n: int = 1, at: int = 0, id: InstanceId = ONE, of: AppId = WEB) -> TaskReported:
    return TaskReported(id, n, TaskId(f"{id}._app.{n}"), of, state, HOST, (31000,), "v1", stamp(at))


def condition(state: State, at: int = 0, id: InstanceId = ONE, of: AppId = WEB) -> InstanceReported:
    return InstanceReported(id, of, state, HOST, stamp(at))


def health(healthy: bool | None, at: int = 0, id: InstanceId = ONE, of: AppId = WEB) -> HealthReported:
    return HealthReported(id, of, healthy, stamp(at))


def stamp(at: int) -> str:
    return f"2020-05-22T13:04:{at:02d}.000Z" if at else ""


def many(count: int, of: AppId = WEB) -> list[Instance]:
    """Running instances of one app; the same ones however many are asked for."""
    return [instance(InstanceId(f"{of[1:]}.instance-{i}"), of=of) for i in range(count)]


def states(view: View) -> list[State]:
    return [found.state for found in view.instances()]


def ended(*instances: Instance) -> list[Event]:
    return [task(S.DEAD, id=each.id, of=each.app) for each in instances]


def listing(*instances: Instance, begun: float, of: App | None = None) -> AppListing:
    return AppListing(WEB, of or app(), instances, begun)


def snapshot(*instances: Instance, begun: float, apps: tuple[App, ...] = (), **more: object) -> Snapshot:
    known = {known.id: known for known in (*apps, *(app(instance.app) for instance in instances))}
    known |= {known.id: known for known in apps}
    listings = {
        id: AppListing(id, known[id], tuple(i for i in instances if i.app == id), begun) for id in known
    }
    return Snapshot(begun, listings, **more)  # type: ignore[arg-type]


class World:
    """A view, and a clock that moves by one second with each event."""

    def __init__(self, *known: Instance) -> None:
        self.view = View()
        self.now = 100.0
        self.view.apply_snapshot(snapshot(*known, begun=self.now, apps=(app(),)), self.now)

    def tell(self, *events: Event) -> Dirty:
        dirty = Dirty()
        for event in events:
            self.now += 1
            dirty.merge(self.view.apply_event(event, self.now))
        return dirty

    def list(self, *instances: Instance, of: App | None = None) -> Dirty:
        self.now += 1
        return self.view.apply_app(listing(*instances, begun=self.now, of=of), self.now + 0.5)

    def snap(self, *instances: Instance, after: float = 1.0, **more: object) -> Dirty:
        """A snapshot; it lists the app even if none of its instances."""
        self.now += after
        more.setdefault("apps", (app(),))
        return self.view.apply_snapshot(snapshot(*instances, begun=self.now, **more), self.now + 0.5)  # type: ignore[arg-type]

    def empty(self, after: float = 61) -> Dirty:
        """A snapshot without any app."""
        self.now += after
        return self.view.apply_snapshot(Snapshot(self.now, {}), self.now + 0.5)

    def missing(self, *apps: AppId, after: float = 1.0) -> Dirty:
        """A listing of each of these apps alone: there is no such app."""
        dirty = Dirty()
        self.now += after
        for of in apps:
            dirty.merge(self.view.apply_app(AppListing(of, None, (), self.now), self.now + 0.5))
        return dirty

    def one(self, id: InstanceId = ONE) -> Instance:
        found = self.view.instance(id)
        assert found is not None
        return found

    @property
    def state(self) -> State:
        return self.one().state
