"""One story, eight dialects: every version of Marathon must be read as saying the same."""

from __future__ import annotations

import json

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from mooring.cext import Frame, Framer
from mooring.controller.access import Access
from mooring.controller.dialect import read_task_id
from mooring.controller.events import (
    ATTACHED,
    IGNORED,
    WANTED,
    AppsChanged,
    AppTerminated,
    Event,
    HealthReported,
    InstanceReported,
    TaskReported,
    decode,
)
from mooring.controller.intake import Intake
from mooring.controller.listing import Snapshot, read_app
from mooring.controller.snapshot import Marathon
from mooring.controller.view import View
from mooring.core.clock import SystemClock
from mooring.core.model import App, AppId, Health, HostName, Instance, InstanceId, Port, State
from tests.data.marathon import make
from tests.data.marathon.shapes import V1
from tests.unit.listings import read_apps, read_pods

VERSIONS = sorted(make.RELEASES)
LISTED_AT = "2020-05-22T13:15"
WEB, OWN, HOST, EDGE = (AppId(f"/shop/{name}") for name in ("web", "own", "host", "edge"))
# The seats in the story; up to 1.7 the first one is taken by a second instance after the restart.
SEATS = {
    make.FIRST.uuid: "first",
    make.REPLACEMENT.uuid: "first",
    make.SECOND.uuid: "second",
    make.POD.uuid: "pod",
    make.OWN.uuid: "own",
    make.HOST.uuid: "host",
    make.LOST.uuid: "lost",
}

every_version = pytest.mark.parametrize("minor", VERSIONS, ids=[f"1.{minor}" for minor in VERSIONS])


def fixture(minor: int, name: str) -> bytes:
    return (make.HERE / f"1.{minor}" / name).read_bytes()


def frames(minor: int) -> list[Frame]:
    return Framer().feed(fixture(minor, "events.txt"))


def stamp(frame: Frame) -> str:
    return str(json.loads(frame.data)["timestamp"])


def facts(minor: int, since: str = "", until: str = "9") -> list[Event]:
    chosen = (decode(frame) for frame in frames(minor) if since <= stamp(frame) < until)
    return [fact for fact in chosen if fact is not None]


def seat(id: InstanceId) -> str:
    return SEATS[id[-36:]]


def told(facts: list[Event]) -> list[tuple[object, ...]]:
    """The story: each piece of news once, without ids, and without which of several events brought it."""
    said: list[tuple[object, ...]] = []
    latest: dict[tuple[str, str], object] = {}
    for fact in facts:
        match fact:
            case TaskReported(state=news) | InstanceReported(state=news):
                about = (seat(fact.instance), "state")
            case HealthReported(healthy=news):
                about = (seat(fact.instance), "healthy")
            case AppTerminated(app=app):
                about, news = (app, "terminated"), True
            case AppsChanged(apps=apps, pods=pods):
                about, news = ("changed", "apps and pods"), (apps, pods)
                if said[-1:] != [(*about, news)]:  # several events in a row say it; later it is news again
                    latest.pop(about, None)
        if latest.get(about) != news:
            latest[about] = news
            said.append((*about, news))
    return said


DEPLOYED = ("changed", "apps and pods", ((WEB,), ()))
POD_DEPLOYED = ("changed", "apps and pods", ((), (EDGE,)))
STORY = [
    POD_DEPLOYED,
    ("pod", "state", State.RUNNING),
    POD_DEPLOYED,
    DEPLOYED,
    ("first", "state", State.STARTING),
    ("first", "state", State.RUNNING),
    ("second", "state", State.STARTING),
    ("second", "state", State.RUNNING),
    DEPLOYED,
    ("first", "healthy", True),
    ("second", "healthy", True),
    ("first", "healthy", False),
    ("first", "state", State.DEAD),
    ("first", "state", State.STARTING),
    ("first", "state", State.RUNNING),
    ("first", "healthy", True),
    DEPLOYED,
    ("second", "state", State.DEAD),
    DEPLOYED,
    ("first", "state", State.DEAD),
    (WEB, "terminated", True),
    DEPLOYED,
]


@every_version
def test_the_fixtures_are_what_the_script_writes(minor: int) -> None:
    written = {path.name: path.read_bytes() for path in (make.HERE / f"1.{minor}").iterdir()}
    assert written == make.files(minor)


