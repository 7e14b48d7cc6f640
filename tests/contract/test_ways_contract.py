"""Tunnels and gateways as a host promises them, asked of the twin in memory and of the real module."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from mooring.handlers.memory_hosts import MemoryHosts
from tests.integration.host_module.rig import BRIDGE, HostRig, hosted, run

Do = Callable[..., Sequence[Mapping[str, Any]]]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def rig() -> Iterator[HostRig]:
    with hosted() as made:
        made.vsctl("add-br", "br-under", "--", "set", "bridge", "br-under", "datapath_type=netdev")
        run("ip", "-n", made.name, "addr", "add", "192.0.2.1/24", "dev", "br-under")
        run("ip", "-n", made.name, "link", "set", "br-under", "up")
        yield made


@pytest.fixture(params=["memory", pytest.param("real", marks=pytest.mark.root)])
def do(request: pytest.FixtureRequest) -> Iterator[Do]:
    """Carries out operations of one call on an empty host."""
    if request.param == "memory":
        world = MemoryHosts(["h1"])
        yield lambda *operations, epoch=1: world.play("h1", operations, epoch)
        return
    rig: HostRig = request.getfixturevalue("rig")
    yield rig.do
    rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")
    rig.do(fabric(), gateway(), epoch=1)
    rig.vsctl("clear", "Bridge", BRIDGE, "external_ids")


def fabric(*peers: int, **changes: Any) -> dict[str, Any]:
    """Tunnels to hosts of these numbers."""
    told = [{"name": f"h{number}", "address": f"192.0.2.{number}"} for number in peers]
    return {"op": "fabric", "id": "fabric", "local": "192.0.2.1", "vni": 7, "port": 4789, "peers": told,
            "sequence": next(_numbers), **changes}  # fmt: skip


def gateway(*pools: str, vlan: int = 100, **changes: Any) -> dict[str, Any]:
    """Gateways of these pools, which are numbered in order."""
    told = [
        {"pool": pool, "address": f"10.70.{number}.1", "prefix": 24, "vlan": vlan, "mtu": None, "nat": False}
        for number, pool in enumerate(pools)
    ]
    return {"op": "gateway", "id": "gateway", "gateways": told, "sequence": next(_numbers), **changes}


ORDERS = pytest.mark.parametrize(
    ("some", "fewer"),
    [(lambda **more: fabric(2, 3, **more), lambda **more: fabric(2, **more)),
     (lambda **more: gateway("a", "b", **more), lambda **more: gateway("a", **more))],
    ids=["fabric", "gateway"],
)  # fmt: skip


def told(answer: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(answer[key] for key in ("status", "changed", "added", "mended", "removed"))


@ORDERS
def test_what_is_missing_comes_and_what_nobody_wants_goes(do: Do, some: Any, fewer: Any) -> None:
    one, other = ["h2", "h3"] if some()["op"] == "fabric" else ["a", "b"]
    assert told(do(some())[0]) == ("done", True, [one, other], [], [])
    assert told(do(some())[0]) == ("done", False, [], [], [])
    assert told(do(fewer())[0]) == ("done", True, [], [], [other])


@ORDERS
def test_a_check_tells_and_changes_nothing(do: Do, some: Any, fewer: Any) -> None:
    planned = do(some(check=True))[0]
    assert planned["changed"]
    assert do({"op": "observe", "id": "o"})[0]["fixtures"] == []
    assert told(do(some())[0]) == told(planned)


def test_what_is_wanted_otherwise_is_mended(do: Do) -> None:
    do(fabric(2), gateway("a"))
    assert told(do(fabric(2, vni=8))[0]) == ("done", True, [], ["h2"], [])
    assert told(do(gateway("a", vlan=200))[0])[:4] == ("done", True, [], ["a"])


@ORDERS
def test_an_older_daemon_and_a_late_call_change_nothing(do: Do, some: Any, fewer: Any) -> None:
    late = fewer()
    assert do(some(), epoch=5)[0]["status"] == "done"
    assert do(fewer(), epoch=4)[0]["status"] == "stale"
    assert do(late, epoch=5)[0]["status"] == "retry"
    assert len(do({"op": "observe", "id": "o"}, epoch=5)[0]["fixtures"]) == 2


def test_an_observation_counts_them_and_takes_none_for_a_container(do: Do) -> None:
    do(fabric(2, 3), gateway("a"))
    [seen] = do({"op": "observe", "id": "o"})
    assert (seen["ports"], seen["orphans"], len(seen["fixtures"])) == ([], [], 3)


def test_each_tunnel_tells_whether_its_peer_is_heard(do: Do) -> None:
    do(fabric(2, 3))
    [answer] = do(fabric(2, 3))
    assert {tunnel["peer"] for tunnel in answer["tunnels"]} == {"h2", "h3"}
    assert all(isinstance(tunnel["heard"], bool) for tunnel in answer["tunnels"])
