"""The program pipework: what we count on in it, and what becomes of a container under our rules around it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mooring.handlers.ansible import AnsibleRunner
from mooring.handlers.plays import Flying
from mooring.handlers.warm.runner import WarmRunner
from mooring.playbooks.module_utils.mooring_host import leftovers, pipework, pipework_names
from mooring.playbooks.module_utils.mooring_host.guards import FIRST_NUMBER, LAST_NUMBER

from .rig import BRIDGE, HostRig, run, until
from .speaking import dropped, has_rules, heard, lies_of, number_of, speaker_of
from .test_ports import order, ours, removal
from .wired import Pipework, installed, port_for, process_of, tag_of

pytestmark = pytest.mark.root
MAC = "02:00:00:00:77:01"


@pytest.fixture(params=["stand-in", "real"])
def program(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Pipework]:
    """Each of the two in turn, in PATH."""
    with installed(request.param, tmp_path) as made:
        monkeypatch.setenv("PATH", made.path)
        yield made


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a script in the place of the program."""

    def write(script: str) -> None:
        (tmp_path / "pipework").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "pipework").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return write


def do(rig: HostRig, *operations: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    return rig.do(*operations, wiring="pipework", **settings)


def attached(rig: HostRig, **changes: Any) -> tuple[dict[str, Any], str, str]:
    """A container that pipework has wired for us: (order, container id, port name)."""
    task, container = rig.container()
    asked = order(task, **changes)
    [result] = do(rig, asked)
    assert (result["status"], result["changed"]) == ("done", True), result
    return asked, container, result["port"]


def names_of(rig: HostRig, container: str) -> set[str]:
    """What there is on the host by the names that pipework gives for a container."""
    process = process_of(rig, container)
    return {
        name for name in (*rig.ports(), *rig.devices()) if name.endswith((f"pl{process}", f"pg{process}"))
    }


def dead_port(rig: HostRig, name: str, *marks: str) -> str:
    """A port without a device; the switch's client complains of that and adds it all the same."""
    words = ["add-port", BRIDGE, name, *(["--", "set", "Port", name, *marks] if marks else [])]
    run("ovs-vsctl", f"--db=unix:{rig.database}", "--timeout=10", *words, check=False)
    return name


# -- the program itself


def test_its_command_line_makes_what_its_documentation_says(rig: HostRig, program: Pipework) -> None:
    _, container = rig.container()
    words = (BRIDGE, "-i", "eth5", container, "10.64.1.201/22@10.64.0.1", f"{MAC}@77")
    done = program.run(rig, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    port = port_for(rig, container, "eth5")
    assert port in rig.ports()
    assert port in rig.devices()
    assert tag_of(rig, port) == "77"
    inside = rig.inside(container, "ip", "address", "show", "eth5")
    assert "10.64.1.201/22" in inside
    assert MAC in inside
    assert "default via 10.64.0.1 dev eth5" in rig.inside(container, "ip", "route")
    link = Path("/var/run/netns", process_of(rig, container))
    assert not link.is_symlink()
    again = program.run(rig, *words)
    assert again.returncode in (1, 2), "its own, or that of the `ip` that failed"
    assert link.is_symlink(), "a second run leaves it behind"
    link.unlink()


def test_it_does_not_put_right_a_port_that_was_left_under_its_name(rig: HostRig, program: Pipework) -> None:
    _, container = rig.container()
    port = port_for(rig, container, "eth0")
    run(
        "ovs-vsctl",
        f"--db=unix:{rig.database}",
        "--timeout=10",
        "add-port",
        BRIDGE,
        port,
        "tag=666",
        check=False,
    )
    done = program.run(rig, BRIDGE, "-i", "eth0", container, "10.64.1.202/22", f"{MAC}@77")
    assert done.returncode != 0 or tag_of(rig, port) == "666"
    rig.vsctl("del-port", BRIDGE, port)
    Path("/var/run/netns", process_of(rig, container)).unlink(missing_ok=True)


# -- under our rules


def test_a_container_is_wired_by_it_and_marked_by_us(rig: HostRig, program: Pipework) -> None:
    asked, container, port = attached(rig, mtu=1400, routes=[{"to": "10.9.0.0/16", "via": "10.64.0.1"}])
    assert port == port_for(rig, container, "eth0")
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], "an answer, by TCP")
    [seen] = ours(rig, asked["address"])
    assert (seen["port"], seen["connected"], seen["alive"], seen["adopted"]) == (port, True, True, False)
    routes = rig.inside(container, "ip", "route").splitlines()
    assert sorted(line.split(" dev")[0] for line in routes) == [
        "10.64.0.0/22", "10.9.0.0/16 via 10.64.0.1", "default via 10.64.0.1"
    ]  # fmt: skip
    link = rig.inside(container, "ip", "address", "show", "eth0")
    assert "mtu 1400" in link
    assert f"02:00:0a:40:00:{int(asked['address'].split('.')[3]):02x}" in link
    assert rig.inside(container, "cat", "/proc/sys/net/ipv4/conf/eth0/arp_notify") == "1"
    assert not Path("/var/run/netns", process_of(rig, container)).is_symlink()
    [again] = do(rig, asked)
    assert (again["status"], again["changed"], again["port"]) == ("done", False, port)
    [native] = rig.do(asked)
    assert (native["changed"], native["port"]) == (False, port), "either way finds what the other has made"


