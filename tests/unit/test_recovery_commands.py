"""`mooring rebuild` and `mooring hosts`: nothing is changed that was not shown, and how they end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import structlog
from click.testing import CliRunner, Result

from mooring.controller import cli
from mooring.controller.adopt import Survey
from mooring.controller.doors import hosts as hosts_door
from mooring.controller.doors import rebuild as rebuild_door
from mooring.controller.hold import Hold
from mooring.controller.rebuild_plan import RebuildPlan, RebuildRow
from mooring.controller.stage import Ground, Stage
from mooring.core.errors import Refused
from mooring.core.model import BindingId, Epoch, HostName, Lease, LeaseState, PoolName
from mooring.handlers.fences import Fence
from mooring.handlers.hosts import Hosts
from mooring.handlers.maintenance import Maintained
from mooring.handlers.memory_hosts import MemoryHosts
from mooring.handlers.wants import HAPROXY, NETWORK
from tests.unit.fake_daemon import FakeDaemon, served
from tests.unit.fake_time import SteppedClock

ROW = RebuildRow("10.64.0.2", "keep", "/web", 0, "web.instance-1", "h1", "its container has ended")
Run = Callable[..., Result]


class Rebuilding:
    """A rebuild that only knows which plans it was shown and which were applied."""

    def __init__(self) -> None:
        self.drawn = RebuildPlan((ROW,), {"h3": "no route to host"}, "abc123", known=4, unheard=("h2",))
        self.refusal = ""
        self.applied: list[str] = []

    async def plan(self) -> RebuildPlan:
        if self.refusal:
            raise Refused(self.refusal)
        return self.drawn

    async def apply(self, digest: str) -> RebuildPlan:
        self.applied.append(digest)
        return self.drawn


class Fencing:
    """An engine as far as hosts and fences are concerned."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        lease = Lease(
            "10.64.0.2", PoolName("blue"), LeaseState.STRANDED, None, 0, None, HostName("h2"), 1, 0.0
        )
        self.records = SimpleNamespace(book=SimpleNamespace(leases=lambda: [lease]))
        self.fences = SimpleNamespace(
            all=lambda: {host: Fence(why, 60.0) for host, why in hosts.fenced.items()}
        )
        self.maintenance = SimpleNamespace(
            all=lambda: {host: Maintained(why, 60.0) for host, why in hosts.maintained.items()}
        )
        self.forced: list[bool] = []

    async def fence(self, host: str, reason: str, *, force: bool) -> None:
        self.forced.append(force)
        self.hosts.fenced[host] = reason

    async def unfence(self, host: str) -> None:
        del self.hosts.fenced[host]

    async def maintain(self, host: str, reason: str) -> None:
        self.hosts.maintained[host] = reason

    async def end_maintenance(self, host: str) -> None:
        del self.hosts.maintained[host]


@pytest.fixture
def rebuilding() -> Rebuilding:
    return Rebuilding()


@pytest.fixture
def agents() -> MemoryHosts:
    found = MemoryHosts(["h1", "h2"])
    found.silent.add("h2")
    return found


@pytest.fixture
def ground(agents: MemoryHosts) -> Ground:
    hosts = Hosts(agents, SteppedClock(), Epoch(3))
    return Ground(hosts, ("h1", "h2"), Survey(), Stage.FIRM, Epoch(2), Epoch(2), 2, fences=True)


@pytest.fixture
def engine(ground: Ground) -> Fencing:
    return Fencing(ground.hosts)


@pytest.fixture
def run(tmp_path: Path, rebuilding: Rebuilding, engine: Fencing, ground: Ground) -> Iterator[Run]:
    path = tmp_path / "c.sock"
    routes = [
        *rebuild_door.routes(cast("Any", rebuilding)),
        *hosts_door.routes(cast("Any", engine), ground),
    ]
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with served(path, FakeDaemon(), routes=routes):
        yield lambda *words: CliRunner().invoke(cli.main, ["--socket", str(path), *words])
    structlog.reset_defaults()


def test_a_living_container_outside_all_pools_keeps_its_address_unless_told_otherwise(
    run: Run, rebuilding: Rebuilding
) -> None:
    rebuilding.drawn = msgspec.structs.replace(rebuilding.drawn, homeless=("10.70.0.2",))
    refused = run("rebuild", "--yes")
    assert (refused.exit_code, rebuilding.applied) == (1, [])
    assert "10.70.0.2" in refused.output
    assert "mooring pool add" in refused.output
    assert run("rebuild", "--yes", "--detach-living").exit_code == 0
    assert rebuilding.applied == ["abc123"]


