"""What a host promises to the daemon, asked of the twin in memory and of the real module on a real switch.

Every case runs over both; what only the real one has (routes, devices, untrusted text) is tested beside the
module itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from mooring.controller.capabilities import HostFacts, faults_of
from mooring.core.clock import SystemClock
from mooring.core.errors import Retryable
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, Done, NotPossible, Outcome
from mooring.core.specs import PortSpec
from mooring.handlers.hosts import Hosts, NetworkSink, newest_epoch, port_marks
from mooring.handlers.memory_hosts import HostSilent
from tests.contract.hosts import (
    HOST,
    PORT,
    Answer,
    Bench,
    InMemory,
    _numbers,
    attached,
    bench,
    file,
    order,
    ports,
    probe,
    removal,
    rig,
    task_of,
    verdict,
)

__all__ = ["bench", "rig"]  # fixtures


async def test_a_second_attach_changes_nothing(bench: Bench) -> None:
    asked, port = await attached(bench)
    [again] = await bench.do(asked)
    assert (*verdict(again), again["port"]) == ("done", False, port)


@pytest.mark.parametrize(
    "change",
    [
        {"vlan": 100},
        {"generation": 2},
        {"routes": []},
        {"barred": ["10.9.0.0/24", "fd09::/64"]},
        {"rate_out": 1_000_000, "rate_in": 2_000_000},
    ],
)
async def test_what_differs_is_changed_in_place(bench: Bench, change: Mapping[str, Any]) -> None:
    asked, port = await attached(bench)
    [answer] = await bench.do({**asked, **change})
    assert (*verdict(answer), answer["port"]) == ("done", True, port)
    assert verdict((await bench.do({**asked, **change}))[0]) == ("done", False)


async def test_marks_tell_the_port_again(bench: Bench) -> None:
    asked, _ = await attached(bench, vlan=7, barred=["10.9.0.0/24", "fd09::/64"])
    [report] = await bench.do({"op": "observe", "id": "o"})
    [spec] = [spec for spec in port_marks(HOST, report) if spec.address == asked["address"]]
    assert (spec.task, spec.app, spec.slot, spec.instance, spec.prefix, spec.vlan, spec.lease_generation) == (
        asked["task_id"], asked["app"], asked["slot"], asked["instance"], 22, 7, 1,
    )  # fmt: skip
    assert spec.barred == ("10.9.0.0/24", "fd09::/64")


async def test_a_limit_is_told_while_it_stands(bench: Bench) -> None:
    asked, _ = await attached(bench, rate_out=1_000_000, rate_in=2_000_000)
    lifted = {**asked, "rate_out": None, "rate_in": None}
    for wish, rates in ((asked, (1_000_000, 2_000_000)), (lifted, (None, None))):
        await bench.do(wish)
        [report] = await bench.do({"op": "observe", "id": "o"})
        [spec] = [spec for spec in port_marks(HOST, report) if spec.address == asked["address"]]
        assert (spec.rate_out, spec.rate_in) == rates


async def test_a_check_tells_facts_and_changes_nothing(bench: Bench) -> None:
    await attached(bench)
    [answer] = await bench.do({"op": "check", "id": "c"})
    assert verdict(answer) == ("done", False)
    facts = msgspec.convert(dict(answer), HostFacts)
    assert list(faults_of(facts)) == []
    assert (facts.switch.datapath, facts.switch.checksum_offload_off) == ("netdev", True)
    assert facts.switch.ports > 0
    assert facts.engine.version
    assert (facts.limits["tbf"], facts.limits["meters"]) == ("", "")


async def test_an_absent_container_is_waited_for(bench: Bench) -> None:
    [answer] = await bench.do(order("no.such.task"))
    assert verdict(answer) == ("retry", False)
    assert "no.such.task" in answer["reason"]


async def test_a_dead_container_is_not_attached(bench: Bench) -> None:
    asked, _ = await attached(bench)
    bench.kill(asked["task_id"])
    [answer] = await bench.do(asked)
    assert answer["status"] == "retry"
    [port] = await ports(bench, asked["address"])
    assert not port["alive"]


async def test_a_container_in_the_hosts_network_is_refused(bench: Bench) -> None:
    task = task_of(next(_numbers))
    bench.start(task, shared=True)
    [answer] = await bench.do(order(task))
    assert verdict(answer) == ("refused", False)


async def test_a_restarted_container_gets_a_new_port(bench: Bench) -> None:
    asked, port = await attached(bench)
    bench.restart(asked["task_id"])
    [answer] = await bench.do(asked)
    assert answer["removed"] == [port]
    assert [seen["port"] for seen in await ports(bench, asked["address"])] == [answer["port"]] != [port]


@pytest.mark.parametrize("alive", [True, False])
async def test_an_address_has_one_port_whoever_had_it(bench: Bench, alive: bool) -> None:
    asked, port = await attached(bench)
    if not alive:
        bench.kill(asked["task_id"])
    task = task_of(next(_numbers))
    bench.start(task)
    [answer] = await bench.do({**asked, "task_id": task, "instance": f"of.{task}", "generation": 2})
    assert answer["removed"] == [port]
    [seen] = await ports(bench, asked["address"])
    assert (seen["task"], seen["alive"]) == (task, True)


async def test_an_instance_has_one_port_whatever_its_address(bench: Bench) -> None:
    asked, port = await attached(bench)
    moved = order(asked["task_id"], instance=asked["instance"])
    [answer] = await bench.do(moved)
    assert answer["removed"] == [port]
    assert await ports(bench, asked["address"]) == []
    assert len(await ports(bench, moved["address"])) == 1


async def test_detach_is_done_when_nothing_is_left(bench: Bench) -> None:
    asked, port = await attached(bench)
    [answer] = await bench.do(removal(asked))
    assert (*verdict(answer), answer["removed"]) == ("done", True, [port])
    assert await ports(bench, asked["address"]) == []
    assert verdict((await bench.do(removal(asked)))[0]) == ("done", False)


async def test_a_dead_container_is_detached_by_address_alone(bench: Bench) -> None:
    asked, port = await attached(bench)
    bench.kill(asked["task_id"])
    [answer] = await bench.do(removal(asked, instance=None))
    assert (*verdict(answer), answer["removed"]) == ("done", True, [port])


async def test_a_late_detach_spares_the_living_successor(bench: Bench) -> None:
    asked, port = await attached(bench)
    for late in (removal(asked, instance="the-one-before"), removal(asked, task_id="the.task.before")):
        [answer] = await bench.do(late)
        assert verdict(answer) == ("done", False)
        [spared] = answer["spared"]
        told = [spared[key] for key in ("port", "address", "instance", "task")]
        assert told == [port, asked["address"], asked["instance"], asked["task_id"]]
    bench.kill(asked["task_id"])
    [answer] = await bench.do(removal(asked, instance="the-one-before"))
    assert answer["removed"] == [port]


def collecting(port: Answer, **changes: Any) -> dict[str, Any]:
    """The detach of that one port, should nothing live behind it."""
    return {"op": "detach", "id": "c", "port": port["port"], "container": port["container"], **changes}


async def test_a_detach_that_names_a_port_removes_it_only_when_dead(bench: Bench) -> None:
    asked, name = await attached(bench)
    [port] = await ports(bench, asked["address"])
    [answer] = await bench.do(collecting(port))
    assert (*verdict(answer), answer["removed"]) == ("done", False, [])
    assert [spared["port"] for spared in answer["spared"]] == [name]
    bench.kill(asked["task_id"])
    for other in (collecting(port, container="of-another@start"), collecting(port, container=None)):
        [answer] = await bench.do(other)
        assert verdict(answer) == ("done", False)
    assert len(await ports(bench, asked["address"])) == 1
    [answer] = await bench.do(collecting(port))
    assert (*verdict(answer), answer["removed"]) == ("done", True, [name])
    assert await ports(bench, asked["address"]) == []
    assert verdict((await bench.do(collecting(port)))[0]) == ("done", False)


async def test_a_port_of_a_higher_epoch_is_not_removed_as_dead(bench: Bench) -> None:
    asked, _ = await attached(bench)
    [port] = await ports(bench, asked["address"])
    bench.kill(asked["task_id"])
    await bench.do({"op": "observe", "id": "o", "fence": True}, epoch=7)
    assert verdict((await bench.do(collecting(port)))[0]) == ("stale", False)
    assert len(await ports(bench, asked["address"])) == 1


class AsRunner:
    """A bench as the sinks see it."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    async def run(self, host: str, operations: Sequence[Mapping[str, Any]], epoch: int) -> Sequence[Answer]:
        return await self._bench.do(*operations, epoch=epoch)

    async def prepare(self, host: str) -> None: ...


