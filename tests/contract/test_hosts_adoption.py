"""What a host promises about containers that others have wired, asked of the twin and of the real module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.contract.hosts import (
    PREFIX6,
    Answer,
    Bench,
    _numbers,
    attached,
    bench,
    order,
    ports,
    rig,
    task_of,
    verdict,
)

__all__ = ["bench", "rig"]  # fixtures


async def surveyed(bench: Bench, task: str) -> list[Answer]:
    [report] = await bench.do({"op": "survey", "id": "s"})
    return [row for row in report["containers"] if row["task"] == task]


async def wired(bench: Bench, beside: str = "", **changes: Any) -> tuple[dict[str, Any], dict[str, Any], str]:
    """A container that others have wired: (its attach, the order to adopt it, port name)."""
    task = task_of(next(_numbers))
    bench.start(task)
    asked = order(task, **changes)
    port = bench.wire(task, asked["address"], asked["vlan"], beside)
    [row] = [row for row in await surveyed(bench, task) if row["address"] == asked["address"]]
    keys = ("id", "task_id", "app", "slot", "instance", "address", "prefix", "vlan", "generation")
    seen = {"interface": row["interface"], "port": row["port"], "container": row["container"]}
    return asked, {"op": "adopt", **{key: asked[key] for key in keys}, **seen}, port


async def test_a_survey_tells_what_others_have_wired(bench: Bench) -> None:
    asked, _, port = await wired(bench, vlan=61)
    [row] = await surveyed(bench, asked["task_id"])
    told = ("interface", "address", "prefix", "port", "vlan", "problem")
    assert [row[key] for key in told] == ["eth1", asked["address"], 22, port, 61, ""]
    assert {"to": "0.0.0.0/0", "via": "10.64.0.1"} in row["routes"]
    bench.kill(asked["task_id"])
    assert await surveyed(bench, asked["task_id"]) == []


async def test_attach_leaves_alone_what_others_have_wired(bench: Bench) -> None:
    asked, _, _ = await wired(bench)
    [answer] = await bench.do(order(asked["task_id"], detect=True))
    assert (answer["status"], "`mooring adopt`" in answer["reason"]) == ("refused", True)
    assert len(await surveyed(bench, asked["task_id"])) == 1


async def test_what_was_adopted_is_ours_and_attach_finds_it(bench: Bench) -> None:
    asked, taking, port = await wired(bench)
    [answer] = await bench.do(taking)
    assert (*verdict(answer), answer["port"]) == ("done", True, port)
    assert verdict((await bench.do(taking))[0]) == ("done", False)
    [seen] = await ports(bench, asked["address"])
    assert (seen["port"], seen["instance"], seen["alive"], seen["adopted"]) == (
        port,
        asked["instance"],
        True,
        True,
    )
    assert await surveyed(bench, asked["task_id"]) == []
    [attached] = await bench.do({**asked, "detect": True})
    assert (attached["status"], attached["port"]) == ("done", port)
    assert verdict((await bench.do(asked))[0]) == ("done", False)


async def test_an_adopted_container_that_restarts_is_wired_by_ours(bench: Bench) -> None:
    asked, taking, port = await wired(bench)
    await bench.do(taking)
    bench.restart(asked["task_id"])
    [answer] = await bench.do(asked)
    assert (answer["status"], answer["removed"]) == ("done", [port])
    [seen] = await ports(bench, asked["address"])
    assert (seen["port"] == answer["port"], seen["adopted"]) == (True, False)
    assert port != answer["port"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"container": "c@1"}, "retry"),
        ({"address": "10.64.2.251"}, "refused"),
        ({"prefix": 24}, "refused"),
        ({"vlan": 9}, "refused"),
        ({"interface": "eth7"}, "refused"),
        ({"port": "veth1pl1"}, "refused"),
    ],
)
async def test_what_is_not_as_surveyed_is_not_adopted(
    bench: Bench, change: Mapping[str, Any], status: str
) -> None:
    asked, taking, _ = await wired(bench)
    [answer] = await bench.do({**taking, **change})
    assert verdict(answer) == (status, False)
    assert len(await surveyed(bench, asked["task_id"])) == 1
    assert await ports(bench, asked["address"]) == []


async def test_a_pair_is_adopted_together_and_never_half_of_it(bench: Bench) -> None:
    """Through a port of ours nothing but its own addresses may speak."""
    partner = "fd00:64::a40:117"
    asked, taking, port = await wired(bench, beside=partner)
    assert {row["address"]: row["prefix"] for row in await surveyed(bench, asked["task_id"])} == {
        asked["address"]: 22, partner: PREFIX6
    }  # fmt: skip
    [answer] = await bench.do(taking)
    assert (verdict(answer), f"{partner} as well" in answer["reason"]) == (("refused", False), True)
    both = {"address6": partner, "prefix6": PREFIX6}
    [answer] = await bench.do({**taking, "address6": "fd00:64::1234", "prefix6": PREFIX6})
    assert verdict(answer) == ("refused", False)
    [answer] = await bench.do({**taking, **both})
    assert verdict(answer) == ("done", True)
    [seen] = await ports(bench, asked["address"])
    assert (seen["address6"], seen["prefix6"], seen["port"]) == (partner, PREFIX6, port)
    [attached] = await bench.do({**asked, **both})
    assert (attached["status"], attached["port"]) == ("done", port)


async def test_an_adopted_port_is_barred_from_the_beginning(bench: Bench) -> None:
    asked, taking, _ = await wired(bench)
    [answer] = await bench.do({**taking, "barred": ["10.99.0.0/24"]})
    assert answer["status"] == "done"
    [seen] = await ports(bench, asked["address"])
    assert seen["barred"] == ["10.99.0.0/24"]


async def test_a_dead_port_that_was_adopted_goes_by_its_name(bench: Bench) -> None:
    asked, taking, port = await wired(bench)
    await bench.do(taking)
    gone = {"op": "detach", "id": "d", "port": port, "container": taking["container"]}
    [answer] = await bench.do(gone)
    assert (answer["removed"], [spared["port"] for spared in answer["spared"]]) == ([], [port])
    bench.kill(asked["task_id"])
    [answer] = await bench.do(gone)
    assert (*verdict(answer), answer["removed"]) == ("done", True, [port])
    assert await ports(bench, asked["address"]) == []


async def test_nobody_adopts_an_address_that_another_port_has(bench: Bench) -> None:
    held, _ = await attached(bench)
    _, taking, _ = await wired(bench, address=held["address"])
    assert verdict((await bench.do(taking))[0]) == ("refused", False)
    _, taking, _ = await wired(bench, instance=held["instance"])
    assert verdict((await bench.do(taking))[0]) == ("refused", False)


async def test_an_overtaken_daemon_adopts_nothing(bench: Bench) -> None:
    asked, taking, _ = await wired(bench)
    await bench.do({"op": "observe", "id": "o", "fence": True, "sequence": 9}, epoch=5)
    assert (await bench.do(taking, epoch=4))[0]["status"] == "stale"
    assert (await bench.do({**taking, "sequence": 8}, epoch=5))[0]["status"] == "retry"
    assert len(await surveyed(bench, asked["task_id"])) == 1
