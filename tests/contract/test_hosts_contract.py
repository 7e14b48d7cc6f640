"""What a host promises to the daemon, asked of the twin in memory and of the real module on a real switch.

Every case runs over both; what only the real one has (routes, devices, untrusted text) is tested beside the
module itself.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from ipaddress import ip_address
from typing import Any, Protocol

import msgspec
import pytest

from mooring.controller.capabilities import HostFacts, faults_of
from mooring.core.clock import SystemClock
from mooring.core.errors import Retryable
from mooring.core.model import BindingId, Epoch
from mooring.core.sink import Change, Done, NotPossible, Outcome
from mooring.core.specs import PortSpec
from mooring.handlers.hosts import Hosts, NetworkSink, newest_epoch, port_marks
from mooring.handlers.memory_hosts import HostSilent, MemoryHosts
from tests.integration.host_module.rig import BRIDGE, HostRig, hosted, run

HOST, PORT = "h1", 8080
PREFIX6 = 64
_numbers = itertools.count(10)
Answer = Mapping[str, Any]


class Bench(Protocol):
    """A host, and what happens to it from outside."""

    async def do(self, *operations: Mapping[str, Any], epoch: int = 1) -> Sequence[Answer]: ...

    def start(self, task: str, *, shared: bool = False) -> None: ...

    def restart(self, task: str) -> None: ...

    def kill(self, task: str) -> None: ...

    def content(self, task: str, path: str) -> str: ...

    def forget_epoch(self) -> None: ...

    def stranger(self, address: str) -> AbstractContextManager[str]: ...

    def wire(self, task: str, address: str, vlan: int | None = None, beside: str = "") -> str: ...


class InMemory:
    def __init__(self) -> None:
        self.world = MemoryHosts([HOST])

    async def do(self, *operations: Mapping[str, Any], epoch: int = 1) -> Sequence[Answer]:
        return await self.world.run(HOST, operations, epoch)

    def start(self, task: str, *, shared: bool = False) -> None:
        self.world.place(HOST, task, listens=(PORT,), shared=shared)

    restart = start

    def kill(self, task: str) -> None:
        self.world.stop(HOST, task)

    def content(self, task: str, path: str) -> str:
        return self.world.hosts[HOST].containers[task].files[path]

    def forget_epoch(self) -> None:
        self.world.hosts[HOST].epoch = self.world.hosts[HOST].sequence = 0

    @contextmanager
    def stranger(self, address: str) -> Iterator[str]:
        self.world.strangers[address] = "0e:00:00:00:00:01"
        yield self.world.strangers[address]
        del self.world.strangers[address]

    def wire(self, task: str, address: str, vlan: int | None = None, beside: str = "") -> str:
        others = ((beside, PREFIX6),) if beside else ()
        return self.world.wire(HOST, task, address, gateway="10.64.0.1", vlan=vlan, beside=others).port


class OnRealSwitch:
    def __init__(self, rig: HostRig) -> None:
        self._rig = rig
        self._containers: dict[str, str] = {}

    async def do(self, *operations: Mapping[str, Any], epoch: int = 1) -> Sequence[Answer]:
        return self._rig.do(*operations, epoch=epoch)

    def start(self, task: str, *, shared: bool = False) -> None:
        network = "host" if shared else "none"
        self._containers[task] = self._rig.container(task, network=network)[1]

    def restart(self, task: str) -> None:
        self._rig.docker("restart", "-t", "0", self._containers[task])

    def kill(self, task: str) -> None:
        self._rig.docker("kill", self._containers[task])

    def content(self, task: str, path: str) -> str:
        return self._rig.inside(self._containers[task], "cat", path)

    def forget_epoch(self) -> None:
        self._rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")

    def stranger(self, address: str) -> AbstractContextManager[str]:
        return self._rig.stranger(address)

    def wire(self, task: str, address: str, vlan: int | None = None, beside: str = "") -> str:
        """As a script does it."""
        process = self._rig.docker("inspect", "--format={{ .State.Pid }}", self._containers[task])
        port, inside = f"veth1pl{process}", ("nsenter", f"--net=/proc/{process}/ns/net", "ip")
        run("ip", "-n", self._rig.name, "link", "add", port, "type", "veth",
            "peer", "name", "eth1", "netns", process)  # fmt: skip
        run("ip", "-n", self._rig.name, "link", "set", port, "up")
        run(*inside, "address", "add", f"{address}/22", "dev", "eth1")
        if beside:
            run(*inside[:-1], "sysctl", "-qw", "net.ipv6.conf.eth1.disable_ipv6=0")
            run(*inside, "address", "add", f"{beside}/{PREFIX6}", "dev", "eth1", "nodad")
        run(*inside, "link", "set", "eth1", "up")
        run(*inside, "route", "add", "default", "via", "10.64.0.1")
        self._rig.vsctl("add-port", BRIDGE, port, *([f"tag={vlan}"] if vlan else []))
        return port


@pytest.fixture(scope="module")
def rig() -> Iterator[HostRig]:
    with hosted() as made:
        yield made


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.root)])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = InMemory() if request.param == "memory" else OnRealSwitch(request.getfixturevalue("rig"))
    yield bench
    bench.forget_epoch()


def _address(number: int) -> str:
    return f"10.64.{1 + number // 250}.{1 + number % 250}"


def order(task: str, **changes: Any) -> dict[str, Any]:
    """An attach with an address and an instance of its own."""
    number = next(_numbers)
    return {
        "op": "attach", "id": f"b{number}", "task_id": task, "app": "/shop/web", "slot": number,
        "instance": f"shop_web.instance-{number}", "address": _address(number), "prefix": 22,
        "gateway": "10.64.0.1", "routes": [{"to": "10.0.0.0/8", "via": "10.64.0.1"}], "vlan": None,
        "mtu": None, "generation": 1, **changes,
    }  # fmt: skip


def removal(attach: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """The detach that belongs to an attach."""
    keys = {key: attach[key] for key in ("instance", "address")}
    return {"op": "detach", "id": "d", **keys, **changes}


def file(task: str, content: str, **changes: Any) -> dict[str, Any]:
    digest = sha256(content.encode()).hexdigest()
    return {"op": "write", "id": "w", "task_id": task, "path": "/tmp/peers", "content": content,
            "digest": digest, "mode": "0644", "command": None, "signal": None, **changes}  # fmt: skip


def probe(attach: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    return {"op": "probe", "id": "p", "task_id": attach["task_id"], "address": attach["address"],
            "ports": [PORT], "timeout_s": 1.0, **changes}  # fmt: skip


async def ports(bench: Bench, address: str) -> list[Answer]:
    """Our ports that carry the address."""
    [report] = await bench.do({"op": "observe", "id": "o"})
    return [port for port in report["ports"] if port["address"] == address]


def task_of(number: int) -> str:
    return f"shop_web.instance-{number}._app.1"


async def attached(bench: Bench, **changes: Any) -> tuple[dict[str, Any], str]:
    """A container that was attached: (order, port name)."""
    task = task_of(next(_numbers))
    bench.start(task)
    asked = order(task, **changes)
    [answer] = await bench.do(asked)
    assert (answer["status"], answer["changed"]) == ("done", True), answer
    return asked, str(answer["port"])


def verdict(answer: Answer) -> tuple[str, bool]:
    return answer["status"], answer["changed"]


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
    for order, rates in ((asked, (1_000_000, 2_000_000)), (lifted, (None, None))):
        await bench.do(order)
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