async def removed(bench: Bench, asked: Mapping[str, Any], *tasks: str, **changes: Any) -> Outcome:
    """What the sink makes of a change that removes the ports of some tasks in the seat of an attach."""
    keys = {key: asked[key] for key in ("app", "slot", "instance", "address", "prefix")}
    was = tuple(PortSpec(**{"host": HOST, "task": task, **keys, **changes}) for task in tasks)
    hosts = Hosts(AsRunner(bench), SystemClock(), Epoch(1))
    change = Change(BindingId("b"), None, was, 1, Epoch(1))
    [outcome] = await NetworkSink(hosts, [HOST]).apply([change])
    return outcome


async def test_a_change_may_name_the_living_port_and_the_one_before_it(bench: Bench) -> None:
    asked, _ = await attached(bench)
    for tasks in (["the.task.before"], ["the.task.before", "the.task.between"]):
        assert isinstance(await removed(bench, asked, *tasks), NotPossible)
    assert isinstance(await removed(bench, asked, asked["task_id"], instance="another"), NotPossible)
    assert len(await ports(bench, asked["address"])) == 1
    assert await removed(bench, asked, "the.task.before", asked["task_id"]) == Done(changed=True)
    assert await ports(bench, asked["address"]) == []


async def test_a_call_removes_first_and_observes_last(bench: Bench) -> None:
    asked, port = await attached(bench)
    task = task_of(next(_numbers))
    bench.start(task)
    successor = {**asked, "id": "s", "task_id": task, "instance": f"of.{task}"}
    answers = await bench.do({"op": "observe", "id": "o"}, successor, removal(asked))
    assert [answer["id"] for answer in answers] == ["o", "s", "d"]
    assert answers[2]["removed"] == [port]
    seen = [one["task"] for one in answers[0]["ports"] if one["address"] == asked["address"]]
    assert seen == [task]


