"""`mooring adopt` on the command line: what is shown, what is asked for, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner, Result

from mooring.controller import cli
from mooring.controller.adoption import Adopter, Adoption, AdoptionRow
from mooring.controller.doors import adopt as adopt_door
from mooring.core.errors import Refused
from tests.unit.fake_daemon import FakeDaemon, served

GOOD = AdoptionRow("h1", "web.1", "adopt", "10.64.0.20", "eth1", "veth1pl77", "/web", "web.instance-1")
BAD = AdoptionRow("h2", "old.1", "leave", "192.0.2.7", "eth1", "veth1pl7", reason="no pool has 192.0.2.7")
Run = Callable[..., Result]


class Adopting:
    """Says what it was asked, and answers with what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.found = Adoption((GOOD, BAD), {"h3": "no route to host"})
        self.refusal = ""

    async def plan(self, names: Sequence[str]) -> Adoption:
        self.asked.append(("plan", tuple(names)))
        if self.refusal:
            raise Refused(self.refusal)
        return self.found

    async def apply(self, names: Sequence[str]) -> Adoption:
        self.asked.append(("apply", tuple(names)))
        return self.found


@pytest.fixture
def adopting() -> Adopting:
    return Adopting()


@pytest.fixture
def run(adopting: Adopting, tmp_path: Path) -> Iterator[Run]:
    routes = adopt_door.routes(cast("Adopter", adopting))
    with served(tmp_path / "control.sock", FakeDaemon(), routes=routes):
        yield lambda *words: CliRunner().invoke(
            cli.main, ["--socket", str(tmp_path / "control.sock"), "adopt", *words]
        )


def test_without_yes_it_is_a_plan(run: Run, adopting: Adopting) -> None:
    result = run()
    assert adopting.asked == [("plan", ())]
    assert "10.64.0.20" in result.output
    assert "no pool has 192.0.2.7" in result.output
    assert "not asked: h3: no route to host" in result.output
    assert "1 can be taken over, 1 are left alone; `mooring adopt --yes` does it" in result.output
    assert result.exit_code == 1


def test_yes_does_it_on_the_hosts_that_were_named(run: Run, adopting: Adopting) -> None:
    done = AdoptionRow("h1", "web.1", "adopted", "10.64.0.20", "eth1", "veth1pl77", "/web", "i", 0)
    adopting.found = Adoption((done,))
    result = run("--yes", "h1", "h2")
    assert adopting.asked == [("apply", ("h1", "h2"))]
    assert "1 taken over, 0 failed, 0 left alone" in result.output
    assert result.exit_code == 0


def test_hosts_are_asked_about_one_by_one(run: Run, adopting: Adopting) -> None:
    run("h1", "h&2")
    assert adopting.asked == [("plan", ("h1", "h&2"))]


def test_json_has_everything(run: Run) -> None:
    told = json.loads(run("--json").output)
    assert [row["action"] for row in told["rows"]] == ["adopt", "leave"]
    assert told["rows"][1]["reason"] == "no pool has 192.0.2.7"
    assert told["silent"] == {"h3": "no route to host"}


def test_nothing_to_do_ends_well(run: Run, adopting: Adopting) -> None:
    adopting.found = Adoption(())
    result = run()
    assert (result.exit_code, "0 can be taken over, 0 are left alone" in result.output) == (0, True)


def test_a_refusal_is_one_line(run: Run, adopting: Adopting) -> None:
    adopting.refusal = "this daemon only observes"
    result = run()
    assert (result.exit_code, result.output.strip()) == (1, "this daemon only observes")
