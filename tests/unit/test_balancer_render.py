"""Rendered configurations, read back by parsing; runtime answers, commands, files and listeners."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec
import pytest

from mooring.core.errors import Fenced, Refused, Retryable
from mooring.core.model import BindingId, Epoch
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec
from mooring.lb import files, haproxy_diff, haproxy_render, nginx_render
from mooring.lb.generations import Generations
from mooring.lb.haproxy_render import HaproxySettings
from mooring.lb.haproxy_runtime import (
    Server,
    parse_info,
    parse_processes,
    parse_servers,
    parse_unused,
)
from mooring.lb.listeners import children, command_line, foreign_ports
from mooring.lb.model import ServiceKey, Share, Table, fold
from mooring.lb.nginx_render import NginxSettings
from mooring.lb.offenders import offenders

WEB = ServiceSpec(app="/shop/web", index=0, mode="http", port=10000, vhosts=("b.org", "A.org"))
TCP = ServiceSpec(app="/shop/db", index=1, mode="tcp", port=5432, balance="source")
HAPROXY = HaproxySettings(Path("/run/h.cfg"), Path("/run/h.sock"), Path("/run/m.sock"), stats_bind="*:8404")
NGINX = NginxSettings(Path("/srv/nginx"), Path("/run/nginx.pid"), Path("/run/status.sock"))
EPOCH = Epoch(3)


def table(**states: str) -> Table:
    """A table with one HTTP and one TCP service; keywords set states of the web's members."""
    shares = {
        BindingId(name): Share((MemberSpec((Endpoint(WEB, f"10.64.0.{number}", 8080),), state),))
        for number, (name, state) in enumerate(states.items(), start=1)
    }
    shares[BindingId("db")] = Share((MemberSpec((Endpoint(TCP, "fd00::5", 5432),), "up"),))
    return fold(shares)


def sections(text: str) -> dict[str, list[str]]:
    """HAProxy's file as section -> lines."""
    found: dict[str, list[str]] = {}
    last = ""
    for line in text.splitlines():
        if line.startswith("    "):
            found[last].append(line.strip())
        elif not line.startswith("#"):
            last = line
            assert last not in found
            found[last] = []
    return found


def test_haproxy_declares_every_member_and_enables_only_those_up() -> None:
    rendered = haproxy_render.render(table(a="up", b="drain", c="declared"), HAPROXY, EPOCH)
    parts = sections(rendered.text)
    servers = [line.split() for line in parts["backend shop_web_0"] if line.startswith("server ")]
    assert [(words[1], words[2], words[-1] == "disabled") for words in servers] == [
        ("10_64_0_1_8080", "10.64.0.1:8080", False),
        ("10_64_0_2_8080", "10.64.0.2:8080", True),
        ("10_64_0_3_8080", "10.64.0.3:8080", True),
    ]
    assert all("check" in words for words in servers)


def test_haproxy_routes_by_host_or_by_port() -> None:
    parts = sections(haproxy_render.render(table(a="up"), HAPROXY, EPOCH).text)
    routes = [line for line in parts["frontend in:http"] if line.startswith("use_backend")]
    assert routes == [
        f"use_backend shop_web_0 if {{ var(txn.host) -m str {host} }}" for host in ("a.org", "b.org")
    ]
    assert parts["frontend in:shop_db_1"] == ["mode tcp", "bind *:5432", "default_backend shop_db_1"]
    assert "frontend in:shop_web_0" not in parts
    assert "hash-type consistent" in parts["backend shop_db_1"]  # else no server could be added at run time
    assert (
        "server fd00_0000_0000_0000_0000_0000_0000_0005_5432 [fd00::5]:5432" in parts["backend shop_db_1"][3]
    )


def test_haproxys_structure_is_everything_but_the_servers() -> None:
    one = haproxy_render.render(table(a="up"), HAPROXY, EPOCH)
    more = haproxy_render.render(table(a="declared", b="up"), HAPROXY, Epoch(4))
    assert one.structure == more.structure
    assert one.text != more.text
    assert f"structure={one.structure}" in " ".join(sections(one.text)["global"])
    assert haproxy_render.render(table(), HAPROXY, EPOCH).structure != one.structure


def test_reserved_ports_are_those_of_the_balancer() -> None:
    assert HAPROXY.reserved() == {80: "the http frontend", 8404: "the statistics page"}
    assert NGINX.reserved() == {8080: "the http listener"}