def test_its_guards_stand_when_the_attach_answers(rig: HostRig, program: Pipework) -> None:
    asked, container, port = attached(rig)
    number, who = number_of(rig, port), speaker_of(rig, asked, container, port)
    assert not FIRST_NUMBER <= number <= LAST_NUMBER
    lies, true = lies_of(who)
    assert heard(rig, who, lies, true) == set()
    assert dropped(rig, who) == {"address": 1, "mac": 1, "arp": 1}
    do(rig, removal(asked))
    assert not has_rules(rig, number)


def test_a_pair_gets_its_second_address_from_us(rig: HostRig, program: Pipework) -> None:
    second = {"address6": "fd00:64::77:1", "prefix6": 64, "gateway6": "fd00:64::1"}
    asked, container, port = attached(rig, **second)
    inside_ = rig.inside(container, "ip", "address", "show", "eth0")
    assert (asked["address"] in inside_, "fd00:64::77:1/64" in inside_) == (True, True)
    assert "default via fd00:64::1" in rig.inside(container, "ip", "-6", "route")
    assert "default via 10.64.0.1" in rig.inside(container, "ip", "route")
    [again] = do(rig, asked)
    assert (again["status"], again["changed"], again["port"]) == ("done", False, port)


def test_its_port_is_limited_like_any_other(rig: HostRig, program: Pipework) -> None:
    asked, _, _ = attached(rig, rate_out=20_000_000, rate_in=10_000_000)
    [seen] = ours(rig, asked["address"])
    assert (seen["rate_out"], seen["rate_in"]) == (20_000_000, 10_000_000)
    assert rig.do({**asked, "rate_out": None, "rate_in": None})[0]["changed"]  # lifted again


def test_detach_is_ours(rig: HostRig, program: Pipework) -> None:
    asked, container, port = attached(rig)
    [result] = do(rig, removal(asked))
    assert result["removed"] == [port]
    assert names_of(rig, container) == set()
    assert "eth0" not in rig.inside(container, "ip", "link")


def test_a_port_left_under_its_name_with_another_vlan_ends_with_the_right_one(
    rig: HostRig, program: Pipework
) -> None:
    """As when a process id is used again: the old port is dead, and its name is chosen again."""
    task, container = rig.container()
    port = port_for(rig, container, "eth0")
    run(
        "ovs-vsctl",
        f"--db=unix:{rig.database}",
        "--timeout=10",
        "add-port",
        BRIDGE,
        port,
        "tag=666",
        check=False,
    )
    assert port in rig.ports()
    asked = order(task)
    [result] = do(rig, asked)
    assert (result["status"], result["port"], result["removed"]) == ("done", port, [port])
    assert tag_of(rig, port) == "[]"
    until(lambda: rig.fetch(asked["address"]) == task, "an answer outside of the old VLAN")


def test_another_address_under_the_same_name_is_reached(rig: HostRig, program: Pipework) -> None:
    """The process is the same and so is the name; the switch loses all traffic of a device made anew."""
    asked, container, port = attached(rig)
    moved = order(asked["task_id"], instance=asked["instance"], vlan=None)
    [result] = do(rig, moved)
    assert (result["status"], result["port"], result["removed"]) == ("done", port, [port])
    until(lambda: rig.fetch(moved["address"]) == asked["task_id"], "an answer on the new address")
    assert asked["address"] not in rig.inside(container, "ip", "address")


def test_a_restarted_container_is_wired_anew(rig: HostRig, program: Pipework) -> None:
    asked, container, port = attached(rig)
    rig.docker("restart", "-t", "0", container)
    [result] = do(rig, asked)
    assert (result["status"], result["removed"]) == ("done", [port])
    assert [seen["port"] for seen in ours(rig, asked["address"])] == [port_for(rig, container, "eth0")]
    until(lambda: rig.fetch(asked["address"]) == asked["task_id"], "an answer after the restart")