class TestRebuild:
    def test_without_a_terminal_it_shows_the_plan_and_changes_nothing(
        self, run: Run, rebuilding: Rebuilding
    ) -> None:
        result = run("rebuild")
        assert result.exit_code == 1
        assert rebuilding.applied == []
        for told in ("10.64.0.2", "keep", "its container has ended", "4 ports", "plan abc123",
                     "mooring hosts fence h3", "no route to host", "fenced unheard: h2",
                     "nothing was changed"):  # fmt: skip
            assert told in result.output

    def test_with_yes_it_applies_exactly_what_it_has_shown(self, run: Run, rebuilding: Rebuilding) -> None:
        result = run("rebuild", "--yes")
        assert (result.exit_code, rebuilding.applied) == (0, ["abc123"])
        assert result.output.index("10.64.0.2") < result.output.index("applied")

    def test_json_alone_changes_nothing(self, run: Run, rebuilding: Rebuilding) -> None:
        result = run("rebuild", "--json")
        assert (result.exit_code, rebuilding.applied) == (1, [])
        assert '"digest": "abc123"' in result.output

    def test_where_none_is_needed_it_says_so(self, run: Run, rebuilding: Rebuilding) -> None:
        rebuilding.refusal = "no rebuild is needed: the store knows every lease"
        result = run("rebuild", "--yes")
        assert (result.exit_code, rebuilding.applied) == (1, [])
        assert "no rebuild is needed" in result.output


class TestHosts:
    def test_every_host_is_asked_and_a_silent_one_makes_it_end_with_1(
        self, run: Run, agents: MemoryHosts
    ) -> None:
        result = run("hosts")
        rows = {line.split()[0]: line.split() for line in result.output.splitlines()}
        assert result.exit_code == 1
        assert rows["h1"][1:6] == ["answering", "0", "0", "0", "0"]
        assert rows["h2"][1:6] == ["silent", "-", "-", "0", "1"]
        assert "2023-11-14T22:13:20Z" in rows["h2"]
        agents.silent.clear()
        assert run("hosts").exit_code == 0

    def test_a_fence_has_to_be_confirmed(self, run: Run, engine: Fencing) -> None:
        assert run("hosts", "fence", "h2").exit_code == 2, "without a reason"
        refused = run("hosts", "fence", "h2", "--reason", "dead")
        assert (refused.exit_code, engine.forced) == (1, [])
        assert "nothing was changed" in refused.output
        done = run("hosts", "fence", "h2", "--reason", "its board is broken", "--yes", "--force")
        assert (done.exit_code, engine.forced) == (0, [True])
        assert "its board is broken" in done.output
        assert run("hosts").exit_code == 0, "a fenced host is not expected to answer"

    def test_a_fenced_host_that_answers_is_named(self, run: Run, agents: MemoryHosts) -> None:
        run("hosts", "fence", "h2", "--reason", "dead", "--yes")
        agents.silent.clear()
        assert "it answers: `mooring hosts unfence`" in run("hosts").output
        assert "fenced" not in run("hosts", "unfence", "h2").output

    def test_a_host_in_maintenance_is_named_and_neither_asked_nor_missed(
        self, run: Run, agents: MemoryHosts
    ) -> None:
        assert run("hosts").exit_code == 1
        begun = run("hosts", "maintain", "h2", "--reason", "new disks")
        assert begun.exit_code == 0
        agents.before = _must_not_be_asked("h2")
        listed = run("hosts")
        assert listed.exit_code == 0, "its silence is no alarm"
        (line,) = [line for line in listed.output.splitlines() if line.startswith("h2")]
        assert "maintenance" in line
        assert "1970-01-01T00:01:00Z" in line
        assert "new disks; `mooring hosts resume h2` when it is done" in line
        agents.silent.clear()
        ended = run("hosts", "resume", "h2")
        assert "maintenance" not in ended.output


def _must_not_be_asked(name: str) -> Callable[[str], Awaitable[None]]:
    async def hook(host: str) -> None:
        assert host != name

    return hook


def test_a_hold_keeps_clients_sinks_until_all_have_been_seen() -> None:
    async def main() -> None:
        clock = SteppedClock()
        hold = Hold(clock)
        assert not hold.keeps(HAPROXY)
        hold.begin()
        assert hold.keeps(HAPROXY)
        assert not hold.keeps(NETWORK)
        hold.seen(BindingId("a"))
        began = clock.monotonic()
        assert not await hold.until_seen({BindingId("a"), BindingId("b")}), (
            "one that hangs cannot hold the rest"
        )
        assert clock.monotonic() - began == pytest.approx(300.0)
        hold.seen(BindingId("b"))
        assert await hold.until_seen({BindingId("a"), BindingId("b")})
        hold.end()
        assert not hold.keeps(HAPROXY)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (Stage.AWAITED, ("remember epoch 2", "mooring rebuild", "silent: h2: two lines")),
        (Stage.LISTENING, ("waits for h2: two lines", "mooring hosts fence h2")),
    ],
)
def test_the_reason_names_what_to_do_and_whom_it_waits_for(
    ground: Ground, stage: Stage, words: tuple[str, ...]
) -> None:
    ground.stage, ground.found.silent = stage, {"h2": "two\r\n lines"}
    assert all(word in ground.reason() for word in words)
    ground.hosts.fenced["h2"] = "dead"
    assert "h2" not in ground.reason()
    assert ground.unheard() == ("h2",)
