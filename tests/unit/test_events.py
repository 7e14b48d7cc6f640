"""Every event that Marathon is known to send, and every way of sending it wrong."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mooring.cext import Frame, Framer
from mooring.controller.dialect import read_host, read_instance_id, read_task_id
from mooring.controller.events import (
    ATTACHED,
    IGNORED,
    MOST_OBJECTS,
    WANTED,
    AppsChanged,
    AppTerminated,
    Event,
    EventUnreadable,
    HealthReported,
    InstanceReported,
    SchedulerChanged,
    TaskReported,
    decode,
    objects,
)
from mooring.controller.intake import Intake
from mooring.core.model import AppId, HostName, InstanceId, State, TaskId

SAMPLES = Path(__file__).parents[1] / "data" / "marathon-events"
UUID = "5f0f6aab-9c2e-11ea-bb37-7085c2d4e601"
API = AppId("/prod/web/api")
INSTANCE = InstanceId(f"prod_web_api.instance-{UUID}")


def sample(name: str) -> Frame:
    return Frame(name, json.dumps(json.loads((SAMPLES / f"{name}.json").read_text())).encode())


ALL = sorted(path.stem for path in SAMPLES.glob("*.json"))


def test_there_are_samples() -> None:
    assert len(ALL) > 25


@pytest.mark.parametrize("name", ALL)
def test_every_sample_is_decoded_or_ignored_by_name(name: str) -> None:
    assert (name in WANTED) != (name in IGNORED)
    assert (decode(sample(name)) is not None) == (name in WANTED)


def test_status_update() -> None:
    assert decode(sample("status_update_event")) == TaskReported(
        instance=INSTANCE,
        incarnation=2,
        task=TaskId(f"{INSTANCE}._app.2"),
        app=API,
        state=State.RUNNING,
        host=HostName("agent-07.dc1.example.net"),
        host_ports=(31744, 31745),
        version="2020-05-22T13:04:11.482Z",
        stamp="2020-05-22T14:55:49.915Z",
    )


def test_the_other_facts() -> None:
    host = HostName("agent-07.dc1.example.net")
    assert decode(sample("instance_changed_event")) == InstanceReported(
        INSTANCE, API, State.RUNNING, host, "2020-05-22T14:55:49.916Z"
    )
    healthy = decode(sample("instance_health_changed_event"))
    assert healthy == HealthReported(INSTANCE, API, True, "2020-05-22T14:56:04.201Z")
    sick = decode(sample("health_status_changed_event"))
    assert sick == HealthReported(INSTANCE, API, False, "2020-05-22T14:55:20.662Z")
    assert decode(sample("app_terminated_event")) == AppTerminated(AppId("/prod/web/legacy"))
    assert decode(sample("api_post_event")) == AppsChanged((API,))
    assert decode(sample("deployment_info")) == AppsChanged((API,))
    assert decode(sample("scheduler_registered_event")) == SchedulerChanged()


def test_unknown_terminations_of_both_generations() -> None:
    new = decode(sample("unknown_instance_terminated_event"))
    old = decode(sample("unknown_task_terminated_event"))
    assert isinstance(new, InstanceReported)
    assert isinstance(old, InstanceReported)
    assert (new.state, old.state) == (State.DEAD, State.DEAD)
    assert old.instance == "prod_web_api.marathon-8c1d4b60-0893-11e7-9b5f-7085c2d4e601"


def test_a_deployment_names_apps_and_pods() -> None:
    data = json.loads(sample("deployment_step_success").data)
    read = [
        decode(Frame(f"deployment_{kind}", json.dumps(data).encode()))
        for kind in ("info", "success", "failed")
    ]
    apps, pods = (AppId("/prod/web/legacy"), AppId("/prod/web/cache")), (AppId("/prod/edge/proxy"),)
    begun, failed = AppsChanged(apps, pods, stopped=apps[:1]), AppsChanged(apps, pods, kept=apps[:1])
    assert read == [begun, AppsChanged(apps, pods), failed]


@pytest.mark.parametrize(
    ("task", "instance", "incarnation", "of_pod"),
    [
        (f"a_b.instance-{UUID}._app.3", f"a_b.instance-{UUID}", 3, False),
        (f"a_v1.2.instance-{UUID}._app.12", f"a_v1.2.instance-{UUID}", 12, False),
        (f"a_b.marathon-{UUID}._app.2", f"a_b.marathon-{UUID}", 2, False),
        (f"a_b.instance-{UUID}.$anon", f"a_b.instance-{UUID}", 1, False),
        (f"a_b.instance-{UUID}.$anon.2", f"a_b.instance-{UUID}", 2, False),
        (f"a_b.instance-{UUID}.nginx.2", f"a_b.instance-{UUID}", 2, True),
        (f"a_b.instance-{UUID}.nginx", f"a_b.instance-{UUID}", 1, True),
        (f"a_b.{UUID}", f"a_b.marathon-{UUID}", 1, False),
        (f"a_b.{UUID}.1", f"a_b.marathon-{UUID}", 2, False),
        (f"a_b.{UUID}.4", f"a_b.marathon-{UUID}", 5, False),
        (f"a_b_{UUID}", f"a_b.marathon-{UUID}", 1, False),
        (f"a_b.marathon-{UUID}", f"a_b.marathon-{UUID}", 1, False),
        (f"a_b.instance-{UUID}", f"a_b.instance-{UUID}", 1, False),
        ("something-else", "something-else", 1, False),
        ("", "", 1, False),
        (f"a.{UUID}.{'9' * 5000}", f"a.{UUID}.{'9' * 5000}", 1, False),
        (f"a.instance-{UUID}._app.{'9' * 5000}", f"a.instance-{UUID}._app.{'9' * 5000}", 1, False),
        (f"a.instance-{UUID}._app.", f"a.instance-{UUID}._app.", 1, False),
        (f"a.instance-{UUID}._app.-1", f"a.instance-{UUID}._app.-1", 1, False),
    ],
)
def test_ids_of_every_generation(task: str, instance: str, incarnation: int, of_pod: bool) -> None:
    name = read_task_id(task)
    assert (name.instance, name.incarnation, name.of_pod) == (instance, incarnation, of_pod)


PATHS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?([._][a-z0-9]{1,5}){0,3}", fullmatch=True)


@given(PATHS, st.uuids(), st.integers(1, 10**9 - 1))
def test_the_instance_is_the_same_whoever_names_it(safe: str, uuid: object, n: int) -> None:
    modern, legacy = f"{safe}.instance-{uuid}", f"{safe}.marathon-{uuid}"
    tasks = {f"{modern}._app.{n}": modern, f"{safe}.{uuid}": legacy, f"{safe}.{uuid}.{n}": legacy}
    for task, instance in tasks.items():
        assert read_task_id(task).instance == read_instance_id(instance) == instance
        assert read_instance_id(task) == instance
    assert read_task_id(f"{modern}._app.{n}").incarnation == n
    assert read_task_id(f"{safe}.{uuid}.{n}").incarnation > read_task_id(f"{safe}.{uuid}").incarnation


@given(st.text())
def test_any_text_is_an_id(text: str) -> None:
    assert read_task_id(text).instance == read_instance_id(text)


@pytest.mark.parametrize(("host", "read"), [("unknown", None), ("", None), (None, None), ("a1", "a1")])
def test_hosts_that_are_none(host: str | None, read: str | None) -> None:
    assert read_host(host) == read


def status(**changes: object) -> bytes:
    return json.dumps({**json.loads(sample("status_update_event").data), **changes}).encode()


def test_nulls_and_missing_fields_of_old_versions() -> None:
    event = decode(Frame("status_update_event", status(host="unknown", ports=None, version=None)))
    assert isinstance(event, TaskReported)
    assert (event.host, event.host_ports, event.version) == (None, (), "")
    short = {"taskId": f"a.{UUID}", "taskStatus": "TASK_LOST", "appId": "/a"}
    event = decode(Frame("status_update_event", json.dumps(short).encode()))
    assert isinstance(event, TaskReported)
    assert (event.state, event.stamp) == (State.UNREACHABLE, "")


@pytest.mark.parametrize("name", ["instance_changed_event", "unknown_instance_terminated_event"])
@pytest.mark.parametrize(
    ("was", "now"), [("runSpecId", "appId"), ("instanceId", "taskId"), ("instanceId", "instanceId")]
)
def test_another_versions_names_for_instance_and_app(name: str, was: str, now: str) -> None:
    fields = json.loads(sample(name).data)
    renamed = {now if field == was else field: value for field, value in fields.items()}
    assert decode(Frame(name, json.dumps({was: None, **renamed}).encode())) == decode(sample(name))


@pytest.mark.parametrize("name", ["deployment_info", "deployment_success", "deployment_failed"])
def test_a_heavy_deployment_is_read_like_a_light_one(name: str) -> None:
    fields = json.loads(sample(name).data)
    group = {"id": "/", "apps": [{"id": "/other", "steps": [], "cmd": '{"plan":'}], "groups": None}
    heavy = {**fields, "plan": {"original": group, **fields["plan"], "target": group, "steps": [None]}}
    with pytest.raises(EventUnreadable):
        decode(Frame(name, json.dumps(heavy).encode()))
    heavy["plan"]["steps"] = fields["plan"]["steps"]
    assert decode(Frame(name, json.dumps(heavy).encode())) == decode(sample(name))
    heavy["plan"]["steps"] = None
    assert decode(Frame(name, json.dumps(heavy).encode())) == AppsChanged(())


def test_what_facts_repeat_is_one_string_for_all() -> None:
    one, other = decode(sample("status_update_event")), decode(sample("status_update_event"))
    assert isinstance(one, TaskReported)
    assert isinstance(other, TaskReported)
    for shared in ("app", "host", "version", "state"):
        assert getattr(one, shared) is getattr(other, shared)


def test_a_pods_task_is_no_fact_of_ours() -> None:
    assert decode(Frame("status_update_event", status(taskId=f"a.instance-{UUID}.web.1"))) is None


@pytest.mark.parametrize(
    ("event", "data", "reason"),
    [
        ("status_update_event", b'{"taskId": "a', "json"),
        ("status_update_event", b"garbage", "json"),
        ("status_update_event", b"", "json"),
        ("status_update_event", b'{"taskId": "\xff\xfe"}', "json"),
        ("status_update_event", b"[]", "shape"),
        ("status_update_event", b"{}", "shape"),
        ("status_update_event", b"[" * 100_000, "shape"),
        ("status_update_event", b'{"x":' + b"[" * 100_000, "json"),
        ("group_change_of_the_future", b"[" * 100_000, "json"),
        ("status_update_event", status(taskId=7), "shape"),
        ("status_update_event", status(taskId=""), "shape"),
        ("status_update_event", status(appId=None), "shape"),
        ("status_update_event", status(ports=[10**30]), "shape"),
        ("status_update_event", status(ports=[65536]), "shape"),
        ("status_update_event", status(ports=["x"]), "shape"),
        ("status_update_event", status(taskStatus="TASK_ODD"), "state"),
        ("instance_changed_event", b'{"instanceId":"a","runSpecId":"/a","condition":"Odd"}', "state"),
        ("health_status_changed_event", b'{"appId":"/a","alive":true}', "shape"),
        ("instance_health_changed_event", b'{"instanceId":"a","healthy":true}', "shape"),
        ("unknown_task_terminated_event", b'{"runSpecId":"/a"}', "shape"),
        ("deployment_info", b'{"plan": 3}', "shape"),
    ],
)
def test_the_unreadable_is_named(event: str, data: bytes, reason: str) -> None:
    with pytest.raises(EventUnreadable) as caught:
        decode(Frame(event, data))
    assert caught.value.reason == reason
    assert event.split("_")[0] in str(caught.value)


def test_a_missing_envelope_type_is_read_from_the_event_itself() -> None:
    assert decode(Frame("message", sample("app_terminated_event").data)) == AppTerminated(
        AppId("/prod/web/legacy")
    )
    assert decode(Frame("message", b"{}")) is None
    facts: list[Event] = []
    intake = Intake(facts.append, facts.append)
    for name in ("app_terminated_event", "group_change_success"):
        intake.take(Frame("message", sample(name).data))
    assert facts == [AppTerminated(AppId("/prod/web/legacy"))]
    assert intake.decoded == {"app_terminated_event": 1}
    assert intake.ignored == {"group_change_success": 1}


def test_several_objects_in_one_block() -> None:
    block = sample("app_terminated_event").data + b"\r\n\n" + sample("status_update_event").data
    kinds = [part.event for part in objects(Frame("app_terminated_event", block))]
    assert kinds == ["app_terminated_event", "status_update_event"]


def test_one_object_over_several_lines() -> None:
    pretty = (SAMPLES / "status_update_event.json").read_bytes()
    assert b"\n" in pretty
    assert list(objects(Frame("status_update_event", pretty))) == [Frame("status_update_event", pretty)]


def test_the_intake_goes_on_after_every_kind_of_damage() -> None:
    facts: list[Event] = []
    lost: list[str] = []
    intake = Intake(facts.append, lost.append)
    good = sample("app_terminated_event")
    stream = b"".join(
        b"event: %s\r\ndata: %s\r\n\r\n" % (event, data)
        for event, data in [
            (b"app_terminated_event", good.data),
            (b"status_update_event", b'{"taskId": "torn'),
            (b"status_update_event", b"<html>not json</html>"),
            (b"status_update_event", status(taskStatus=5)),
            (b"status_update_event", b"x" * 5000),
            (b"brand_new_event", b"{}"),
            (b"another_new_event", b'{"eventType": "and_a_third_name"}'),
            (ATTACHED.encode(), b"{}"),
            (b"app_terminated_event", good.data + b"\r\ndata: {torn\r\ndata: " + good.data),
        ]
    )
    framer = Framer(limit=2000)
    for frame in framer.feed(stream):
        intake.take(frame)
    assert len(facts) == 2  # what follows the torn piece of a block is passed over
    assert framer.skipped == 1
    assert intake.unreadable == {"json": 3, "shape": 1}
    assert intake.ignored == {"unknown": 2, ATTACHED: 1}
    assert intake.decoded == {"app_terminated_event": 2}
    assert lost == ["json", "json", "shape", "json"]


# -- what it may cost


def taken(*frames: Frame) -> tuple[list[Event], list[str], list[MutableMapping[str, Any]], Intake]:
    """The facts, the reasons told, the lines logged, and the intake with its counters."""
    facts: list[Event] = []
    lost: list[str] = []
    intake = Intake(facts.append, lost.append)
    with capture_logs() as logged:
        for frame in frames:
            intake.take(frame)
    return facts, lost, logged, intake


@pytest.mark.parametrize("kind", ["status_update_event", "of_the_future"])
def test_a_frame_of_rubbish_lines_is_one_loss_and_one_line(kind: str) -> None:
    facts, lost, logged, intake = taken(Frame(kind, b"\n".join([b"x"] * 100_000)))
    assert (facts, lost, len(logged)) == ([], ["json"], 1)
    assert intake.unreadable == {"json": 1}
    assert not intake.ignored


def test_lines_before_the_first_bad_one_count() -> None:
    good = sample("app_terminated_event").data
    facts, lost, logged, intake = taken(
        Frame("app_terminated_event", b"\n".join([good, b" ", good, *[b"x"] * 100_000, good]))
    )
    assert facts == [AppTerminated(AppId("/prod/web/legacy"))] * 2
    assert (lost, len(logged), intake.decoded.total()) == (["json"], 1, 2)


@pytest.mark.parametrize("more", [0, 1, 100_000])
def test_objects_in_one_block_are_bounded(more: int) -> None:
    block = b"\n".join([sample("app_terminated_event").data] * MOST_OBJECTS + [b"{}"] * more)
    facts, lost, logged, intake = taken(Frame("app_terminated_event", block))
    assert len(facts) == MOST_OBJECTS
    assert lost == ["too_many"] * bool(more)
    assert intake.unreadable.total() == len(logged) == bool(more)


def test_a_block_of_nothing_but_white_space_is_a_loss() -> None:
    assert taken(Frame("status_update_event", b"\n \n"))[1] == ["json"]


def test_a_flood_of_one_kind_is_logged_ever_more_rarely_and_counted_exactly() -> None:
    odd = Frame("status_update_event", status(taskStatus="TASK_ODD"))
    _, lost, logged, intake = taken(*[odd] * 1234)
    assert [line["count"] for line in logged] == [1, 10, 100, 1000]
    assert {(line["reason"], line["event_type"]) for line in logged} == {("state", "status_update_event")}
    assert "TASK_ODD" in logged[0]["error"]
    assert (len(lost), intake.unreadable) == (1234, {"state": 1234})


def test_each_kind_is_logged_at_its_first() -> None:
    frames = [
        Frame("status_update_event", status(taskStatus="TASK_ODD")),
        Frame("status_update_event", b"torn"),
        Frame("app_terminated_event", b"torn"),
        *(Frame(f"made_up_{number}", b"torn") for number in range(50)),
    ]
    _, lost, logged, intake = taken(*frames, *frames[:3])
    assert [(line["reason"], line["event_type"], line["count"]) for line in logged] == [
        ("state", "status_update_event", 1),
        ("json", "status_update_event", 1),
        ("json", "app_terminated_event", 1),
        ("json", "unknown", 1),
        ("json", "unknown", 10),
    ]
    assert len(lost) == intake.unreadable.total() == len(frames) + 3


def test_a_name_that_a_sender_makes_up_is_not_logged_at_any_length() -> None:
    _, lost, [line], _ = taken(Frame("x" * 1_000_000, b"y" * 1_000_000))
    assert lost == ["json"]
    assert len(line["error"]) < 500
