"""Everything about a lab derives from name, directory and port base; what it derives does not collide."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from mooring.controller.settings import Settings
from mooring.lab.daemon_config import render_daemon_config
from mooring.lab.doors import Door, doors_of
from mooring.lab.plan import MANAGEMENT, VLANS, LabError, LabPlan


def test_two_plans_share_nothing() -> None:
    one, two = LabPlan("one", Path("/tmp/one"), 18000), LabPlan("two", Path("/tmp/two"), 18100)
    assert not set(one.namespaces) & set(two.namespaces)
    assert not {*one.ports.values(), one.portal_port} & {*two.ports.values(), two.portal_port}
    assert one.cgroup != two.cgroup


def test_every_port_is_used_once() -> None:
    plan = LabPlan()
    ports = [*plan.ports.values(), plan.portal_port]
    assert len(ports) == len(set(ports))
    assert all(plan.port_base <= port < plan.port_base + 100 for port in ports)


def test_agents_have_names_addresses_and_doors_of_their_own() -> None:
    plan = LabPlan("demo", Path("/tmp/demo"), 20000)
    assert [agent.hostname for agent in plan.agents] == ["agent-1", "agent-2", "agent-3"]
    assert [agent.namespace for agent in plan.agents] == ["mlab-demo-1", "mlab-demo-2", "mlab-demo-3"]
    assert [str(agent.address) for agent in plan.agents] == ["10.65.0.11", "10.65.0.12", "10.65.0.13"]
    assert [agent.ssh_port for agent in plan.agents] == [20011, 20012, 20013]
    assert plan.agent("agent-2") == plan.agents[1]
    with pytest.raises(LabError, match="no agent 'agent-9'"):
        plan.agent("agent-9")


def test_networks_are_disjoint_and_hold_their_gateways() -> None:
    networks = [MANAGEMENT, *(vlan.network for vlan in VLANS)]
    for i, network in enumerate(networks):
        assert not any(network.overlaps(other) for other in networks[i + 1 :])
    assert all(vlan.gateway in vlan.network for vlan in VLANS)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("Bad Name", Path("/tmp/x"), 18000), "lab name 'Bad Name'"),
        (("a-b", Path("/tmp/x"), 18000), "lab name"),  # "lab-1" would own namespaces of "lab"
        (("lab", Path("relative"), 18000), "absolute path"),
        (("lab", Path("/tmp/with space"), 18000), "absolute path"),
        (("lab", Path('/tmp/quo"te'), 18000), "absolute path"),
        (("lab", Path("/tmp/../etc"), 18000), "absolute path"),
        (("lab", Path("/tmp/" + "x" * 80), 18000), "sockets would not fit"),
        (("lab", Path("/run/lab"), 18000), "/run of their own"),
        (("lab", Path("/tmp/x"), 80), "port base 80"),
        (("lab", Path("/tmp/x"), 65500), "port base 65500"),
    ],
)
def test_unusable_plans_are_refused_in_one_line(arguments: tuple[str, Path, int], complaint: str) -> None:
    with pytest.raises(LabError, match=complaint) as refused:
        LabPlan(*arguments)
    assert "\n" not in str(refused.value)


def test_longest_socket_fits_into_a_unix_address() -> None:
    plan = LabPlan("lab", Path("/" + "x" * 61), 18000)
    longest = plan.docker_dir / "exec" / "containerd" / "containerd-debug.sock"
    control = plan.agents[0].ovs_dir / "ovs-vswitchd.4194304.ctl"
    assert max(len(str(longest)), len(str(control))) <= 107


def test_plan_is_recalled_from_its_marker_only(tmp_path: Path) -> None:
    assert LabPlan.recall(tmp_path) is None
    (tmp_path / "lab.json").write_text('{"name": "kept", "port_base": 19000}')
    assert LabPlan.recall(tmp_path) == LabPlan("kept", tmp_path, 19000)
    for torn in ("", "{", "[]", '{"name": "kept"}'):
        (tmp_path / "lab.json").write_text(torn)
        assert LabPlan.recall(tmp_path) is None


def test_doors_survive_the_command_line() -> None:
    doors = doors_of(LabPlan())
    assert [Door.parse(str(door)) for door in doors] == doors
    assert {door.port for door in doors} == {18000, 18001, 18002, 18011, 18012, 18013}
    with pytest.raises(ValueError, match="unpack"):
        Door.parse("18000")


def test_daemon_config_is_complete_and_valid() -> None:
    plan = LabPlan("conf", Path("/tmp/conf"), 20000)
    settings = Settings.model_validate(tomllib.loads(render_daemon_config(plan)))
    assert settings.marathon.endpoints == ("http://127.0.0.1:20000",)
    assert {name: pool.vlan for name, pool in settings.pools.items()} == {"shop": 100, "ops": 200}
    assert settings.hosts["agent-3"] == "10.65.0.13"
    assert settings.portal.port == plan.portal_port
    assert settings.haproxy is not None
    assert settings.nginx is not None
    assert settings.dns is not None
    assert settings.webhook is not None
    assert settings.dns.reverse_zones == ("64.10.in-addr.arpa",)
