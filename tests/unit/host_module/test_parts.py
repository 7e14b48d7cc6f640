"""Validation, wire forms and comparisons of the host module."""

from __future__ import annotations

import ast
import contextlib
import ipaddress
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mooring.playbooks.module_utils.mooring_host import containers, netlink
from mooring.playbooks.module_utils.mooring_host.announce import gratuitous_arp
from mooring.playbooks.module_utils.mooring_host.containers import Engine, demultiplex
from mooring.playbooks.module_utils.mooring_host.errors import Refused, Retry
from mooring.playbooks.module_utils.mooring_host.links import (
    Interface,
    View,
    differences,
    mac_for,
    routes_for,
)
from mooring.playbooks.module_utils.mooring_host.netlink import Link, Route
from mooring.playbooks.module_utils.mooring_host.orders import Attach, Write, parse
from mooring.playbooks.module_utils.mooring_host.ovsdb import (
    Ovsdb,
    OvsdbRejected,
    OvsdbStale,
    OvsdbUnreachable,
    first,
    mapping,
    members,
    strings,
)

PLAYBOOKS = Path(__file__).parents[3] / "playbooks"
# What runs on the hosts; the action plugin runs where Ansible is.
SOURCES = sorted([*PLAYBOOKS.glob("library/*.py"), *PLAYBOOKS.rglob("module_utils/**/*.py")])
ATTACH = {"op": "attach", "id": "b", "task_id": "t", "app": "/a", "slot": 0, "instance": "i",
          "address": "10.0.0.1", "prefix": 24, "generation": 1}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_the_hosts_python_is_enough(source: Path) -> None:
    tree = ast.parse(source.read_text(), feature_version=(3, 9))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            modules = [node.module or ""]
        else:
            continue
        for module in modules:
            assert module.split(".")[0] in sys.stdlib_module_names or module.startswith(
                "ansible.module_utils."
            )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"op": "dance"}, "dance"),
        ({"op": ["attach"]}, "unknown"),
        ({"address": "10.0.0.256"}, "address"),
        ({"address": 5}, "address"),
        ({"prefix": 33}, "prefix"),
        ({"prefix": True}, "prefix"),
        ({"vlan": 4095}, "vlan"),
        ({"mtu": 68}, "mtu"),
        ({"task_id": ""}, "task_id"),
        ({"instance": "i" * 2000}, "instance"),
        ({"interface": "eth0; reboot"}, "interface"),
        ({"interface": "../../all"}, "interface"),
        ({"interface": "interface-too-long"}, "interface"),
        ({"gateway": "nowhere"}, "gateway"),
        ({"gateway": "fd00::1"}, "family"),
        ({"routes": [{"to": "10.0.0.1/8", "via": None}]}, "routes"),
        ({"routes": ["10.0.0.0/8"]}, "routes"),
        ({"routes": [{"via": "10.0.0.1"}]}, "routes"),
    ],
)
def test_bad_orders_are_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(Refused, match=word):
        parse({**ATTACH, **changes})


PAIRED = {**ATTACH, "address6": "fd00:64::a00:1", "prefix6": 64}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"address6": "10.0.0.2"}, "address6"),
        ({"address": "fd00::1", "address6": "fd00::2"}, "address6"),
        ({"address6": "nowhere"}, "address6"),
        ({"prefix6": 129}, "prefix6"),
        ({"prefix6": None}, "prefix6"),
        ({"mtu": 1279}, "mtu"),
        ({"routes": [{"to": "fd01::/16", "via": "10.0.0.9"}]}, "family"),
    ],
)
def test_bad_pairs_are_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(Refused, match=word):
        parse({**PAIRED, **changes})


def test_a_pair_has_routes_of_both_families() -> None:
    both = {"gateway": "10.0.0.254", "gateway6": "fe80::1", "routes": [{"to": "fd01::/16", "via": None}]}
    order = parse({**PAIRED, **both})
    assert isinstance(order, Attach)
    assert [(str(address), prefix) for address, prefix in order.addresses] == [
        ("10.0.0.1", 24), ("fd00:64::a00:1", 64),
    ]  # fmt: skip
    assert {str(route.to) for route in order.routes} == {"0.0.0.0/0", "::/0", "fd01::/16"}
    with pytest.raises(Refused, match="family"):
        parse({**ATTACH, **both})


def test_a_detach_names_something() -> None:
    with pytest.raises(Refused, match="instance, an address or both"):
        parse({"op": "detach", "id": "d"})


