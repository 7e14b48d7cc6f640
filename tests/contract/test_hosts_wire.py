"""What a host promises about an address that somebody else may have, asked of twin and real module."""

from __future__ import annotations

import time
from ipaddress import ip_address
from typing import Any

import pytest

from mooring.handlers.hosts import port_marks
from tests.contract.hosts import (
    HOST,
    Bench,
    _numbers,
    attached,
    bench,
    order,
    ports,
    probe,
    rig,
    task_of,
    verdict,
)

__all__ = ["bench", "rig"]  # fixtures


async def test_an_address_on_which_a_stranger_answers_is_not_attached(bench: Bench) -> None:
    tasks = [task_of(next(_numbers)) for _ in range(2)]
    for task in tasks:
        bench.start(task)
    taken, free = (order(task, detect=True) for task in tasks)
    with bench.stranger(taken["address"]) as mac:
        conflict, attached = await bench.do(taken, free)
    assert (*verdict(conflict), conflict["answered_by"]) == ("conflict", False, [mac])
    assert taken["address"] in conflict["reason"]
    assert mac in conflict["reason"]
    assert await ports(bench, taken["address"]) == []
    assert verdict(attached) == ("done", True)
    assert verdict((await bench.do(taken))[0]) == ("done", True)


async def test_the_wire_can_be_asked_before_there_is_a_container(bench: Bench) -> None:
    asked, _ = await attached(bench)
    stranger, free = (order(task_of(next(_numbers)))["address"] for _ in range(2))
    with bench.stranger(stranger) as mac:
        wishes = [{"op": "detect", "id": address, "address": address} for address in (stranger, free)]
        by_stranger, by_nobody, by_us = await bench.do(*wishes, {**wishes[0], "address": asked["address"]})
    assert (*verdict(by_stranger), by_stranger["answered_by"]) == ("done", False, [mac])
    assert (*verdict(by_nobody), by_nobody["answered_by"]) == ("done", False, [])
    assert len(by_us["answered_by"]) == 1
    assert (await bench.do({"op": "observe", "id": "o"}, epoch=2))[0]["status"] == "done"
    assert (await bench.do({**wishes[0], "id": "late"}, epoch=0))[0]["status"] == "stale"


def paired(address: str) -> dict[str, Any]:
    """What an attach says of the second address."""
    partner = ip_address("fd00:64::") + int(ip_address(address))
    return {"address6": str(partner), "prefix6": 64, "gateway6": "fe80::1"}


async def test_a_pair_is_one_port_and_its_marks_tell_both_addresses(bench: Bench) -> None:
    asked, port = await attached(bench)
    both = {**asked, **paired(asked["address"])}
    [answer] = await bench.do(both)
    assert (*verdict(answer), answer["port"], answer["address6"]) == ("done", True, port, both["address6"])
    assert verdict((await bench.do(both))[0]) == ("done", False)
    [report] = await bench.do({"op": "observe", "id": "o"})
    [spec] = [spec for spec in port_marks(HOST, report) if spec.address == asked["address"]]
    assert (spec.address6, spec.prefix6) == (both["address6"], 64)
    for answer in await bench.do(probe(asked), probe(asked, address=both["address6"])):
        assert answer["status"] == "done"
    assert verdict((await bench.do(asked))[0]) == ("done", True)
    [report] = await bench.do({"op": "observe", "id": "o"})
    [spec] = [spec for spec in port_marks(HOST, report) if spec.address == asked["address"]]
    assert (spec.address6, spec.prefix6) == (None, None)


async def test_a_pair_has_one_holder_whichever_address_is_asked_for(bench: Bench) -> None:
    asked, port = await attached(bench)
    both = {**asked, **paired(asked["address"])}
    await bench.do(both)
    first, second = task_of(next(_numbers)), task_of(next(_numbers))
    bench.start(first)
    bench.start(second)
    half = {**order(first), "address6": both["address6"], "prefix6": 64}
    [answer, refused] = await bench.do(half, {**order(second), "address6": both["address6"], "prefix6": 64})
    assert (answer["status"], answer["removed"]) == ("done", [port])
    assert refused["status"] == "refused"


@pytest.mark.parametrize("half", ["address", "address6"])
async def test_a_stranger_on_either_address_is_a_conflict_that_names_it(bench: Bench, half: str) -> None:
    task = task_of(next(_numbers))
    bench.start(task)
    asked = order(task, detect=True)
    asked |= paired(asked["address"])
    with bench.stranger(asked[half]) as mac:
        [answer] = await bench.do(asked)
        assert verdict(answer) == ("conflict", False)
        assert (answer["answered_by"], answer["answered_on"]) == ([mac], [asked[half]])
        assert asked[half] in answer["reason"]
        assert await ports(bench, asked["address"]) == []
    assert verdict((await bench.do(asked))[0]) == ("done", True)


async def test_a_stranger_on_the_partner_of_a_living_port_is_met_before_it_is_added(bench: Bench) -> None:
    asked, port = await attached(bench)
    both = {**asked, **paired(asked["address"]), "detect": True}
    with bench.stranger(both["address6"]):
        [answer] = await bench.do(both)
        assert (verdict(answer), answer["answered_on"]) == (("conflict", False), [both["address6"]])
        [seen] = await ports(bench, asked["address"])
        assert (seen["port"], seen["address6"] or None) == (port, None)
    assert verdict((await bench.do(both))[0]) == ("done", True)
    assert verdict((await bench.do(both))[0]) == ("done", False)


async def test_a_stranger_is_only_looked_for_when_asked(bench: Bench) -> None:
    task = task_of(next(_numbers))
    bench.start(task)
    asked = order(task, detect=False)
    with bench.stranger(asked["address"]):
        assert verdict((await bench.do(asked))[0]) == ("done", True)


async def test_ones_own_port_is_no_conflict(bench: Bench) -> None:
    asked, port = await attached(bench, detect=True)
    [again] = await bench.do({**asked, "vlan": None})
    assert (*verdict(again), again["port"]) == ("done", False, port)


async def test_a_container_that_starts_anew_meets_no_conflict_with_its_predecessor(bench: Bench) -> None:
    asked, port = await attached(bench, detect=True)
    successor = task_of(next(_numbers))
    bench.start(successor)
    [answer] = await bench.do({**asked, "task_id": successor})
    assert (*verdict(answer), answer["removed"]) == ("done", True, [port])


async def test_a_living_port_of_another_instance_answers_and_stays(bench: Bench) -> None:
    asked, port = await attached(bench)
    task = task_of(next(_numbers))
    bench.start(task)
    newcomer = {**asked, "task_id": task, "instance": f"of.{task}", "detect": True}
    [answer] = await bench.do(newcomer)
    assert verdict(answer) == ("conflict", False)
    assert answer["answered_by"] == ["02:00:" + bytes(map(int, asked["address"].split("."))).hex(":")]
    assert [seen["port"] for seen in await ports(bench, asked["address"])] == [port]
    bench.kill(asked["task_id"])
    deadline = time.monotonic() + 10
    # Whoever repeats the announcement of a new address keeps the namespace, which answers, for a second.
    while answer["status"] == "conflict":
        assert time.monotonic() < deadline, answer
        [answer] = await bench.do(newcomer)
    assert (*verdict(answer), answer["removed"]) == ("done", True, [port])