@every_version
def test_the_stream_tells_the_same_story(minor: int) -> None:
    assert frames(minor)[0].event == ATTACHED
    assert told(facts(minor)) == STORY


@every_version
def test_every_event_of_the_story_is_known_by_name(minor: int) -> None:
    taken: list[Event] = []
    lost: list[str] = []
    intake = Intake(taken.append, lost.append)
    for frame in frames(minor):
        intake.take(frame)
    assert taken == facts(minor)
    assert (lost, intake.unreadable) == ([], {})
    assert set(intake.decoded) <= set(WANTED)
    assert set(intake.ignored) <= set(IGNORED) | {
        "status_update_event"
    }  # the pod's, which is no fact of ours


@every_version
def test_tasks_are_described_alike(minor: int) -> None:
    running = [f for f in facts(minor) if isinstance(f, TaskReported) and f.state is State.RUNNING]
    assert [(seat(f.instance), f.app, f.host, f.host_ports, f.version) for f in running] == [
        ("first", WEB, "agent-01.dc1.example.net", (31001, 31002), V1),
        ("second", WEB, "agent-02.dc1.example.net", (31003, 31004), V1),
        ("first", WEB, "agent-03.dc1.example.net", (31005, 31006), V1),
    ]
    first, _, again = running
    assert again.stamp > first.stamp
    if minor >= 8:
        assert (again.instance, again.incarnation) == (first.instance, first.incarnation + 1)
    else:
        assert again.instance != first.instance


@every_version
def test_both_kinds_of_event_meet_in_one_instance(minor: int) -> None:
    tasks = {fact.instance for fact in facts(minor) if isinstance(fact, TaskReported)}
    others = {f.instance for f in facts(minor) if isinstance(f, InstanceReported | HealthReported)}
    assert others - tasks == {f"shop_edge.instance-{make.POD.uuid}"}
    assert tasks <= others


APPS = {
    WEB: App(
        id=WEB,
        instances=2,
        labels={"team": "shop"},
        ports=(Port(8080, 10104, "tcp", "http"), Port(9100, 10105, "tcp", "metrics")),
        checked=True,
        minimum_health=0.5,
        over_capacity=0.25,
        own_network=True,
        version=V1,
    ),
    OWN: App(OWN, 1, {}, (Port(6379, 10120, "tcp", "redis"),), own_network=True, version=V1),
    HOST: App(HOST, 2, {}, (Port(None, 10130, "tcp", "admin"),), own_network=False, version=V1),
}
INSTANCES = {
    "first": (WEB, "agent-03.dc1.example.net", State.RUNNING, Health.HEALTHY, (31005, 31006), V1),
    "second": (WEB, "agent-02.dc1.example.net", State.RUNNING, Health.HEALTHY, (31003, 31004), V1),
    "own": (OWN, "agent-05.dc1.example.net", State.RUNNING, Health.UNKNOWN, (), V1),
    "host": (HOST, "agent-06.dc1.example.net", State.RUNNING, Health.UNKNOWN, (31007,), V1),
    "lost": (HOST, "agent-07.dc1.example.net", State.INACTIVE, Health.UNKNOWN, (), ""),
}


def described(instance: Instance) -> tuple[object, ...]:
    return (
        instance.app,
        instance.host,
        instance.state,
        instance.health,
        instance.host_ports,
        instance.version,
    )


@every_version
def test_the_listing_says_the_same(minor: int) -> None:
    listings = read_apps(fixture(minor, "apps.json"), 5.0)
    assert {id: listing.app for id, listing in listings.items()} == APPS
    instances = [instance for listing in listings.values() for instance in listing.instances]
    assert {seat(instance.id): described(instance) for instance in instances} == INSTANCES
    assert read_app(fixture(minor, "app.json"), 5.0) == listings[WEB]


@every_version
def test_listing_and_stream_agree_about_ids(minor: int) -> None:
    streamed = {(f.instance, f.incarnation, f.task) for f in facts(minor) if isinstance(f, TaskReported)}
    listed = {(each.id, each.incarnation, each.task) for each in instances_of_web(minor)}
    assert len(listed) == 2
    assert listed <= streamed


def instances_of_web(minor: int) -> tuple[Instance, ...]:
    return read_app(fixture(minor, "app.json"), 0).instances