def test_a_write_order_has_defaults() -> None:
    order = parse({"op": "write", "id": "w", "task_id": "t", "path": "/a", "content": "ä", "digest": "d"})
    assert isinstance(order, Write)
    assert (order.mode, order.command, order.signal, order.content) == (0o644, [], None, "ä".encode())


def test_macs_derive_from_addresses() -> None:
    assert mac_for(ipaddress.ip_address("10.64.0.10")) == "02:00:0a:40:00:0a"
    six = mac_for(ipaddress.ip_address("fd00::1"))
    assert six.startswith("06:00:")
    assert six != mac_for(ipaddress.ip_address("fd00::2"))


def test_the_gateway_becomes_the_default_route() -> None:
    routes = routes_for(["10.0.0.1", "fe80::1"], [("192.0.2.0/24", None)])
    assert {(str(route.to), str(route.via)) for route in routes} == {
        ("0.0.0.0/0", "10.0.0.1"), ("::/0", "fe80::1"), ("192.0.2.0/24", "None"),
    }  # fmt: skip
    assert routes_for([None], []) == frozenset()


ADDRESS = ipaddress.ip_address("10.0.0.1")
DEFAULT = Route(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_address("10.0.0.254"))
EXTRA = Route(ipaddress.ip_network("192.0.2.0/24"), None)
WANTED = Interface("eth0", ((ADDRESS, 24),), "02:00:0a:00:00:01", 1400, frozenset({DEFAULT}), False, "ours")
LINK = Link(2, "eth0", True, "02:00:0a:00:00:01", 1400, 7, "ours")
VIEW = View(LINK, frozenset({(ADDRESS, 24)}), {DEFAULT: netlink.ROUTE_PROTOCOL}, False)
PARTNER = ipaddress.ip_address("fd00:64::10.0.0.1")
FORMER = ipaddress.ip_address("fd00:65::10.0.0.1")
OTHERS = ipaddress.ip_address("fd00:64::10.0.0.2")


@pytest.mark.parametrize(
    ("view", "found"),
    [
        (VIEW, []),
        (replace(VIEW, link=replace(LINK, mtu=1500)), ["mtu"]),
        (replace(VIEW, link=replace(LINK, up=False)), ["link"]),
        (replace(VIEW, link=replace(LINK, mac="02:00:00:00:00:00", alias="")), ["mac", "alias"]),
        (replace(VIEW, offload=True, unset=frozenset({(4, "arp_notify")})), ["offload", "settings"]),
        (replace(VIEW, loops=False), ["loopback"]),
        (replace(VIEW, addresses=frozenset()), ["address"]),
        (replace(VIEW, addresses=frozenset({(ADDRESS, 16), (ADDRESS, 24)})), ["address"]),
        (replace(VIEW, addresses=frozenset({(ADDRESS, 24), (ADDRESS + 1, 24)})), []),
        (replace(VIEW, addresses=frozenset({(ADDRESS, 24), (PARTNER, 64)})), ["address"]),
        (replace(VIEW, addresses=frozenset({(ADDRESS, 24), (OTHERS, 64)})), []),
        (replace(VIEW, routes={}), ["routes"]),
        (replace(VIEW, routes={DEFAULT: 3, EXTRA: netlink.ROUTE_PROTOCOL}), ["routes"]),
        (replace(VIEW, routes={DEFAULT: 3, EXTRA: 3}), []),
    ],
)
def test_differences_are_named(view: View, found: list[str]) -> None:
    assert differences(view, WANTED) == found


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        ({(ADDRESS, 24), (PARTNER, 64)}, []),
        ({(ADDRESS, 24)}, ["address"]),
        ({(PARTNER, 64)}, ["address"]),
        ({(ADDRESS, 24), (PARTNER, 96)}, ["address"]),
        ({(ADDRESS, 24), (PARTNER, 64), (FORMER, 64)}, ["address"]),
        ({(ADDRESS, 24), (PARTNER, 64), (OTHERS, 64)}, []),
    ],
)
def test_an_interface_has_both_addresses_and_no_former_partner(
    addresses: set[tuple[Any, int]], found: list[str]
) -> None:
    both = replace(WANTED, addresses=((ADDRESS, 24), (PARTNER, 64)))
    assert differences(replace(VIEW, addresses=frozenset(addresses)), both) == found


def test_what_is_not_asked_for_does_not_differ() -> None:
    view = replace(VIEW, offload=True, link=replace(LINK, mtu=9000))
    assert differences(view, replace(WANTED, mtu=None, offload=True)) == []


