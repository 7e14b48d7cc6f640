"""The fabric in the running engine: begun on firm ground, told of pools, compared with every look."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mooring.controller.drift import Kind
from mooring.controller.settings import load_settings
from mooring.controller.ways import keep_ways, lay_fabric, mesh_of
from mooring.core.errors import ConfigRefused
from mooring.core.model import HostName, PoolName, PoolSpec
from mooring.core.readmodel import EVERYTHING
from mooring.handlers.fabric import Mesh
from mooring.handlers.inventory import inventory_variable
from tests.unit.samples_of_settings import settings_file
from tests.unit.small_house import House

NAMES = ["h1", "h2"]
MESH = Mesh({"h1": "192.0.2.1", "h2": "192.0.2.2"}, 7, 4789, 1446)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    made = await House().open()
    made.engine.grounded.clear()
    lay_fabric(made.engine, made.lanes, NAMES, MESH)
    keeping = asyncio.create_task(keep_ways(made.engine))
    yield made
    keeping.cancel()


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


def tunnels(house: House) -> dict[str, list[str]]:
    return {name: sorted(house.hosts.hosts[name].ways.tunnels) for name in NAMES}


async def test_nothing_is_told_before_it_is_known_what_is_whose(house: House) -> None:
    await settle()
    assert tunnels(house) == {"h1": [], "h2": []}
    house.engine.grounded.set()
    await settle()
    assert tunnels(house) == {"h1": ["h2"], "h2": ["h1"]}


async def test_a_pool_made_at_run_time_gets_its_gateway_and_loses_it(house: House) -> None:
    house.engine.grounded.set()
    spec = PoolSpec(PoolName("red"), "10.99.0.0/24", gateway="managed", gateway_host=HostName("h2"))
    made = await house.engine.pools.add(spec)
    await settle()
    assert made.gateway == "10.99.0.1"
    assert list(house.hosts.hosts["h2"].ways.gateways) == ["red"]
    await house.engine.pools.remove("red")
    await settle()
    assert house.hosts.hosts["h2"].ways.gateways == {}


async def test_a_missing_tunnel_is_found_and_mended_by_the_next_look(house: House) -> None:
    house.engine.grounded.set()
    await settle()
    house.hosts.hosts["h1"].ways.tunnels.clear()
    planned = await house.engine.verifier.look(repair=False)
    assert tunnels(house)["h1"] == []
    found = await house.engine.verifier.look()
    for look in (planned, found):
        assert [(one.sink, one.kind, one.key) for one in look.findings] == [
            ("fabric", Kind.MISSING, "h2 on h1")
        ]
    assert tunnels(house)["h1"] == ["h2"]
    assert {"fabric", "gateway"} <= set(found.read)
    assert (await house.engine.verifier.look()).findings == ()


async def test_while_everything_is_paused_it_is_only_told(house: House) -> None:
    house.engine.grounded.set()
    await settle()
    await house.engine.pause(None)
    assert EVERYTHING in house.engine.paused()
    house.hosts.hosts["h1"].ways.tunnels.clear()
    found = await house.engine.verifier.look()
    assert [one.remedy for one in found.findings] == ["waits: paused"]
    assert tunnels(house)["h1"] == []
    await house.engine.resume(None)
    await settle()
    assert tunnels(house)["h1"] == ["h2"]


async def test_a_silent_peer_is_told_by_a_look(house: House) -> None:
    house.engine.grounded.set()
    await settle()
    house.hosts.hosts["h1"].ways.deaf.add("h2")
    assert (await house.engine.verifier.look()).unread["fabric on h1"] == "nothing is heard from h2"


# -- what the inventory says


INVENTORY = "[agents]\nh1 mooring_tunnel_address=192.0.2.1\nh2 mooring_tunnel_address=192.0.2.2\nh3\n"


async def test_the_inventory_tells_tunnel_addresses(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory"
    inventory.write_text(INVENTORY)
    told = await inventory_variable(inventory, "mooring_tunnel_address")
    assert told == {"h1": "192.0.2.1", "h2": "192.0.2.2"}


async def test_the_mesh_is_made_of_table_and_inventory(tmp_path: Path) -> None:
    file = settings_file(tmp_path)
    (tmp_path / "inventory").write_text(INVENTORY)
    flat = load_settings(file)
    assert await mesh_of(flat, ["h1"]) == Mesh()
    table = '[fabric]\nmode = "vxlan"\nvni = 9\n'
    file.write_text(file.read_text() + table)
    with pytest.raises(ConfigRefused, match="host h3 has no tunnel address"):
        await mesh_of(load_settings(file), ["h1", "h2", "h3"])
    file.write_text(file.read_text() + '[fabric.addresses]\nh3 = "192.0.2.3"\n')
    mesh = await mesh_of(load_settings(file), ["h1", "h2", "h3"])
    assert mesh == Mesh({"h1": "192.0.2.1", "h2": "192.0.2.2", "h3": "192.0.2.3"}, 9, 4789, 1446)
