"""`mooring hosts check`: what is told of each host, what is judged, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from mooring.controller import capabilities, cli, daemon, logs
from mooring.controller.adopt import Survey
from mooring.controller.capabilities import HostFacts, HostReport, faults_of, notes_of, size
from mooring.controller.doors import hosts_check
from mooring.controller.settings import Settings
from mooring.controller.stage import Ground, Stage
from mooring.core.errors import Retryable
from mooring.core.model import Epoch
from mooring.handlers.hosts import Hosts
from mooring.handlers.memory_check import facts_in_memory
from mooring.handlers.memory_hosts import MemoryHosts
from tests.unit.fake_daemon import FakeDaemon, served
from tests.unit.fake_time import SteppedClock

Run = Callable[..., Result]


def told(**changes: Any) -> HostFacts:
    """A sound host's facts, with changes; `switch` and `limits` change a part of theirs."""
    facts = facts_in_memory("h1", 3)
    for name in ("switch", "limits"):
        facts[name].update(changes.pop(name, {}))
    return msgspec.convert({**facts, **changes}, HostFacts)


def uplink(**changes: Any) -> list[dict[str, Any]]:
    return [{"name": "eth1", **changes}]


def test_a_sound_host_has_neither_fault_nor_note() -> None:
    assert ([*faults_of(told())], [*notes_of(told())]) == ([], [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"python": "3.8.1"}, ("Python 3.8.1", "3.9")),
        ({"engine": {"error": "the Docker engine does not answer"}}, ("Docker", "mooring_engine")),
        ({"free_bytes": 1 << 20}, ("1 MiB", "/run/mooring")),
        ({"switch": {"error": "no Open vSwitch database"}}, ("no Open vSwitch", "mooring_database")),
        ({"switch": {"exists": False}}, ("br-mooring does not exist", "ovs-vsctl add-br br-mooring")),
        ({"switch": {"behind": 2}}, ("ovs-vswitchd", "2 changes")),
        ({"switch": {"uplinks": uplink(error="could not open")}}, ("eth1", "could not open")),
        ({"switch": {"uplinks": uplink(up=False)}}, ("eth1 is down", "ip link set eth1 up")),
    ],
)
def test_a_fault_names_the_thing_and_the_remedy(changes: Mapping[str, Any], words: Sequence[str]) -> None:
    [fault] = faults_of(told(**changes))
    assert all(word in fault for word in words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"switch": {"uplinks": []}}, ("no uplink", "ovs-vsctl add-port br-mooring")),
        ({"switch": {"controllers": {"tcp:192.0.2.1": False}}}, ("tcp:192.0.2.1", "del-controller")),
        ({"limits": {"tbf": "No such file"}}, ("MOORING_BANDWIDTH", "No such file", "sch_tbf")),
        ({"limits": {"meters": "the datapath has no meters"}}, ("MOORING_BANDWIDTH", "no meters")),
        ({"ipv6": False}, ("IPv6", "ipv6.disable")),
    ],
)
def test_a_note_names_what_cannot_be_had(changes: Mapping[str, Any], words: Sequence[str]) -> None:
    assert [*faults_of(told(**changes))] == []
    [note] = notes_of(told(**changes))
    assert all(word in note for word in words)


def test_what_nothing_of_ours_needs_is_only_reported() -> None:
    assert [*notes_of(told(limits={"policing": "no", "htb": "no"}))] == []


def test_sizes() -> None:
    assert [size(5), size(2048), size(3 << 20), size(78 << 30)] == ["5 B", "2 KiB", "3 MiB", "78 GiB"]


class Agents(MemoryHosts):
    """Hosts, some of which answer otherwise."""

    answer: Mapping[str, Any] | None = None

    async def run(self, host: str, operations: Any, epoch: int) -> Any:
        answers = await super().run(host, operations, epoch)
        return [{**answers[0], **self.answer}] if self.answer is not None else answers


@pytest.fixture
def agents() -> Agents:
    return Agents(["h1", "h2"])


@pytest.fixture
def run(tmp_path: Path, agents: Agents) -> Iterator[Run]:
    hosts = Hosts(agents, SteppedClock(), Epoch(3))
    ground = Ground(hosts, ("h1", "h2"), Survey(), Stage.FIRM, Epoch(2), Epoch(2), 2, fences=True)
    path = tmp_path / "c.sock"
    with served(path, FakeDaemon(), routes=hosts_check.routes(ground)):
        yield lambda *words: CliRunner().invoke(cli.main, ["--socket", str(path), "hosts", "check", *words])


def test_every_host_has_a_block_and_a_verdict(run: Run) -> None:
    result = run()
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == ["h1: ok", "h2: ok"]
    for word in ("Open vSwitch 3.1.0, schema 8.3.1", "netdev, TX checksum offload of containers off",
                 "eth1 system all VLANs MTU 1500 up", "meters works", "Docker 20.10.24", "no controller",
                 "not there: pipework", "1 GiB free in /run/mooring", "fail_mode secure"):  # fmt: skip
        assert word in result.output


def test_a_silent_host_is_told_beside_the_others(run: Run, agents: Agents) -> None:
    agents.silent.add("h2")
    result = run()
    assert result.exit_code == 1
    assert "h1: ok" in result.output
    assert "h2: FAILED" in result.output
    assert "it does not answer: host h2 cannot be reached" in result.output
    assert run("h1").exit_code == 0
    assert "h2" not in run("h1").output


def test_json_has_all_of_it(run: Run) -> None:
    [report] = json.loads(run("h2", "--json").output)
    assert (report["host"], report["faults"], report["facts"]["switch"]["datapath"]) == ("h2", [], "netdev")


def test_a_host_that_the_inventory_does_not_know_is_refused(run: Run) -> None:
    result = run("h1", "h9")
    assert result.exit_code == 1
    assert "h9: not in the inventory; it knows h1, h2" in result.output


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"status": "refused", "reason": "op 'check' is unknown"}, "it cannot tell: op 'check' is unknown"),
        ({"free_bytes": "much"}, "it tells what this version does not understand"),
    ],
)
def test_a_host_of_another_version_is_named(
    run: Run, agents: Agents, answer: Mapping[str, Any], words: str
) -> None:
    agents.answer = answer
    result = run("h1")
    assert (result.exit_code, words in result.output) == (1, True)


def test_without_a_daemon_the_hosts_are_asked_directly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def reach(settings: Settings, names: Sequence[str]) -> list[HostReport]:
        return [HostReport(name, None, ("asked directly",)) for name in names]

    monkeypatch.setattr(daemon, "check_hosts", reach)
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setattr("mooring.controller.commands.place.load_settings", lambda _: None)
    words = ["--socket", str(tmp_path / "nobody"), "hosts", "check", "h1"]
    result = CliRunner().invoke(cli.main, words)
    assert (result.exit_code, "asked directly" in result.output) == (1, True)


async def test_a_fault_of_ours_is_not_blamed_on_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        async def prepare(self, host: str) -> None: ...

        async def run(self, *_: Any) -> Any:
            raise KeyError("a mistake")

    hosts = Hosts(Broken(), SteppedClock(), Epoch(1))
    with pytest.raises(KeyError):
        await capabilities.check_hosts(hosts, ["h1"])

    class Away:
        async def prepare(self, host: str) -> None: ...

        async def run(self, *_: Any) -> Any:
            raise Retryable("no route")

    [report] = await capabilities.check_hosts(Hosts(Away(), SteppedClock(), Epoch(1)), ["h1"])
    assert report.faults == ("it does not answer: no route",)