def test_netlink_attributes_round_trip_with_padding() -> None:
    data = netlink.attribute(3, b"eth0\0") + netlink.attribute(4 | netlink.NLA_F_NESTED, b"\1\2")
    assert len(data) % 4 == 0
    assert netlink.attributes(data) == {3: b"eth0\0", 4: b"\1\2"}
    assert netlink.attributes(b"\0\0\0\0trailing") == {}


def test_a_gratuitous_arp_names_the_address_twice() -> None:
    frame = gratuitous_arp("02:00:0a:00:00:01", ADDRESS)
    assert len(frame) == 42
    assert frame[:6] == b"\xff" * 6
    assert frame[12:14] == b"\x08\x06"
    assert frame[28:32] == frame[38:42] == ADDRESS.packed
    assert frame[6:12] == frame[22:28] == bytes.fromhex("02000a000001")


def test_attached_output_is_joined_from_both_streams() -> None:
    stream = b"\1\0\0\0\0\0\0\3out\2\0\0\0\0\0\0\4 err\1\0\0"
    assert demultiplex(stream) == "out err"


def test_a_silent_engine_costs_a_call_its_time_once(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "engine.sock"))
        deaf.listen()
        engine = Engine(str(tmp_path / "engine.sock"), timeout_s=0.2)
        before = time.monotonic()
        for _ in range(10):
            with pytest.raises(Retry, match="does not answer"):
                engine.find("any.task")
        assert time.monotonic() - before < 1.0


@pytest.mark.parametrize(("pause_s", "longest"), [(0.02, 1 << 20), (0.0, 4096)])
def test_an_answer_without_end_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pause_s: float, longest: int
) -> None:
    monkeypatch.setattr(containers, "LONGEST_ANSWER", longest)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "engine.sock"))
        listener.listen()

        def trickle() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):  # until the other side has had enough
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(b"more")
                    time.sleep(pause_s)

        server = threading.Thread(target=trickle, daemon=True)
        server.start()
        with pytest.raises(
            Retry, match="timed out|did not end in time" if pause_s else "longer than 4096 bytes"
        ):
            Engine(str(tmp_path / "engine.sock")).request("GET", "/", timeout_s=0.3 if pause_s else 5.0)
        server.join(5)
        assert not server.is_alive()


def test_wire_forms_of_the_database() -> None:
    assert mapping(strings({"b": "2", "a": "1"})) == {"a": "1", "b": "2"}
    assert members(["set", [1, 2]]) == [1, 2]
    assert members(["uuid", "x"]) == [["uuid", "x"]]
    assert (first(["set", []]), first(5)) == (None, 5)


class DatabaseServer:
    """Answers like ovsdb-server, but torn to pieces and with a probe of its own in between."""

    def __init__(self, path: str) -> None:
        self.results: list[Any] = []
        self.echoed: list[Any] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        buffer = ""
        with connection:
            while data := connection.recv(4096):
                buffer += data.decode()
                while buffer:
                    message, end = json.JSONDecoder().raw_decode(buffer)
                    buffer = buffer[end:]
                    if "method" not in message:
                        self.echoed.append(message["result"])
                    elif self.results[0] is None:
                        return
                    else:
                        self._answer(connection, message["id"], self.results.pop(0))

    @staticmethod
    def _answer(connection: socket.socket, number: int, result: Any) -> None:
        echo = json.dumps({"method": "echo", "params": ["}ä{"], "id": "echo"}, ensure_ascii=False)
        whole = (echo + json.dumps({"id": number, "error": None, "result": result})).encode()
        for place in range(0, len(whole), 5):
            connection.sendall(whole[place : place + 5])

    def close(self) -> None:
        self._listener.close()
        self._thread.join(5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DatabaseServer]:
    made = DatabaseServer(str(tmp_path / "db"))
    yield made
    made.close()


def test_torn_answers_and_probes_are_understood(server: DatabaseServer, tmp_path: Path) -> None:
    server.results = [
        [{"rows": ["ä}"]}],
        [{}, {"error": "timed out"}],
        [{"error": "constraint violation"}],
        None,
    ]
    database = Ovsdb(str(tmp_path / "db"), timeout_s=5.0)
    try:
        assert database.transact([]) == [{"rows": ["ä}"]}]
        with pytest.raises(OvsdbStale):
            database.transact([])
        with pytest.raises(OvsdbRejected, match="constraint violation"):
            database.transact([])
        with pytest.raises(OvsdbUnreachable):
            database.transact([])
        assert server.echoed == [["}ä{"]] * 3
    finally:
        database.close()


def test_a_missing_database_is_named(tmp_path: Path) -> None:
    with pytest.raises(OvsdbUnreachable, match=str(tmp_path / "no")):
        Ovsdb(str(tmp_path / "no"))