def nginx_blocks(text: str, kind: str) -> list[str]:
    """The bodies of all blocks of a kind, whitespace folded."""
    lines = iter(text.splitlines())
    blocks = []
    for line in lines:
        if line.strip().startswith(kind) and line.rstrip().endswith("{"):
            body = [line.strip()]
            while (inner := next(lines).strip()) != "}":
                body.append(inner)
            blocks.append(" ".join(body))
    return blocks


def test_nginx_holds_only_http_members_that_are_up() -> None:
    http = Table(
        tuple(s for s in table(a="up", b="drain", c="declared", d="up").services if s.terms.mode == "http")
    )
    text = nginx_render.render(http, NGINX, EPOCH).text
    assert nginx_blocks(text, "upstream") == [
        "upstream shop_web_0 { server 10.64.0.1:8080; server 10.64.0.4:8080;"
    ]
    (server,) = [block for block in nginx_blocks(text, "server") if "a.org" in block]
    assert "server_name a.org b.org;" in server
    assert "proxy_pass http://shop_web_0;" in server
    assert not nginx_render.serves(TCP)


def test_nginx_answers_503_for_a_service_with_nobody_up() -> None:
    http = Table(tuple(s for s in table(a="declared").services if s.terms.mode == "http"))
    text = nginx_render.render(http, NGINX, EPOCH).text
    assert nginx_blocks(text, "upstream") == []
    (server,) = [block for block in nginx_blocks(text, "server") if "a.org" in block]
    assert "return 503;" in server


def test_nginxs_marker_names_the_content_and_not_the_epoch() -> None:
    http = Table(table(a="up").services[1:])
    one, other = (nginx_render.render(http, NGINX, epoch) for epoch in (EPOCH, Epoch(4)))
    assert one.marker == other.marker
    assert one.text != other.text
    assert f'return 200 "{one.marker}\\n"' in one.text
    assert nginx_render.render(Table(), NGINX, EPOCH).marker != one.marker


def test_every_balance_can_be_rendered() -> None:
    for balance in haproxy_render._BALANCE.keys() | nginx_render._BALANCE.keys():
        service = msgspec.structs.replace(WEB, balance=balance)
        spec = MemberSpec((Endpoint(service, "10.0.0.1", 80),), "up")
        one = fold({BindingId("a"): Share((spec,))})
        assert f"balance {balance}" in haproxy_render.render(one, HAPROXY, EPOCH).text
        assert "upstream" in nginx_render.render(one, NGINX, EPOCH).text


def test_a_file_tells_owner_epoch_and_claims() -> None:
    text = haproxy_render.render(table(a="up"), HAPROXY, EPOCH).text
    mark = files.read_mark(text)
    assert mark is not None
    assert (mark.owner, mark.epoch) == ("mooring", 3)
    assert files.read_claims(text) == {
        "host a.org": ("/shop/web", 0),
        "host b.org": ("/shop/web", 0),
        "port 5432": ("/shop/db", 1),
    }
    assert not files.altered(text)
    assert files.altered(text + "# by hand\n")


def test_only_our_own_files_are_replaced() -> None:
    ours = files.stamped("global\n", "mooring", Epoch(3), {})
    path = Path("/etc/haproxy.cfg")
    for harmless in (None, "", ours, f"global\n{files.INITIAL}\n"):
        files.guard(path, harmless, "mooring", EPOCH, adopt=False)
    files.guard(path, "global\n", "mooring", EPOCH, adopt=True)
    with pytest.raises(Refused, match="does not carry our mark"):
        files.guard(path, "global\n", "mooring", EPOCH, adopt=False)
    with pytest.raises(Refused, match="belongs to"):
        files.guard(path, ours, "somebody", EPOCH, adopt=True)
    with pytest.raises(Fenced, match="epoch 3"):
        files.guard(path, ours, "mooring", Epoch(2), adopt=True)
    with pytest.raises(Refused, match="owner name"):
        files.stamped("", "two words", EPOCH, {})


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.cfg"
    for text in ("one\n", "two\n"):
        files.replace_durably(path, text)
        assert files.read(path) == text
    assert os.listdir(tmp_path) == ["a.cfg"]
    assert files.read(tmp_path / "none") is None


def test_generations_are_whole_numbered_and_pruned(tmp_path: Path) -> None:
    shelf = Generations(tmp_path)
    assert shelf.current() is None
    assert shelf.text() is None
    made = [shelf.add(marker, {"nginx.conf": marker}) for marker in ("aa", "bb", "aa")]
    assert len(set(made)) == 3
    shelf.switch(made[1])
    assert shelf.text() == "bb"
    assert shelf.find("aa") == made[2]
    assert shelf.find("cc") is None
    shelf.prune({made[1], made[2]})
    assert sorted((tmp_path / "generations").iterdir()) == sorted(made[1:])