@every_version
def test_pods_are_named_alike(minor: int) -> None:
    instance = InstanceId(f"shop_edge.instance-{make.POD.uuid}")
    assert read_pods(fixture(minor, "pods.json")) == {EDGE: frozenset({instance})}


@every_version
async def test_who_answers(minor: int) -> None:
    async def answer(request: web.Request) -> web.Response:
        name = request.path.removeprefix("/v2/")
        return web.Response(body=fixture(minor, f"{name}.json"), content_type="application/json")

    app = web.Application()
    app.router.add_get("/v2/{name}", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        access = Access((str(server.make_url("")).rstrip("/"),))
        async with Marathon(access, SystemClock(), timeout_s=5) as marathon:
            identity = await marathon.identity()
    assert identity.version == make.RELEASES[minor]
    assert identity.framework.endswith("-0001")
    assert identity.leader == "marathon-1.dc1.example.net:8080"


# -- through the view


def picture(view: View) -> dict[str, tuple[object, ...]]:
    """Each seat as it is now: a seat's earlier instance is told only while nobody has followed."""
    order = sorted(view.instances(), key=lambda each: each.state is not State.GONE)
    return {seat(instance.id): described(instance) for instance in order}


def snapshot(minor: int, begun: float, without: frozenset[AppId] = frozenset()) -> Snapshot:
    apps = read_apps(fixture(minor, "apps.json"), begun)
    kept = {id: listing for id, listing in apps.items() if id not in without}
    return Snapshot(begun, kept, read_pods(fixture(minor, "pods.json")))


@every_version
def test_stream_and_listings_end_in_the_same_picture(minor: int) -> None:
    view = View(absence_confirm_s=10)
    view.attached(0.5)
    for fact in facts(minor, until=LISTED_AT):
        view.apply_event(fact, 1.0)
    view.apply_snapshot(snapshot(minor, 2.0), 3.0)
    for id, app in APPS.items():
        assert view.app(id) == app
    assert picture(view) == INSTANCES
    for fact in facts(minor, since=LISTED_AT):
        view.apply_event(fact, 4.0)
    view.apply_snapshot(snapshot(minor, 5.0, without=frozenset({WEB})), 6.0)
    assert view.is_deleted(WEB)
    final = picture(view)
    assert (final["first"][2], final["second"][2]) == (State.GONE, State.GONE)
    assert {name: final[name] for name in ("own", "host", "lost")} == {
        name: INSTANCES[name] for name in ("own", "host", "lost")
    }
    assert view.brake is None


# -- a cluster between two versions


def test_a_listing_with_tasks_of_1_7_beside_tasks_of_1_8() -> None:
    body = json.loads(fixture(8, "app.json"))
    old, new = json.loads(fixture(7, "app.json"))["app"]["tasks"], body["app"]["tasks"]
    body["app"]["tasks"] = [old[1], new[0]]  # the second seat as 1.7 left it, the first as 1.8 relaunched it
    mixed = read_app(json.dumps(body).encode(), 0)
    assert mixed.app == APPS[WEB]
    assert {seat(each.id): described(each) for each in mixed.instances} == {
        name: INSTANCES[name] for name in ("first", "second")
    }
    assert {each.id for each in mixed.instances} == {
        f"shop_web.instance-{make.FIRST.uuid}",
        f"shop_web.marathon-{make.SECOND.uuid}",
    }


def test_a_task_of_1_7_relaunched_by_1_8_is_its_own_successor() -> None:
    """Its first id has no number and its second is number 1, yet the second is the later incarnation."""
    view = View()
    listing = read_app(fixture(7, "app.json"), 1.0)
    view.apply_snapshot(Snapshot(1.0, {WEB: listing}), 2.0)
    instance = listing.instances[1]
    assert read_task_id(instance.task).instance == instance.id
    for now, suffix, word in (
        (3.0, "", "TASK_FAILED"),
        (4.0, ".1", "TASK_RUNNING"),
        (5.0, "", "TASK_FAILED"),
    ):
        event = {"taskId": instance.task + suffix, "taskStatus": word, "appId": WEB, "host": "agent-08"}
        fact = decode(Frame("status_update_event", json.dumps(event).encode()))
        assert isinstance(fact, TaskReported)
        view.apply_event(fact, now)
    found = view.instance(instance.id)
    assert found is not None
    assert (found.state, found.host, found.task) == (
        State.RUNNING,
        HostName("agent-08"),
        f"{instance.task}.1",
    )