async def test_one_bad_operation_harms_no_other(bench: Bench) -> None:
    tasks = [task_of(next(_numbers)) for _ in range(2)]
    for task in tasks:
        bench.start(task)
    good = order(tasks[0])
    twin = order(tasks[1], address=good["address"])
    answers = await bench.do(order("no.such.task"), good, twin, {"op": "dance", "id": "y"})
    assert [answer["status"] for answer in answers] == ["retry", "done", "refused", "refused"]


async def test_a_stale_epoch_is_turned_away_and_changes_nothing(bench: Bench) -> None:
    asked, port = await attached(bench)
    assert verdict((await bench.do(asked, epoch=7))[0]) == ("done", True)
    task = task_of(next(_numbers))
    bench.start(task)
    stale = (order(task), removal(asked), {**asked, "vlan": 5}, file(asked["task_id"], "late"))
    for late in stale:
        [answer] = await bench.do(late, epoch=6)
        assert verdict(answer) == ("stale", False)
        assert "epoch 6 is stale" in answer["reason"]
    [seen] = await ports(bench, asked["address"])
    assert (seen["port"], seen["epoch"], seen["alive"]) == (port, 7, True)


async def test_a_port_fences_even_where_its_bridge_forgot(bench: Bench) -> None:
    asked, _ = await attached(bench)
    await bench.do(asked, epoch=7)
    bench.forget_epoch()
    assert (await bench.do(removal(asked), epoch=6))[0]["status"] == "stale"
    assert len(await ports(bench, asked["address"])) == 1
    assert (await bench.do(removal(asked), epoch=7))[0]["changed"]


