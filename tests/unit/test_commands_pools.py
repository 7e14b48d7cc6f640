"""`mooring pools`, `mooring pool ...` and `mooring lease release`, against a real control server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from mooring.controller import cli
from mooring.controller.commands.pools import _span
from mooring.controller.control_client import ControlClient
from mooring.controller.doors.pools import routes
from mooring.controller.pools import PoolKeeper
from mooring.controller.store.memory import MemoryStore
from mooring.core.errors import Refused
from mooring.core.model import AppId, BindingId, Epoch, HostName, PoolName, PoolSpec
from mooring.core.specs import Route
from mooring.handlers.records import Records
from mooring.ipam.book import LeaseBook, Request
from mooring.ipam.pools import Pool, Pools
from mooring.ipam.supernets import Supernet
from tests.unit.fake_daemon import FakeDaemon, served
from tests.unit.fake_time import SteppedClock

Run = Callable[..., Result]


class Keeping:
    """A pool keeper over a store in memory, with what it was told of changes."""

    def __init__(self) -> None:
        store = MemoryStore()
        contents = asyncio.run(store.open())
        asyncio.run(store.begin(Epoch(1)))
        self.book = LeaseBook(Pools([Pool.parse("blue", "10.64.0.0/24", gateway="10.64.0.1")]))
        self.records = Records(store, self.book, contents)
        self.changes: list[bool] = []
        big = Supernet.parse("big", "10.70.0.0/16", vlans="100", groups=["/shop"])
        self.keeper = PoolKeeper(self.records, SteppedClock(), {"big": big}, self.changes.append)


@pytest.fixture
def keeping() -> Keeping:
    return Keeping()


@pytest.fixture
def run(tmp_path: Path, keeping: Keeping) -> Iterator[Run]:
    """Runs `mooring` with arguments while a daemon listens."""
    path = tmp_path / "c.sock"
    with served(path, FakeDaemon(), routes=routes(keeping.keeper)):
        yield lambda *args: CliRunner().invoke(cli.main, ["--socket", str(path), *args])


def test_a_pool_with_a_gateway_of_ours(run: Run, keeping: Keeping) -> None:
    keeping.keeper.hosts = frozenset({"gw"})
    done = run("pool", "add", "red", "10.65.0.0/24", "--gateway-host", "gw", "--gateway-nat")
    assert done.exit_code == 0, done.output
    assert "gateway 10.65.0.1" in done.output
    pool = keeping.records.book.pools.named("red")
    assert (str(pool.gateway), pool.gateway_host, pool.gateway_nat) == ("10.65.0.1", "gw", True)


def test_a_gateway_on_a_host_that_nobody_knows_is_refused(run: Run, keeping: Keeping) -> None:
    keeping.keeper.hosts = frozenset({"gw"})
    done = run("pool", "add", "red", "10.65.0.0/24", "--gateway-host", "elsewhere")
    assert done.exit_code != 0
    assert "gateway_host elsewhere is not in the inventory" in done.output
    assert "red" not in keeping.records.book.pools


@pytest.fixture(autouse=True)
def logged_elsewhere() -> Iterator[None]:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


def test_a_pool_is_added_with_everything_that_can_be_said(run: Run, keeping: Keeping) -> None:
    done = run(
        "pool", "add", "shop", "10.65.0.0/24", "--gateway", "10.65.0.1", "--vlan", "20", "--mtu", "1450",
        "--route", "10.0.0.0/8=10.65.0.2", "--exclude", "10.65.0.2-10.65.0.9",
        "--group", "/shop", "--group", "/ops",
    )  # fmt: skip
    assert (done.exit_code, done.output) == (0, "pool shop added: 10.65.0.0/24, VLAN 20, gateway 10.65.0.1\n")
    assert keeping.book.pools.named("shop").spec == PoolSpec(
        PoolName("shop"), "10.65.0.0/24", "10.65.0.1", 20, 1450, (Route("10.0.0.0/8", "10.65.0.2"),),
        ("10.65.0.2-10.65.0.9",), {}, ("/shop", "/ops"),
    )  # fmt: skip
    assert keeping.changes == [True]
    assert (
        run("pool", "add", "bare", "fd00::/64").output
        == "pool bare added: fd00::/64, untagged, gateway none\n"
    )


def test_a_pool_is_paired_with_an_ipv6_network(run: Run, keeping: Keeping) -> None:
    done = run("pool", "add", "both", "10.65.0.0/24", "--ipv6", "fd00:65::/64", "--gateway6", "fe80::1")
    assert done.output == "pool both added: 10.65.0.0/24 + fd00:65::/64, untagged, gateway fe80::1\n"
    assert keeping.book.pools.named("both").spec == PoolSpec(
        PoolName("both"), "10.65.0.0/24", ipv6="fd00:65::/64", gateway6="fe80::1"
    )
    clash = run("pool", "add", "six", "fd00:65::/80")
    assert (clash.exit_code, clash.stderr) == (
        1,
        "fd00:65::/80 shares addresses with pool both (10.65.0.0/24, fd00:65::/64): "
        "give each to one pool only\n",
    )
    assert run("pool", "resize", "both", "10.65.0.0/23").output == (
        "pool both resized: 10.65.0.0/23 + fd00:65::/64, untagged, gateway fe80::1\n"
    )


def test_a_refusal_is_told_and_changes_nothing(run: Run, keeping: Keeping) -> None:
    done = run("pool", "add", "blue", "10.65.0.0/24")
    assert (done.exit_code, done.stderr) == (
        1,
        "pool blue exists (10.64.0.0/24); choose another name, or resize it\n",
    )
    several = run("pool", "add", "x", "10.65.0.0/24", "--vlan", "9999", "--gateway", "10.9.9.9")
    assert several.stderr.splitlines() == [
        "pool x: gateway 10.9.9.9 is outside 10.65.0.0/24",
        "pool x: vlan 9999 must be from 1 to 4094",
    ]
    assert run("pool", "add", "x", "10.65.0.0/24", "--route", "10.0.0.0/8").exit_code == 2
    assert run("pool", "remove", "blue").stderr == (
        "pool blue stands in the configuration: change it there, and start again\n"
    )
    assert run("pool", "remove", "a/b").stderr == "there is no pool 'a/b' (known: blue)\n"
    assert (keeping.changes, len(keeping.book.pools)) == ([], 1)


def test_a_pool_is_generated_resized_and_removed(run: Run, keeping: Keeping) -> None:
    assert run("pool", "generate", "one", "--from", "big").output == (
        "pool one generated: 10.70.0.0/24, VLAN 100, gateway 10.70.0.1\n"
    )
    assert keeping.book.pools.named("one").groups == ("/shop",)
    assert run("pool", "resize", "one", "10.70.0.0/23").output == (
        "pool one resized: 10.70.0.0/23, VLAN 100, gateway 10.70.0.1\n"
    )
    assert run("pool", "remove", "one").output == "pool one removed\n"
    assert keeping.changes == [True, True, True]
    assert run("pool", "resize", "one", "10.70.0.0/24").exit_code == 1
    assert run("pool", "generate", "one", "--from", "big", "--group", "/ops").exit_code == 0
    assert keeping.book.pools.named("one").groups == ("/ops",)
    assert "its 1 VLANs is in use" in run("pool", "generate", "two", "--from", "big").stderr
    assert run("pool", "generate", "two").exit_code == 2


def test_addresses_are_reserved_and_given_back(run: Run, keeping: Keeping) -> None:
    assert run("pool", "reserve", "10.64.0.9", "--reason", "the printer").output == (
        "10.64.0.9 is reserved: the printer\n"
    )
    assert run("pool", "unreserve", "10.64.0.9").output == "10.64.0.9 is no longer reserved; it cools\n"
    assert run("pool", "unreserve", "10.64.0.9").stderr == (
        "10.64.0.9 is cooling, and would have to be reserved\n"
    )
    assert run("pool", "reserve", "10.64.0.9").exit_code == 2
    request = Request(AppId("/web"), PoolName("blue"), BindingId("web.1"), HostName("h1"))
    keeping.book.accept(keeping.book.plan_bind(request, 1.0).writes)
    keeping.book.accept(keeping.book.plan_conflict("10.64.0.2", 1.0, "02:00 answers"))
    refused = run("lease", "release", "10.64.0.9")
    assert (refused.exit_code, refused.stderr) == (
        1,
        "10.64.0.9 is cooling, and would have to be conflicted or idle\n",
    )
    assert keeping.changes == [False, False]


def test_an_ipv6_address_can_be_named(run: Run, keeping: Keeping) -> None:
    run("pool", "add", "six", "fd00::/64")
    assert run("pool", "reserve", "FD00::9", "--reason", "mine").exit_code == 0
    lease = keeping.book.by_address("fd00::9")
    assert lease is not None
    assert lease.note == "mine"


@pytest.mark.parametrize(
    ("method", "path", "body", "fault"),
    [
        ("POST", "/pools", {"name": "x"}, "missing required field `network`"),
        ("POST", "/pools/generated", {"name": "x", "supernet": "big", "rubbish": 1}, "rubbish"),
        ("PUT", "/pools/blue/network", {"network": 7}, "Expected `str`"),
        ("PUT", "/reservations/10.64.0.9", {}, "missing required field `reason`"),
    ],
)
def test_a_bad_request_is_told(
    tmp_path: Path, keeping: Keeping, method: str, path: str, body: dict[str, Any], fault: str
) -> None:
    socket = tmp_path / "c.sock"
    with (
        served(socket, FakeDaemon(), routes=routes(keeping.keeper)),
        pytest.raises(Refused, match=fault),
    ):
        ControlClient(socket).ask(method, path, dict, body)


def test_the_daemon_tells_every_pool_whole(tmp_path: Path, keeping: Keeping) -> None:
    socket = tmp_path / "c.sock"
    with served(socket, FakeDaemon(), routes=routes(keeping.keeper)):
        specs = ControlClient(socket).ask("GET", "/pools/specs", list[PoolSpec])
    assert specs == [PoolSpec(PoolName("blue"), "10.64.0.0/24", "10.64.0.1")]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, None),
        (0.0, "now"),
        (119.0, "<2min"),
        (120.0, "2min"),
        (7200.0, "2h"),
        (172_800.0, "2d"),
        (1e6, "12d"),
    ],
)
def test_a_forecast_is_rough(seconds: float | None, shown: str | None) -> None:
    assert _span(seconds) == shown
