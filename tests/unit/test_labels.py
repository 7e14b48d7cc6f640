"""Labels at the door: what is taken, and how what is not taken is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import LabelRefused
from mooring.core.labels import Claim, IpPolicy, Rules, parse_claim
from mooring.core.model import App, AppId, Port
from mooring.ipam.pools import Pool

RULES = Rules(
    pools={
        "shop": Pool.parse("shop", "10.64.0.0/22", gateway="10.64.0.1"),
        "bank": Pool.parse("bank", "10.65.0.0/24", groups=["/bank"]),
    },
    balancer_groups=frozenset({"external"}),
)


def app(labels: dict[str, str], **changes: object) -> App:
    fields: dict[str, object] = {"instances": 1, "ports": (Port(8080, 10000),), **changes}
    return App(AppId("/shop/web"), labels=labels, **fields)  # type: ignore[arg-type]


def claim(labels: dict[str, str], **changes: object) -> Claim:
    return parse_claim(app(labels, **changes), RULES)


def test_an_app_without_our_labels_asks_for_nothing() -> None:
    assert claim({"team": "web"}) == Claim(AppId("/shop/web"), ports=(8080,), tcp_ports=(8080,))


def test_pool_ports_and_policy() -> None:
    got = claim({"MOORING_POOL": "shop", "MOORING_PORTS": "80, 443"}, ports=())
    assert (got.pool, got.ports, got.policy) == ("shop", (80, 443), IpPolicy.SLOT)


def test_mapped_ports_win_over_the_label() -> None:
    assert claim({"MOORING_PORTS": "80"}).ports == (8080,)


def test_a_port_that_is_not_known_keeps_its_place() -> None:
    labels = {"HAPROXY_GROUP": "external"}
    got = claim(labels, ports=(Port(None, 10000), Port(8080, 10001)))
    assert (got.ports, got.tcp_ports) == ((0, 8080), (8080,))
    assert [(service.index, service.port, got.ports[service.index]) for service in got.services] == [
        (0, 10000, 0),
        (1, 10001, 8080),
    ]


@pytest.mark.parametrize(
    ("labels", "ports", "listed", "probed"),
    [
        ({}, (Port(53, None, "udp"), Port(53, None, "tcp"), Port(80, None)), (53, 53, 80), (53, 80)),
        ({}, (Port(53, None, "udp"),), (53,), ()),
        ({}, (Port(53, None, "udp,tcp"),), (53,), (53,)),
        ({}, (Port(None, 10000),), (), ()),
        ({"MOORING_PORTS": "53,80"}, (Port(None, None, "udp"),), (53, 80), (80,)),
        ({"MOORING_PORTS": "80,80"}, (), (80, 80), (80,)),
    ],
)
def test_only_ports_of_tcp_are_probed(
    labels: dict[str, str], ports: tuple[Port, ...], listed: tuple[int, ...], probed: tuple[int, ...]
) -> None:
    got = claim(labels, ports=ports)
    assert (got.ports, got.tcp_ports) == (listed, probed)


def test_marathon_lb_labels() -> None:
    labels = {"HAPROXY_GROUP": "internal,external", "HAPROXY_0_VHOST": "Shop.Example,www.shop.example"}
    (service,) = claim(labels).services
    assert (service.mode, service.vhosts, service.port) == (
        "http",
        ("shop.example", "www.shop.example"),
        10000,
    )


@pytest.mark.parametrize(
    "labels", [{"HAPROXY_GROUP": "internal"}, {}, {"HAPROXY_GROUP": "external", "HAPROXY_0_ENABLED": "false"}]
)
def test_not_balanced_here(labels: dict[str, str]) -> None:
    assert claim(labels).services == ()


def test_tcp_is_the_default_mode_without_a_vhost() -> None:
    (service,) = claim({"HAPROXY_GROUP": "external"}).services
    assert service.mode == "tcp"


NOTIFY = {"MOORING_NOTIFY_FROM": "/db", "MOORING_NOTIFY_PATH": "/etc/x"}
BALANCED = {"HAPROXY_GROUP": "external"}
REFUSED = {
    "pool that does not exist": ({"MOORING_POOL": "nowhere"}, "MOORING_POOL", "no pool 'nowhere'"),
    "pool of somebody else": ({"MOORING_POOL": "bank"}, "MOORING_POOL", "kept for /bank"),
    "shell text for a pool": ({"MOORING_POOL": ";rm -rf /"}, "MOORING_POOL", "no pool"),
    "10 KB of text": ({"MOORING_POOL": "x" * 10240}, "MOORING_POOL", "10240 characters"),
    "unknown label": ({"MOORING_POOOL": "shop"}, "MOORING_POOOL", "unknown label"),
    "port zero": ({"MOORING_PORTS": "0"}, "MOORING_PORTS", "not a port"),
    "port in other digits": ({"MOORING_PORTS": "٨٠"}, "MOORING_PORTS", "not a port"),
    "port behind zeros": ({"MOORING_PORTS": "000000008099999"}, "MOORING_PORTS", "not a port"),
    "port of 5000 digits": ({"MOORING_PORTS": "0" * 4000 + "8" * 1000}, "MOORING_PORTS", "not a port"),
    "ttl behind zeros": ({"MOORING_DNS_TTL": "0000000060" + "9" * 9}, "MOORING_DNS_TTL", "not a number"),
    "ttl of 5000 digits": ({"MOORING_DNS_TTL": "1" * 5000}, "MOORING_DNS_TTL", "not a number"),
    "service port behind zeros": (
        BALANCED | {"HAPROXY_0_PORT": "000000000199999"},
        "HAPROXY_0_PORT",
        "not a number",
    ),
    "value that grows when quoted": ({"MOORING_DNS_NAME": "\U000e0001" * 60}, "MOORING_DNS_NAME", "RFC 1123"),
    "shell operator of a kilobyte": (
        NOTIFY | {"MOORING_NOTIFY_COMMAND": "a " + "|" * 1000},
        "MOORING_NOTIFY_COMMAND",
        "no shell",
    ),
    "300 parentheses": (
        NOTIFY | {"MOORING_NOTIFY_TEMPLATE": "{{ " + "(" * 300 + "1" + ")" * 300 + " }}"},
        "MOORING_NOTIFY_TEMPLATE",
        "nested too deeply",
    ),
    "110 nested ifs": (
        NOTIFY | {"MOORING_NOTIFY_TEMPLATE": "{% if 1 %}" * 110 + "{% endif %}" * 110},
        "MOORING_NOTIFY_TEMPLATE",
        "nested more than",
    ),
    "template error with a line break": (
        NOTIFY | {"MOORING_NOTIFY_TEMPLATE": "{{ apps['a\nb" + "c" * 1000 + "'] }}"},
        "MOORING_NOTIFY_TEMPLATE",
        "has no attribute",
    ),
    "policy": ({"MOORING_IP_POLICY": "forever"}, "MOORING_IP_POLICY", "slot, task, pinned"),
    "addresses without policy": ({"MOORING_IPS": "10.64.0.9"}, "MOORING_IPS", "MOORING_IP_POLICY=pinned"),
    "vhost with a line break": (
        BALANCED | {"HAPROXY_0_VHOST": "a.example\nuser root"},
        "HAPROXY_0_VHOST",
        "not a host name",
    ),
    "mode": (BALANCED | {"HAPROXY_0_MODE": "http\n"}, "HAPROXY_0_MODE", "not http or tcp"),
    "dns name": ({"MOORING_DNS_NAME": "a..b"}, "MOORING_DNS_NAME", "not a host name"),
    "ttl": ({"MOORING_DNS_TTL": "-1"}, "MOORING_DNS_TTL", "not a number"),
    "notify without path": ({"MOORING_NOTIFY_FROM": "/db"}, "MOORING_NOTIFY_PATH", "is missing"),
    "path upwards": (
        NOTIFY | {"MOORING_NOTIFY_PATH": "/etc/../root/x"},
        "MOORING_NOTIFY_PATH",
        "plain absolute",
    ),
    "path in proc": (NOTIFY | {"MOORING_NOTIFY_PATH": "/proc/self/mem"}, "MOORING_NOTIFY_PATH", "lies in"),
    "shell in a command": (
        NOTIFY | {"MOORING_NOTIFY_COMMAND": "true; rm -rf /"},
        "MOORING_NOTIFY_COMMAND",
        "no shell",
    ),
    "template reads the host": (
        NOTIFY | {"MOORING_NOTIFY_TEMPLATE": "{% include '/etc/passwd' %}"},
        "MOORING_NOTIFY_TEMPLATE",
        "include is not allowed",
    ),
    "signal": (NOTIFY | {"MOORING_NOTIFY_SIGNAL": "KILL"}, "MOORING_NOTIFY_SIGNAL", "not one of"),
    "source": (NOTIFY | {"MOORING_NOTIFY_FROM": "db"}, "MOORING_NOTIFY_FROM", "absolute app id"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_app_label_and_reason(case: str) -> None:
    labels, label, reason = REFUSED[case]
    with pytest.raises(LabelRefused) as refusal:
        claim(labels)
    text = str(refusal.value)
    assert text.startswith(f"app /shop/web: label {label}: ")
    assert reason in text
    assert len(text) < 400
    assert text.isprintable()


def test_a_label_with_an_endless_name_is_refused_in_one_line() -> None:
    with pytest.raises(LabelRefused, match="unknown label") as refusal:
        claim({"MOORING_" + "X\n" * 5000: ""})
    assert len(str(refusal.value)) < 400
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize(
    ("addresses", "reason"),
    [
        ("10.99.0.1", "is outside 10.64.0.0/22 .pool shop."),
        ("10.64.0.1", "is the gateway"),
        ("10.64.0.0", "network or broadcast"),
        ("10.64.0.9", "for up to 2 instances"),
        ("banana", "not an IP address"),
    ],
)
def test_pinned_addresses(addresses: str, reason: str) -> None:
    labels = {"MOORING_POOL": "shop", "MOORING_IP_POLICY": "pinned", "MOORING_IPS": addresses}
    with pytest.raises(LabelRefused, match=reason):
        claim(labels)


def test_enough_pinned_addresses() -> None:
    labels = {"MOORING_POOL": "shop", "MOORING_IP_POLICY": "pinned", "MOORING_IPS": "10.64.0.9"}
    assert claim(labels, over_capacity=0.0).pinned == ("10.64.0.9",)


def test_host_mode_cannot_have_an_address() -> None:
    with pytest.raises(LabelRefused, match="networks"):
        claim({"MOORING_POOL": "shop"}, own_network=False)


LABELS = st.sampled_from(
    [
        "MOORING_POOL", "MOORING_PORTS", "MOORING_IP_POLICY", "MOORING_IPS", "MOORING_DNS_NAME",
        "MOORING_DNS_TTL", "MOORING_\n",
        "MOORING_NOTIFY_FROM", "MOORING_NOTIFY_PATH", "MOORING_NOTIFY_TEMPLATE", "MOORING_NOTIFY_COMMAND",
        "HAPROXY_GROUP", "HAPROXY_0_VHOST", "HAPROXY_0_PORT", "HAPROXY_0_MODE", "HAPROXY_0_BALANCE",
    ]
)  # fmt: skip


VALUES = st.text(max_size=200) | st.text("0123456789,", max_size=6000)


@given(st.dictionaries(LABELS, VALUES))
def test_anything_at_all_is_taken_or_refused_and_nothing_else(labels: dict[str, str]) -> None:
    refused: list[str] = []
    try:
        got = claim(labels, ports=())
    except LabelRefused as refusal:
        refused = [str(refusal)]
    if refused:
        assert len(refused[0]) < 400
        assert refused[0].isprintable()
        return
    assert all(1 <= port <= 65535 for port in got.ports)
    assert 1 <= got.ttl <= 86400
    for service in got.services:
        assert service.mode in ("http", "tcp")
        assert all(host.isascii() and not set(host) & set(" \n\t\"'{};#") for host in service.vhosts)
    for notice in got.notices:
        assert notice.path.startswith("/")
        assert ".." not in notice.path.split("/")