async def test_a_detach_of_nothing_raises_the_fence_too(bench: Bench) -> None:
    asked, _ = await attached(bench)
    await bench.do(removal(asked))
    assert verdict((await bench.do(removal(asked), epoch=5))[0]) == ("done", False)
    assert (await bench.do(asked, epoch=4))[0]["status"] == "stale"


async def test_observe_raises_the_fence_on_request(bench: Bench) -> None:
    fence = {"op": "observe", "id": "o", "fence": True}
    [report] = await bench.do({"op": "observe", "id": "o"}, epoch=9)
    assert newest_epoch(report) < 9
    [report] = await bench.do(fence, epoch=9)
    assert (newest_epoch(report), report["changed"]) == (9, True)
    assert not (await bench.do(fence, epoch=9))[0]["changed"]
    assert (await bench.do(fence, epoch=8))[0]["status"] == "stale"


async def test_what_was_asked_before_a_fence_cannot_land_after_it(bench: Bench) -> None:
    task = task_of(next(_numbers))
    bench.start(task)
    asked = order(task)
    await bench.do({"op": "observe", "id": "o", "fence": True, "sequence": 5})
    [late] = await bench.do({**asked, "sequence": 4})
    assert (verdict(late), "late" in late["reason"]) == (("retry", False), True)
    assert verdict((await bench.do({**asked, "sequence": 6}))[0]) == ("done", True)


async def test_a_late_call_of_the_same_epoch_is_turned_away_and_changes_nothing(bench: Bench) -> None:
    asked, _ = await attached(bench)
    assert verdict((await bench.do({**removal(asked), "sequence": 8}))[0]) == ("done", True)
    for late in ({**asked, "sequence": 7}, {**removal(asked), "sequence": 7}):
        [answer] = await bench.do(late)
        assert verdict(answer) == ("retry", False)
        assert "call 7 is late" in answer["reason"]
    assert await ports(bench, asked["address"]) == []
    assert verdict((await bench.do({**asked, "sequence": 8}))[0]) == ("done", True)


async def test_what_finds_nothing_to_change_leaves_its_number_too(bench: Bench) -> None:
    asked, _ = await attached(bench)
    assert verdict((await bench.do({**asked, "sequence": 5}))[0]) == ("done", False)
    assert "late" in (await bench.do({**removal(asked), "sequence": 4}))[0]["reason"]
    nothing = removal(order("none"))
    assert verdict((await bench.do({**nothing, "sequence": 6}))[0]) == ("done", False)
    assert "late" in (await bench.do({**asked, "sequence": 5}))[0]["reason"]


async def test_a_higher_epoch_counts_its_calls_from_the_start(bench: Bench) -> None:
    asked, _ = await attached(bench)
    await bench.do({**asked, "sequence": 50}, epoch=2)
    assert verdict((await bench.do({**removal(asked), "sequence": 1}, epoch=3))[0]) == ("done", True)
    assert (await bench.do({**asked, "sequence": 51}, epoch=2))[0]["status"] == "stale"
    assert verdict((await bench.do({**asked, "sequence": 2}, epoch=3))[0]) == ("done", True)


