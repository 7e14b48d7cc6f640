"""Pools and supernets in the configuration file: faults are told with their key, all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring.controller.pools import supernets_of
from mooring.controller.settings import load_settings, pools_of
from mooring.core.errors import ConfigRefused
from tests.unit.samples_of_settings import settings_file


def with_tables(directory: Path, tables: str) -> Path:
    path = settings_file(directory)
    path.write_text(path.read_text() + tables)
    return path


def test_pools_and_supernets_are_read(tmp_path: Path) -> None:
    tables = """
        [pools.six]
        network = "fd00:64::/64"
        gateway = "fd00:64::1"
        reserve = { "fd00:64::9" = "the printer" }
        [supernets.big]
        network = "10.128.0.0/16"
        vlans = "100-101"
        gateway = "last"
        owners = ["/shop"]
    """
    settings = load_settings(with_tables(tmp_path, tables))
    pools = pools_of(settings)
    assert [str(pool.network) for pool in pools] == ["10.64.0.0/24", "fd00:64::/64"]
    big = supernets_of(settings)["big"]
    assert (big.prefix, big.vlans, big.gateway, big.groups) == (24, (100, 101), "last", ("/shop",))


def test_a_pair_is_read_and_refused_with_its_key(tmp_path: Path) -> None:
    pair = '[pools.both]\nnetwork = "10.65.0.0/24"\nipv6 = "fd00:65::/64"\ngateway6 = "fe80::1"\n'
    routes = 'routes = [{ to = "fd01::/16", via = "fd00:65::2" }]\n'
    both = pools_of(load_settings(with_tables(tmp_path, pair + routes))).named("both")
    assert (both.spec.ipv6, both.spec.gateway6) == ("fd00:65::/64", "fe80::1")
    with pytest.raises(ConfigRefused) as refused:
        load_settings(with_tables(tmp_path, pair + 'mtu = 1000\n[pools.six]\nnetwork = "fd00:65::/112"\n'))
    [line] = refused.value.problems
    assert "pools.both: mtu 1000 must be from 1280" in line
    with pytest.raises(ConfigRefused, match=r"pools both .* and six .* overlap"):
        load_settings(with_tables(tmp_path, pair + '[pools.six]\nnetwork = "fd00:65::/112"\n'))


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (
            '[supernets.big]\nnetwork = "10.128.0.0/16"\nprefix = 9',
            "supernets.big: prefix 9 must be from 16 to 30",
        ),
        ('[supernets.big]\nnetwork = "10.128.0.0/16"\nvlans = "x"', "supernets.big: vlans 'x' is neither"),
        ('[supernets.big]\nnetwork = "10.128.0.0/16"\ngateway = "x"', "supernets.big.gateway: "),
        ('[pools.six]\nnetwork = "fd00::1/64"', "pools.six: network 'fd00::1/64' has host bits set"),
        (
            '[pools.more]\nnetwork = "10.64.0.0/25"',
            "pools: pools blue (10.64.0.0/24) and more (10.64.0.0/25) overlap",
        ),
    ],
)
def test_a_fault_is_told_with_its_key(tmp_path: Path, table: str, fault: str) -> None:
    with pytest.raises(ConfigRefused) as caught:
        load_settings(with_tables(tmp_path, "\n" + table + "\n"))
    [line] = caught.value.problems
    assert fault in line
