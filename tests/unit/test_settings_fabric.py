"""The table `[fabric]`, and what it means for pools: addresses, MTU, and gateways that we keep."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mooring.controller.pools import strange_keepers
from mooring.controller.settings import Settings, pools_of
from mooring.controller.settings_fabric import FabricSettings
from mooring.core.errors import ConfigRefused
from mooring.core.model import PoolName, PoolSpec
from mooring.ipam.pools import Pool, Pools
from mooring.ipam.supernets import Supernet


def settings(**tables: Any) -> Settings:
    base = {
        "store": "/tmp/x.db",
        "marathon": {"endpoints": ["http://127.0.0.1:8080"]},
        "ansible": {"inventory": "/tmp/inventory"},
    }
    return Settings.model_validate(base | tables)


def complaint(**tables: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        settings(**tables)
    return str(raised.value)


# -- MTU


@pytest.mark.parametrize(
    ("changes", "mtu"),
    [({}, None), ({"mode": "vxlan"}, 1446), ({"mode": "vxlan", "underlay": "ipv6"}, 1426),
     ({"mode": "vxlan", "underlay_mtu": 9000}, 8946)],
)  # fmt: skip
def test_tunnels_leave_so_much_to_a_container(changes: dict[str, Any], mtu: int | None) -> None:
    assert FabricSettings(**changes).container_mtu == mtu


def test_a_pool_that_is_too_large_is_refused_with_the_number_that_it_needs() -> None:
    said = complaint(
        fabric={"mode": "vxlan"}, pools={"web": {"network": "10.64.0.0/24", "mtu": 1500}}
    )  # fmt: skip
    assert "web: mtu 1500 does not fit into the tunnels" in said
    assert "at most 1446" in said
    assert "fabric.underlay_mtu to 1554" in said


def test_so_is_a_supernet() -> None:
    said = complaint(
        fabric={"mode": "vxlan"}, supernets={"all": {"network": "10.64.0.0/16", "mtu": 1447}}
    )  # fmt: skip
    assert "all: mtu 1447" in said


def test_what_fits_is_taken_and_a_flat_fabric_takes_all() -> None:
    pools = {"web": {"network": "10.64.0.0/24", "mtu": 1446}}
    assert settings(fabric={"mode": "vxlan"}, pools=pools).fabric.container_mtu == 1446
    settings(pools={"web": {"network": "10.64.0.0/24", "mtu": 9000}})


def test_a_pool_made_at_run_time_is_held_against_the_same() -> None:
    fabric = FabricSettings(mode="vxlan")
    fabric.check_pool(PoolSpec(PoolName("web"), "10.64.0.0/24", mtu=1446))
    with pytest.raises(ConfigRefused, match="pool web: mtu 1500"):
        fabric.check_pool(PoolSpec(PoolName("web"), "10.64.0.0/24", mtu=1500))


# -- tunnel addresses


def test_the_table_comes_before_the_inventory() -> None:
    fabric = FabricSettings(mode="vxlan", addresses={"h1": "192.0.2.1"})
    found = fabric.tunnel_addresses(["h1", "h2"], {"h1": "192.0.2.99", "h2": "192.0.2.2"})
    assert found == {"h1": "192.0.2.1", "h2": "192.0.2.2"}


def test_a_flat_fabric_needs_none() -> None:
    assert FabricSettings().tunnel_addresses(["h1"], {}) == {}


@pytest.mark.parametrize(
    ("addresses", "variables", "words"),
    [
        ({}, {"h1": "192.0.2.1"}, "host h2 has no tunnel address"),
        ({}, {"h1": "192.0.2.1", "h2": "192.0.2.1"}, "h2: 192.0.2.1 is that of h1 too"),
        ({}, {"h1": "192.0.2.1", "h2": "fd00::1"}, "h2: fd00::1 is not of the family"),
        ({}, {"h1": "192.0.2.1", "h2": "there"}, "h2: 'there' is not an IP address"),
        ({"h9": "192.0.2.9"}, {"h1": "192.0.2.1", "h2": "192.0.2.2"}, "host h9 is not in the inventory"),
    ],
)
def test_hosts_that_cannot_be_reached_are_named(
    addresses: dict[str, str], variables: dict[str, str], words: str
) -> None:
    fabric = FabricSettings(mode="vxlan", addresses=addresses)
    with pytest.raises(ConfigRefused, match=words):
        fabric.tunnel_addresses(["h1", "h2"], variables)


def test_wrong_addresses_of_the_table_are_told_at_once() -> None:
    said = complaint(fabric={"addresses": {"h1": "nowhere", "h2": "fd00::2"}})
    assert "h1: 'nowhere' is not an IP address" in said
    assert "h2: fd00::2 is not of the family" in said


# -- gateways


@pytest.mark.parametrize(
    ("table", "gateway"),
    [
        ({"gateway": "managed", "gateway_host": "gw"}, "10.64.0.1"),
        ({"gateway_host": "gw"}, "10.64.0.1"),
        ({"gateway": "10.64.0.254", "gateway_host": "gw"}, "10.64.0.254"),
    ],
)
def test_a_managed_gateway_has_an_address_that_nobody_else_gets(table: dict[str, Any], gateway: str) -> None:
    found = pools_of(settings(pools={"web": {"network": "10.64.0.0/24", **table}})).named("web")
    assert (str(found.gateway), found.gateway_host, found.gateway_nat) == (gateway, "gw", False)
    assert gateway not in {str(address) for address in found.assignable()}


def test_ipv6_has_its_first_address_behind_the_anycast_one() -> None:
    assert (
        str(Pool.parse("six", "fd00:64::/64", gateway="managed", gateway_host="gw").gateway) == "fd00:64::1"
    )


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"gateway": "managed"}, "needs `gateway_host`"),
        ({"gateway": "10.64.0.1", "gateway_nat": True}, "needs `gateway_host`"),
        ({"gateway": "10.65.0.1", "gateway_host": "gw"}, "is outside 10.64.0.0/24"),
        ({"gateway_host": ""}, "gateway_host"),
    ],
)
def test_what_makes_no_gateway_is_refused(table: dict[str, Any], words: str) -> None:
    assert words in complaint(pools={"web": {"network": "10.64.0.0/24", **table}})


def test_pools_of_a_supernet_have_its_gateway_host() -> None:
    source = Supernet.parse("all", "10.64.0.0/16", gateway_host="gw", gateway_nat=True)
    made = source.next_pool("web", Pools([]))
    assert (made.gateway, made.gateway_host, made.gateway_nat) == ("10.64.0.1", "gw", True)


def test_a_supernet_without_gateway_can_have_no_host_for_it() -> None:
    with pytest.raises(ConfigRefused, match="exclude each other"):
        Supernet.parse("all", "10.64.0.0/16", gateway="none", gateway_host="gw")


def test_a_stored_pool_keeps_its_gateway_host() -> None:
    pool = Pool.parse("web", "10.64.0.0/24", gateway="managed", gateway_host="gw", gateway_nat=True)
    assert Pool.of(pool.spec) == pool


def test_hosts_outside_the_inventory_keep_no_gateway() -> None:
    pools = [Pool.parse("web", "10.64.0.0/24", gateway_host=host).spec for host in ("gw", None)]
    assert strange_keepers(pools, ["gw"]) == []
    [fault] = strange_keepers(pools, ["h1"])
    assert "pool web: gateway_host gw is not in the inventory" in fault
