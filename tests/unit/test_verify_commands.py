"""`mooring verify` and `mooring plan`: what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import structlog
from click.testing import CliRunner, Result

from mooring.controller import cli
from mooring.controller.doors import verify as door
from mooring.controller.drift import Finding, Kind
from mooring.controller.plan import Plan, PlannedChange, Planner
from mooring.controller.verify import Look, Verifier
from mooring.core.errors import Refused
from tests.unit.fake_daemon import FakeDaemon, served

MISSING = Finding(
    "network",
    Kind.MISSING,
    "10.64.0.9 on agent-1",
    "port of a task",
    "/web",
    "web.instance-1",
    "is being repaired",
)
FOREIGN = Finding("names", Kind.FOREIGN, "printer.mooring.test A 192.0.2.7", "not ours", remedy="left alone")
UNREAD = {"network on agent-2": "not read now: no route to host"}
Run = Callable[..., Result]


class Looking:
    """A verifier and a planner that find what they are told to find."""

    def __init__(self) -> None:
        self.findings: tuple[Finding, ...] = ()
        self.changes: tuple[PlannedChange, ...] = ()
        self.hindrance = ""
        self.looks = 0

    async def look(self) -> Look:
        self.looks += 1
        if self.hindrance:
            raise Refused(self.hindrance)
        return Look(1_700_000_000.0, 1.5, self.findings, UNREAD, ("names", "network"))

    async def plan(self) -> Plan:
        return Plan(self.changes, self.findings, UNREAD)


@pytest.fixture
def looking() -> Looking:
    return Looking()


@pytest.fixture
def run(tmp_path: Path, looking: Looking) -> Iterator[Run]:
    path = tmp_path / "c.sock"
    routes = door.routes(cast("Verifier", looking), cast("Planner", looking))
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    with served(path, FakeDaemon(), routes=routes):
        yield lambda *words: CliRunner().invoke(cli.main, ["--socket", str(path), *words])
    structlog.reset_defaults()


def lines(result: Result) -> list[list[str]]:
    return [line.split() for line in result.output.splitlines()]


class TestVerify:
    def test_where_nothing_differs(self, run: Run) -> None:
        result = run("verify")
        assert result.exit_code == 0
        assert result.output.splitlines() == [
            "everything that could be read is as it should be: names, network",
            "not compared: network on agent-2: not read now: no route to host",
        ]

    def test_every_finding_is_named(self, run: Run, looking: Looking) -> None:
        looking.findings = (FOREIGN, MISSING)
        result = run("verify")
        assert result.exit_code == 1
        assert lines(result)[1][:2] == ["names", "foreign"]
        assert "left alone" in result.output.splitlines()[1]
        assert lines(result)[2][:2] == ["network", "missing"]
        assert "web.instance-1" in result.output.splitlines()[2]
        assert "is being repaired" in result.output.splitlines()[2]

    def test_a_foreign_thing_alone_is_a_difference(self, run: Run, looking: Looking) -> None:
        looking.findings = (FOREIGN,)
        assert run("verify").exit_code == 1

    def test_for_programs(self, run: Run, looking: Looking) -> None:
        looking.findings = (MISSING,)
        result = run("verify", "--json")
        assert result.exit_code == 1
        told: dict[str, Any] = json.loads(result.output)
        assert told["findings"] == [
            {"sink": "network", "kind": "missing", "key": "10.64.0.9 on agent-1", "detail": "port of a task",
             "app": "/web", "instance": "web.instance-1", "remedy": "is being repaired"}
        ]  # fmt: skip
        assert told["unread"] == UNREAD

    def test_while_there_is_nothing_to_compare_with(self, run: Run, looking: Looking) -> None:
        looking.hindrance = "nothing to compare with: this daemon only observes"
        result = run("verify")
        assert result.exit_code == 1
        assert result.output == "nothing to compare with: this daemon only observes\n"


class TestPlan:
    def test_where_nothing_would_change(self, run: Run) -> None:
        result = run("plan")
        assert result.exit_code == 0
        assert result.output.splitlines()[0] == "nothing would change"

    def test_every_change_and_what_holds_it(self, run: Run, looking: Looking) -> None:
        looking.changes = (PlannedChange("/web", "web.instance-1", "names", "nothing", "a name", "paused"),)
        looking.findings = (FOREIGN,)
        result = run("plan")
        assert result.exit_code == 0
        assert lines(result)[1] == ["/web", "web.instance-1", "names", "nothing", "a", "name", "paused"]
        assert "printer.mooring.test" in result.output
        told = json.loads(run("plan", "--json").output)
        assert told["changes"][0]["held_by"] == "paused"
        assert looking.looks == 0
