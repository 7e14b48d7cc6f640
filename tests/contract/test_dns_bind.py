"""What only a real name server and a real network show: keys, policies, clocks, silence."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mooring.core.errors import Refused, Retryable
from mooring.core.sink import Done, NotPossible
from mooring.core.specs import NameSpec
from mooring.dns.ownership import marker_of
from mooring.dns.records import Add, NameServer, Unanswered, Update
from mooring.dns.rfc2136 import Rfc2136Server
from tests.contract.bind import DENIED, KEY, READER_KEY, SECRET, ZONE, Named, running_named
from tests.contract.dns_samples import MARK, change, client_of, emptied, one, seat, seats_of, values


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Named]:
    with running_named(tmp_path_factory.mktemp("bind")) as running:
        yield running


@pytest.fixture
async def bind(named: Named) -> NameServer:
    return await emptied(named)


async def test_dig_sees_what_we_say(named: Named, bind: NameServer) -> None:
    assert shutil.which("dig"), "dig is missing: install the Debian package dnsutils"
    await one(seats_of(bind), change("b", seat(3)))
    assert _dig(named, seat(3).name, "A") == seat(3).address
    assert _dig(named, "-x", seat(3).address) == seat(3).name + "."
    assert _dig(named, marker_of(seat(3).name), "TXT") == f'"{MARK}"'


def _dig(named: Named, *question: str) -> str:
    command = ["dig", f"@{named.address}", "-p", str(named.port), "+short", *question]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.strip()


async def test_repeating_does_not_touch_the_zone(bind: NameServer) -> None:
    sink = seats_of(bind)
    await one(sink, change("b", seat(0)))
    before = await values(bind, ZONE, "SOA")
    await one(sink, change("b", seat(0), seat(0)))
    await sink.check()
    assert await values(bind, ZONE, "SOA") == before


async def test_a_name_that_the_servers_policy_denies(bind: NameServer) -> None:
    changes = [change(f"b{slot}", seat(slot)) for slot in range(4)]
    denied = change("d", NameSpec(DENIED, "10.64.3.3", 10))
    *others, outcome = await seats_of(bind).apply([*changes, denied])
    assert others == [Done()] * 4
    assert isinstance(outcome, NotPossible)
    assert DENIED in outcome.reason
    assert "REFUSED" in outcome.reason


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"key_name": "nobodys-key"}, "does not know the key"),
        ({"secret": "d3Jvbmc="}, "secret or algorithm"),
        ({"algorithm": "hmac-sha512"}, "secret or algorithm|does not know the key"),
    ],
)
async def test_a_wrong_key_is_explained(named: Named, changes: dict[str, str], fault: str) -> None:
    sink = seats_of(client_of(named, **changes))
    for attempt in (sink.check(), sink.apply([change("b", seat(0))]), sink.observe()):
        with pytest.raises(Refused, match=fault) as refused:
            await attempt
        assert changes.get("key_name", KEY) in str(refused.value)
        assert SECRET not in str(refused.value)


async def test_a_key_that_may_only_read(named: Named, bind: NameServer) -> None:
    sink = seats_of(client_of(named, key_name=READER_KEY))
    with pytest.raises(Refused, match="takes updates from our key"):
        await sink.check()
    with pytest.raises(Refused, match="takes updates from our key"):
        await sink.apply([change("b", seat(0))])
    with pytest.raises(Refused, match="allow it for our key"):
        await sink.observe()


@pytest.mark.parametrize(
    "settings", [{"secret": "not base64!"}, {"algorithm": "hmac-md5"}, {"key_name": "x" * 300}]
)
def test_an_unusable_key_is_refused_at_once(named: Named, settings: dict[str, str]) -> None:
    with pytest.raises(Refused, match="TSIG key") as refused:
        client_of(named, **settings)
    assert "not base64!" not in str(refused.value)


async def test_a_server_that_is_down(tmp_path: Path) -> None:
    with running_named(tmp_path) as stopped:
        sink = seats_of(client_of(stopped))
        assert await one(sink, change("b", seat(0))) == Done()
    with pytest.raises(Retryable, match="does not accept connections"):
        await sink.apply([change("b", None, seat(0))])


@asynccontextmanager
async def mute_server(*, hangs: bool) -> AsyncIterator[int]:
    """Accepts and reads, and never says a word; it waits for the client to go, or hangs up."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await (reader.read() if hangs else reader.read(2))
        writer.close()

    listening = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


@pytest.mark.parametrize(("hangs", "timeout_s"), [(True, 0.3), (False, 20.0)])
async def test_a_server_that_never_answers_costs_no_more_than_its_time(hangs: bool, timeout_s: float) -> None:
    async with mute_server(hangs=hangs) as port:
        server = Rfc2136Server("127.0.0.1", port, key_name=KEY, secret=SECRET, timeout_s=timeout_s)
        began = time.monotonic()
        for attempt in (seats_of(server).apply([change("b", seat(0))]), seats_of(server).observe()):
            with pytest.raises(Unanswered, match=server.where):
                await attempt
        assert time.monotonic() - began < 10


async def test_a_message_that_is_too_big_is_a_refused_one(bind: NameServer) -> None:
    adds = tuple(Add(f"n{n}.{'x' * 60}.{ZONE}", "TXT", "y" * 60, 10) for n in range(1000))
    assert await bind.update(Update(ZONE, (), adds)) == "FORMERR"
    assert (f"n0.{'x' * 60}.{ZONE}", "TXT") not in await bind.transfer(ZONE)


async def test_a_clock_that_is_wrong(bind: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 3600)
    with pytest.raises(Retryable, match="clock"):
        await seats_of(bind).apply([change("b", seat(0))])


async def test_a_server_whose_name_does_not_resolve() -> None:
    server = Rfc2136Server("name.invalid", key_name=KEY, secret=SECRET)
    with pytest.raises(Retryable, match="does not resolve"):
        await seats_of(server).check()