SERVERS = """1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_port
3 shop_web_0 1 s1 10.0.0.1 0 5 80
3 shop_web_0 2 s2 10.0.0.2 2 4 80
3 shop_web_0 3 s3 10.0.0.3 0 8 80
3 shop_web_0 4 s4 fd00::4 0 0 80

"""


def test_server_states_are_read_by_the_names_of_columns() -> None:
    servers = parse_servers(SERVERS)
    assert [(name, one.state, one.running) for (_, name), one in servers.items()] == [
        ("s1", "declared", False),
        ("s2", "up", True),
        ("s3", "drain", False),
        ("s4", "up", False),
    ]


def test_other_answers_of_haproxy_are_read() -> None:
    info = parse_info("Version: 2.6.12\nPid: 42\ndescription: mooring owner=x structure=abc\n")
    assert (info.pid, info.version, info.structure) == (42, "2.6.12", "abc")
    assert parse_info("Pid: 42\n").structure is None
    connections = (
        "# bkname/svname bkid/svid used_cur idle_cur idle_per_thr[2]\n"
        "b/s1 3/1 0 0 0 0\nb/s2 3/2 1 0 0 0\nb/s3 3/3 0 2 1 1\n"
    )
    assert parse_unused(connections) == {("b", "s1")}


def test_old_workers_do_not_count() -> None:
    text = (
        "#<PID> <type> <reloads> <uptime> <version>\n10 master 4 [failed: 1] 0d00h 2.6\n"
        "# workers\n12 worker 0 0d00h 2.6\n# old workers\n11 worker 1 0d00h 2.6\n# programs\n"
    )
    found = parse_processes(text)
    assert (found.reloads, found.failed, found.workers) == (4, 1, frozenset({12}))
    with pytest.raises(Retryable):
        parse_processes("Permission denied\n")


def test_commands_bring_servers_to_the_table() -> None:
    wanted = haproxy_diff.members(table(a="up", b="drain", c="declared", d="up"))

    def server(number: int, admin: int, address: str | None = None) -> Server:
        name = f"10_64_0_{number}_8080"
        return Server("shop_web_0", name, address or f"10.64.0.{number}", 8080, admin, True)

    shown = [server(1, 5), server(2, 0), server(4, 4, "10.64.0.9"), server(7, 0), server(8, 1)]
    servers = {(one.backend, one.name): one for one in shown}
    commands = haproxy_diff.commands(wanted, servers, {"shop_web_0"}, HAPROXY)
    path = "shop_web_0/10_64_0_"
    assert commands == [
        f"set server {path}1_8080 state ready",
        f"set server {path}4_8080 addr 10.64.0.4 port 8080",
        f"set server {path}4_8080 state ready",
        f"set server {path}2_8080 state drain",
        f"add server {path}3_8080 10.64.0.3:8080 {HAPROXY.server_options}",
        f"enable health {path}3_8080",
        f"set server {path}3_8080 state maint",
        f"set server {path}7_8080 state maint",
    ]
    leftovers = [key for key in servers if key not in wanted]
    assert haproxy_diff.deletions(leftovers, {leftovers[1]}) == [f"del server {path}8_8080"]


async def test_offenders_are_found_by_halving() -> None:
    keys: list[ServiceKey] = [(f"/{number}", 0) for number in range(64)]
    bad = {keys[5], keys[40]}
    asked = 0

    async def judge(tried: object) -> str | None:
        nonlocal asked
        asked += 1
        assert isinstance(tried, set)
        return "no" if tried & bad else None

    assert await offenders(judge, keys, ()) == dict.fromkeys(sorted(bad, key=keys.index), "no")
    assert asked < 30
    assert await offenders(judge, [], ()) == {}


def test_ports_of_others_are_seen_and_our_own_are_not() -> None:
    comm = Path("/proc/self/comm").read_text().strip()
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        assert port not in foreign_ports(os.getpid(), comm)
        child = os.fork()
        if child == 0:
            os.closerange(3, 1024)  # a process that listens on nothing
            os.execvp("sleep", ["sleep", "30"])
        try:
            while Path(f"/proc/{child}/comm").read_text().strip() != "sleep":
                os.sched_yield()
            assert port in foreign_ports(child, "sleep")
            assert foreign_ports(child, "haproxy") == frozenset()
            assert children(os.getpid())[child] == command_line(child) == "sleep 30"
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    assert foreign_ports(child, "sleep") == frozenset()
    assert command_line(child) == ""