def test_many_in_one_call_each_get_their_vlan(rig: HostRig, program: Pipework) -> None:
    orders = [order(rig.container()[0], vlan=vlan) for vlan in (None, 41, 42)]
    results = do(rig, *orders)
    assert [result["status"] for result in results] == ["done"] * 3
    assert [seen["vlan"] for asked in orders for seen in ours(rig, asked["address"])] == [None, 41, 42]


@pytest.mark.parametrize("way", ["single", "warm", "program"])
async def test_a_host_is_wired_as_its_own_variable_says_or_as_usual(
    rig: HostRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """By plays one by one and warm, by the module and by the program on the host."""
    with installed("stand-in", tmp_path) as program:
        monkeypatch.setenv("PATH", program.path)
    python = tmp_path / "python3"
    python.write_text(f'#!/bin/sh\nexec nsenter --net=/run/netns/{rig.name} /usr/bin/python3 "$@"\n')
    python.chmod(0o755)
    inventory = tmp_path / "inventory.ini"
    inventory.write_text(
        f"usual\nown mooring_wiring=native\nwrong mooring_wiring=docker\n"
        f"[all:vars]\nansible_connection=local\nansible_python_interpreter={python}\nmooring_database={rig.database}\n"
        f"mooring_engine={rig.engine}\nmooring_state_dir={rig.state_dir}\n"
    )
    helpers = str(tmp_path / "helpers")
    flying = Flying(inventory, "mooring", BRIDGE, helpers, wiring="pipework", clean_pipework=True)
    told: list[str] = []
    single = AnsibleRunner(flying)
    runner = single if way == "single" else WarmRunner(flying, helped=lambda _, version: told.append(version))
    try:
        if way == "program":
            await single.install("usual")
        for host, prefix in (("usual", "veth0pl"), ("own", "mo")):
            [result] = await runner.run(host, [order(rig.container()[0])], 1)
            assert result["status"] == "done", result
            assert str(result["port"]).startswith(prefix)
        [result] = await runner.run("wrong", [order(rig.container()[0])], 1)
        assert (result["status"], result["reason"]) == (
            "refused", "mooring_wiring is 'docker' for this host; set it to native or pipework"
        )  # fmt: skip
        assert all(bool(version) == (way == "program") for version in told)
    finally:
        await runner.close()
        if runner is not single:
            await single.close()


# -- refused, and gone wrong


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (
            {"address": "fd00:64::9", "prefix": 64, "gateway": None},
            "IPv6 gateway wrongly; set mooring_wiring=native",
        ),
        ({"interface": "container0"}, "a name has 15 characters at most; shorten ansible.interface"),
    ],
)
def test_what_it_cannot_do_right_is_refused(
    rig: HostRig, faulty: Any, changes: dict[str, Any], reason: str
) -> None:
    faulty("exit 0")
    task, container = rig.container()
    [result] = do(rig, order(task, **changes))
    assert (result["status"], reason in result["reason"]) == ("refused", True), result
    assert rig.inside(container, "ls", "/sys/class/net") == "lo"