async def test_a_probe_asks_the_containers_own_address(bench: Bench) -> None:
    asked, _ = await attached(bench)
    [good, bad] = await bench.do(probe(asked), probe(asked, ports=[PORT, 9]))
    assert (good["status"], good["open"]) == ("done", [PORT])
    assert (bad["status"], bad["open"], list(bad["closed"])) == ("retry", [PORT], ["9"])
    await bench.do(removal(asked))
    [bare] = await bench.do(probe(asked))
    assert bare["status"] == "retry"


async def test_a_file_is_written_once_and_told_once(bench: Bench) -> None:
    asked, _ = await attached(bench)
    told = file(asked["task_id"], "one\n", command=["touch", "/tmp/told"])
    [first], [again] = await bench.do(told), await bench.do(told)
    assert (*verdict(first), first["reloaded"]) == ("done", True, True)
    assert (*verdict(again), again["reloaded"]) == ("done", False, False)
    assert bench.content(asked["task_id"], "/tmp/peers").strip() == "one"
    [other] = await bench.do(file(asked["task_id"], "two\n", command=["touch", "/tmp/told"]))
    assert other["reloaded"]
    assert bench.content(asked["task_id"], "/tmp/peers").strip() == "two"


async def test_a_file_for_nobody_or_with_a_wrong_digest(bench: Bench) -> None:
    asked, _ = await attached(bench)
    wrong = file(asked["task_id"], "one", digest="0" * 64)
    absent, refused = await bench.do(file("no.such.task", "one"), wrong)
    assert (absent["status"], refused["status"]) == ("retry", "refused")


async def test_a_silent_host_does_nothing_and_a_lost_answer_hides_an_effect() -> None:
    bench = InMemory()
    bench.start("t")
    bench.world.silent.add(HOST)
    with pytest.raises(HostSilent):
        await bench.do(order("t"))
    bench.world.silent.clear()

    async def lose(host: str) -> None:
        raise Retryable("the answer was lost")

    bench.world.after = lose
    with pytest.raises(Retryable):
        await bench.do(order("t"))
    assert len(bench.world.hosts[HOST].ports) == 1


async def test_a_late_write_leaves_the_newer_file_alone(bench: Bench) -> None:
    task = task_of(next(_numbers))
    bench.start(task)
    assert verdict((await bench.do(file(task, "second", sequence=5)))[0]) == ("done", True)
    [late] = await bench.do(file(task, "first", sequence=4))
    assert (verdict(late), "late" in late["reason"]) == (("retry", False), True)
    assert verdict((await bench.do(file(task, "other", path="/tmp/other", sequence=4)))[0]) == ("done", True)
    assert bench.content(task, "/tmp/peers") == "second"
    assert verdict((await bench.do(file(task, "third", sequence=6)))[0]) == ("done", True)


async def test_a_write_of_an_older_epoch_finds_the_newer_one_at_the_file(bench: Bench) -> None:
    task = task_of(next(_numbers))
    bench.start(task)
    assert verdict((await bench.do(file(task, "new", sequence=1), epoch=3))[0]) == ("done", True)
    bench.forget_epoch()
    [late] = await bench.do(file(task, "old", sequence=9), epoch=2)
    assert (verdict(late), "epoch 2 is stale" in late["reason"]) == (("stale", False), True)
    assert bench.content(task, "/tmp/peers") == "new"
    [told] = await bench.do({"op": "observe", "id": "o"}, epoch=2)
    assert newest_epoch(told) >= 3  # so that the next daemon begins above it


async def test_what_was_asked_before_a_conflict_cannot_land_after_it(bench: Bench) -> None:
    task = task_of(next(_numbers))
    bench.start(task)
    asked = {**order(task), "detect": True}
    with bench.stranger(asked["address"]):
        [met] = await bench.do({**asked, "sequence": 5})
        assert met["status"] == "conflict"
    [late] = await bench.do({**asked, "sequence": 4})
    assert (verdict(late), "late" in late["reason"]) == (("retry", False), True)
    assert await ports(bench, asked["address"]) == []


# -- what others have wired
