"""Whatever becomes of an event or a reply on its way: a fact, nothing, or the one error meant for it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring.cext import Frame, Framer
from mooring.controller.events import Event, EventUnreadable, decode, objects
from mooring.controller.intake import Intake
from mooring.controller.listing import (
    AppListing,
    listed_app_steps,
    read_app,
    read_listed_app,
    read_listed_pod,
)
from mooring.core.errors import MooringError, Retryable
from tests.data.marathon import make
from tests.unit.listings import elements

SAMPLES = sorted((Path(__file__).parents[1] / "data" / "marathon-events").glob("*.json"))
FRAMES = [Frame(path.stem, path.read_bytes()) for path in SAMPLES] + [
    frame for minor in (4, 7, 8) for frame in Framer().feed(make.stream(minor))
]
REPLIES = {(minor, name): body for minor in (4, 5, 11) for name, body in make.files(minor).items()}
APP_BODIES = [json.dumps(app).encode() for minor in (4, 5, 11) for app in make.apps(minor)]

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        65536,
        10**30,
        -(10**30),
        1e300,
        0.5,
        "",
        "x",
        "\ud800",
        "\x00",
        "é" * 50,
        "9" * 5000,
        "TASK_RUNNING",
        [],
        [None],
        [[]],
        {},
        {"id": None},
        {"ports": [{}]},
    ]
)
DEEP = [b"[" * 5000 + b"]" * 5000, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"[" * 200_000]
DAMAGE = st.sampled_from(
    [b"\xff", b"\xed\xa0\x80", b"\\ud800", b'"', b"\\", b"{", b"]", b"\n", b"9" * 400, *DEEP]
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in the document with each of its keys."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    here = [(value, key) for key in keys]
    return here + [place for key in keys for place in places(value[key])]


@st.composite
def damaged(draw: st.DrawFn, body: bytes) -> bytes:
    """The document with some fields dropped or made odd, and some of its bytes overwritten."""
    document = json.loads(body)
    for _ in range(draw(st.integers(0, 3))):
        found = places(document)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        if isinstance(container, dict) and draw(st.booleans()):
            del container[key]
        else:
            container[key] = copy.deepcopy(draw(ODD))
    body = json.dumps(document).encode()
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(body)))
        body = body[:at] + draw(DAMAGE) + body[at + draw(st.integers(0, 4)) :]
    return body[: draw(st.integers(0, len(body)))] if draw(st.integers(0, 9)) == 0 else body


thorough = settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.data_too_large])


def outcome(read: Callable[[], Any], meant: type[MooringError]) -> Any:
    """What the reading gave: its result or the error meant for damage; any other error is a failure."""
    try:
        return read()
    except meant as error:
        return error


@thorough
@given(st.data(), st.sampled_from(FRAMES))
def test_a_damaged_event(data: st.DataObject, frame: Frame) -> None:
    torn = Frame(data.draw(st.sampled_from([frame.event, "message"])), data.draw(damaged(frame.data)))
    found = outcome(partial(decode, torn), EventUnreadable)
    assert found is None or isinstance(found, Event | EventUnreadable)
    assert not isinstance(found, EventUnreadable) or found.reason in ("json", "shape", "state")


@thorough
@given(st.data())
def test_every_damaged_frame_is_counted_once(data: st.DataObject) -> None:
    facts: list[Event] = []
    lost: list[str] = []
    intake = Intake(facts.append, lost.append)
    frame = data.draw(st.sampled_from(FRAMES))
    torn = Frame(frame.event, data.draw(damaged(frame.data)))
    parts = list(objects(torn))
    intake.take(torn)
    assert intake.decoded.total() == len(facts)
    assert intake.unreadable.total() == len(lost) <= 1
    read = intake.decoded.total() + intake.ignored.total()
    assert read < len(parts) if lost else read == len(parts)


@thorough
@given(st.data(), st.sampled_from(APP_BODIES))
def test_a_damaged_app(data: st.DataObject, body: bytes) -> None:
    torn = data.draw(damaged(body))
    found = outcome(partial(read_listed_app, torn, 1.0), Retryable)
    if isinstance(found, Retryable):
        assert str(found).startswith("/v2/apps: ")
    else:
        assert all(0 <= port <= 65535 for each in found.instances for port in each.host_ports)


def cut(body: bytes, key: str | None) -> list[bytes]:
    """The elements; none of a listing that cannot be cut, which is as good as none at all."""
    try:
        return elements(body, key)
    except ValueError:
        return []


READERS: dict[str, tuple[Callable[[bytes], list[bytes]], Callable[[bytes], object]]] = {
    "apps.json": (partial(cut, key="apps"), partial(read_listed_app, begun=1.0)),
    "app.json": (lambda body: [body], partial(read_app, begun=1.0)),
    "pods.json": (partial(cut, key=None), read_listed_pod),
}


@thorough
@given(st.data(), st.sampled_from(sorted(READERS)))
def test_a_damaged_reply(data: st.DataObject, name: str) -> None:
    torn = data.draw(damaged(REPLIES[data.draw(st.sampled_from([4, 5, 11])), name]))
    pieces, read = READERS[name]
    for piece in pieces(torn):
        found = outcome(partial(read, piece), Retryable)
        assert not isinstance(found, Retryable) or str(found).startswith("/v2/")


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(APP_BODIES))
def test_slices_say_what_the_whole_says(data: st.DataObject, body: bytes) -> None:
    app = json.loads(body)
    padded = {**app, "labels": {"long": "x" * 300_000}}  # large enough to be read in slices
    torn = data.draw(damaged(body))
    large = torn.replace(b'{"id"', b'{"labels": {"long": "%s"}, "id"' % (b"x" * 300_000), 1)
    for element in (json.dumps(padded).encode(), large):
        at_once = outcome(partial(read_listed_app, element, 1.0), Retryable)
        sliced = outcome(partial(in_slices, element), Retryable)
        assert isinstance(at_once, Retryable) == isinstance(sliced, Retryable)
        assert isinstance(at_once, Retryable) or at_once == sliced


def in_slices(element: bytes) -> AppListing:
    running = listed_app_steps(element, 1.0)
    while True:
        try:
            next(running)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("deep", DEEP)
def test_deep_nesting(deep: bytes) -> None:
    for read in (read_listed_app, read_app):
        with pytest.raises(Retryable):
            read(b'{"id": "/a", "env": ' + deep, 1.0)
    with pytest.raises(Retryable):
        read_listed_pod(b'{"id": "/a", "spec": ' + deep)