def test_a_host_without_the_program_says_so(rig: HostRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(pipework, "ALSO_IN", "/nonexistent/too")
    [result] = do(rig, order(rig.container()[0]))
    assert result["status"] == "refused"
    assert "has no such program in PATH or /nonexistent/too; install it there" in result["reason"]


HALF = f"""
process=$(docker inspect '--format={{{{ .State.Pid }}}}' $4)
ln -s /proc/$process/ns/net /var/run/netns/$process
ip link add name v$3pl$process type veth peer name v$3pg$process
ovs-vsctl add-port {BRIDGE} v$3pl$process
"""


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("exit 0", "ended with 0, but the container has no eth0; it said nothing"),
        ("echo no such container; exit 1", "ended with 1; it said: no such container"),
        (HALF + "echo half; exit 1", "ended with 1; it said: half"),
        (HALF + "sleep 60.015 & sleep 60.015", "did not end within 1 s"),
        (HALF, "ended with 0, but the container has no eth0"),
        # With the interface in place and its port on no bridge.
        (
            HALF + "ovs-vsctl del-port v$3pl$process; ip link set v$3pg$process netns $process;"
            "nsenter --net=/proc/$process/ns/net ip link set v$3pg$process name $3",
            f"leads to no port of bridge {BRIDGE}",
        ),
    ],
)
def test_what_it_did_is_read_back_and_taken_back(
    rig: HostRig, faulty: Any, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setattr(pipework, "RUN_S", 1.0)
    faulty(script)
    task, container = rig.container()
    [result] = do(rig, order(task))
    assert (result["status"], reason in result["reason"]) == ("retry", True), result
    assert names_of(rig, container) == set()
    assert rig.inside(container, "ls", "/sys/class/net") == "lo"
    assert not Path("/var/run/netns", process_of(rig, container)).is_symlink()
    assert not [line for line in run("ps", "-eo", "args").splitlines() if line == "sleep 60.015"]


def test_one_that_fails_does_not_harm_the_others(rig: HostRig, program: Pipework) -> None:
    good = order(rig.container()[0])
    bad = order(rig.container()[0], address="fd00:64::a", prefix=64, gateway=None)
    results = do(rig, bad, good)
    assert [result["status"] for result in results] == ["refused", "done"]


# -- what it leaves behind


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of namespaces of our own: the machine's is everybody's."""
    made = tmp_path / "netns"
    made.mkdir()
    monkeypatch.setattr(pipework_names, "LINKS", made)
    monkeypatch.setattr(leftovers, "APART_S", 0.0)
    return made


def left(rig: HostRig) -> list[str]:
    [report] = rig.do({"op": "observe", "id": "o"})
    return [str(item.get("port") or item.get("link")) for item in report["leftovers"]]


def any_detach() -> dict[str, Any]:
    return {"op": "detach", "id": "d", "address": "10.64.3.250"}


def test_what_nobody_marked_is_told_and_removed_only_if_asked(rig: HostRig, links: Path) -> None:
    port = dead_port(rig, "veth1pl4194300", "tag=9")
    others = dead_port(rig, "veth1pl4194301", "external_ids:somebody=else")
    another_name = dead_port(rig, "tap4194302")
    dead, alive = links / "4194304", links / str(os.getpid())
    for link in (dead, alive):
        link.symlink_to(f"/proc/{link.name}/ns/net")
    (links / "name").touch()
    assert left(rig) == [port, str(dead)]
    for _ in range(2):
        do(rig, any_detach())
    assert left(rig) == [port, str(dead)], "without leave nothing of it is touched"
    rig.do(any_detach(), clean_pipework=True, check=True)
    for _ in range(2):
        rig.do(any_detach(), clean_pipework=True)
    assert left(rig) == []
    assert {others, another_name} <= set(rig.ports())
    assert {path.name for path in links.iterdir()} == {alive.name, "name"}
    for name in (others, another_name):
        rig.vsctl("del-port", BRIDGE, name)


def test_what_is_dead_must_be_seen_twice(rig: HostRig, links: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = dead_port(rig, "veth1pl4194303")
    monkeypatch.setattr(leftovers, "APART_S", 3600.0)
    for _ in range(3):
        rig.do(any_detach(), clean_pipework=True)
    assert port in rig.ports(), "three calls at once are one sight"
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1e9)
    rig.do(any_detach(), clean_pipework=True)
    assert port not in rig.ports()


def test_our_own_dead_port_is_left_to_a_detach_by_its_name(
    rig: HostRig, program: Pipework, links: Path
) -> None:
    asked, container, port = attached(rig)
    number = number_of(rig, port)
    alive, _, living = attached(rig)
    rig.docker("kill", container)
    until(lambda: port not in rig.devices(), "the device to vanish")
    for _ in range(2):
        do(rig, any_detach(), clean_pipework=True)
    assert {port, living} <= set(rig.ports()), "a mark is the caller's to judge"
    [dead] = ours(rig, asked["address"])
    assert (dead["alive"], left(rig)) == (False, [])
    [result] = do(rig, {"op": "detach", "id": "d", "port": port, "container": dead["container"]})
    assert result["removed"] == [port]
    assert port not in rig.ports()
    assert not has_rules(rig, number)
    assert living in rig.ports()
    assert rig.fetch(alive["address"]) == alive["task_id"]


def test_the_program_gets_a_small_environment(rig: HostRig, faulty: Any, tmp_path: Path) -> None:
    faulty(f"env > {tmp_path}/seen; exit 1")
    do(rig, order(rig.container()[0]))
    seen = {line.partition("=")[0] for line in (tmp_path / "seen").read_text().splitlines()}
    assert seen - {"PWD", "SHLVL", "_", "OLDPWD"} == {"PATH", "LC_ALL", "HOME", "OVS_RUNDIR", "DOCKER_HOST"}
