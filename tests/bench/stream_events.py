"""What the stream benchmark sends: events as Marathon writes them, byte for byte the same for every client.

Small: status updates of a task that starts, in the shape of 1.8 and later, each of exactly 405 bytes on the
wire.  No two are alike: apps, agents, ports, ids and times vary as in a burst, because a client that meets
the same text again and again is faster than it will ever be.

Big: one `deployment_info` of 1.4, which carries the whole root group twice, grown to five megabytes.
"""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import dataclass
from typing import Any

from mooring.controller.events import AppsChanged, Event, TaskReported
from tests.data.marathon import shapes

SMALL_BYTES = 405
SMALL_COUNT = 20_000
BIG_BYTES = 5_000_000
PIECE = 65_536
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream;charset=utf-8\r\nConnection: close\r\n\r\n"
ATTACHED = b"event: event_stream_attached\r\ndata: {}\r\n\r\n"


@dataclass(frozen=True)
class Sample:
    """One kind of stream: the data of its events, and the bytes that carry them."""

    name: str
    texts: tuple[str, ...]
    stream: bytes
    pieces: tuple[bytes, ...]
    fact: type[Event]  # what each event means to us

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.texts)


def framed(kind: str, text: str) -> bytes:
    """One event on the wire."""
    return f"event: {kind}\r\ndata: {text}\r\n\r\n".encode()


def padded(kind: str, size: int) -> bytes:
    """An event of exactly `size` bytes that means nothing."""
    around = len(framed(kind, '{"":1}'))
    return framed(kind, '{"' + "x" * (size - around) + '":1}')


def small(count: int = SMALL_COUNT) -> Sample:
    """A burst of status updates."""
    chance = random.Random(405)
    events = [_status(chance, number) for number in range(count)]
    assert {len(framed(*event)) for event in events} == {SMALL_BYTES}
    return _sample("small", events, TaskReported)


def big() -> Sample:
    """One deployment of an old Marathon with some two thousand apps."""
    chance = random.Random(5)
    apps: list[dict[str, Any]] = []
    size = 0
    while size < BIG_BYTES // 2:
        port = chance.randrange(10_000, 20_000)
        ports = [shapes.mapping(4, 8080, port, "web", 0)]
        app = shapes.app(4, f"/shop/{len(apps):04}", "container/bridge", ports, [], env={"MODE": "live"})
        apps.append(app)
        size += len(_json(app)) + 1
    group = {"id": "/", "apps": apps, "groups": [], "pods": [], "dependencies": [], "version": shapes.V1}
    actions = [{"action": "ScaleApplication", "app": app["id"]} for app in apps[:3]]
    kind, fields = shapes.deployment(4, "deployment_info", _uuid(chance), actions, group)
    return _sample("big", [(kind, _text(kind, fields, 0))], AppsChanged)


def _status(chance: random.Random, number: int) -> tuple[str, str]:
    launch = shapes.Launch(
        app=f"/shop/{chance.randrange(400):04}",
        uuid=_uuid(chance),
        agent=chance.randrange(1, 10),
        ports=(chance.randrange(31_000, 32_000),),
    )
    kind, fields = shapes.status(8, launch, "TASK_STARTING")
    return kind, _text(kind, fields, number)


def _text(kind: str, fields: dict[str, Any], number: int) -> str:
    second, millisecond = divmod(number, 1000)
    stamp = f"2020-05-22T14:55:{second % 60:02}.{millisecond:03}Z"
    return _json({**fields, "eventType": kind, "timestamp": stamp})


def _uuid(chance: random.Random) -> str:
    return str(uuid.UUID(int=chance.getrandbits(128), version=1))


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _sample(name: str, events: list[tuple[str, str]], fact: type[Event]) -> Sample:
    stream = b"".join(framed(*event) for event in events)
    pieces = tuple(stream[at : at + PIECE] for at in range(0, len(stream), PIECE))
    return Sample(name, tuple(text for _, text in events), stream, pieces, fact)
