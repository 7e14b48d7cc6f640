"""What is asked of pipework, and what is known by its names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import pipework_names
from mooring.playbooks.module_utils.mooring_host.containers import Container
from mooring.playbooks.module_utils.mooring_host.orders import Attach, parse
from mooring.playbooks.module_utils.mooring_host.pipework import command

CONTAINER = Container("c0ffee", "t1", 4711, "2026-01-01T00:00:00Z", "", "none")


def attach(**changes: Any) -> Attach:
    order = {"op": "attach", "id": "b", "task_id": "t1", "app": "/a", "slot": 0, "instance": "i1",
             "address": "10.0.0.1", "prefix": 24, "generation": 1, **changes}  # fmt: skip
    parsed = parse(order)
    assert isinstance(parsed, Attach)
    return parsed


@pytest.mark.parametrize(
    ("changes", "address", "mac"),
    [
        ({}, "10.0.0.1/24", "02:00:0a:00:00:01"),
        ({"gateway": "10.0.0.254"}, "10.0.0.1/24@10.0.0.254", "02:00:0a:00:00:01"),
        ({"vlan": 7}, "10.0.0.1/24", "02:00:0a:00:00:01@7"),
        # A route is no gateway; pipework has no word for it, and we add it afterwards.
        ({"routes": [{"to": "10.9.0.0/16", "via": "10.0.0.9"}]}, "10.0.0.1/24", "02:00:0a:00:00:01"),
    ],
)
def test_the_command_line(changes: dict[str, Any], address: str, mac: str) -> None:
    words = command("/usr/bin/pipework", "br0", attach(**changes), CONTAINER)
    assert words == ["/usr/bin/pipework", "br0", "-i", "eth0", "c0ffee", address, mac]


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("veth1pl4711", True),
        ("veth0pl1", True),
        (pipework_names.port_of("net.3", 4194304), True),
        ("veth1pg4711", False),
        ("veth1pl", False),
        ("veth1pl47x", False),
        ("mo0123456789abc", False),
        ("vpl4711", False),
    ],
)
def test_the_names_of_its_ports(name: str, is_one: bool) -> None:
    assert pipework_names.is_port(name) is is_one


def test_only_links_to_dead_processes_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipework_names, "LINKS", tmp_path / "none")
    assert pipework_names.dead_links() == []
    monkeypatch.setattr(pipework_names, "LINKS", tmp_path)
    links = {"4194304": "/proc/4194304/ns/net", str(os.getpid()): f"/proc/{os.getpid()}/ns/net",
             "4194305": "/proc/4194306/ns/net", "name": "/proc/4194304/ns/net"}  # fmt: skip
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "4194307").touch()
    assert pipework_names.dead_links() == [str(tmp_path / "4194304")]
