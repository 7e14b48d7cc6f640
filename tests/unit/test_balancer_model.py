"""The balancer table: folding, names, claims, and what never gets in."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.core.errors import Refused
from mooring.core.model import BindingId
from mooring.core.specs import Endpoint, MemberSpec, NameSpec, ServiceSpec
from mooring.lb.model import (
    BALANCES,
    Share,
    fold,
    member_key,
    server_name,
    service_name,
    validate,
)

WEB = ServiceSpec(app="/shop/web", index=0, mode="http", port=10000, vhosts=("web.example.org",))
TCP = ServiceSpec(app="/shop/db", index=0, mode="tcp", port=5432)


def replaced(service: ServiceSpec, **fields: object) -> ServiceSpec:
    return msgspec.structs.replace(service, **fields)


def member(
    state: str, service: ServiceSpec = WEB, address: str = "10.64.0.10", port: int = 8080
) -> MemberSpec:
    return MemberSpec((Endpoint(service, address, port),), state)


def shares(*specs: MemberSpec, stamps: Sequence[int] = ()) -> dict[BindingId, Share]:
    stamped = zip(specs, stamps or [0] * len(specs), strict=True)
    return {BindingId(f"b{n}"): Share((spec,), stamp) for n, (spec, stamp) in enumerate(stamped)}


def test_names_come_from_app_and_endpoint() -> None:
    assert service_name("/shop/web", 0) == "shop_web_0"
    assert server_name("10.64.0.10", 8080) == "10_64_0_10_8080"
    assert server_name("fd00::1", 80) == "fd00_0000_0000_0000_0000_0000_0000_0001_80"
    assert member_key(Endpoint(WEB, "10.64.0.10", 8080)) == "shop_web_0/10_64_0_10_8080"


@pytest.mark.parametrize(
    "others",
    [("/shop_web", "/shop/web"), ("/Shop/web", "/shop/web"), ("/a~b", "/a_b"), ("/a" * 100, "/a" * 101)],
)
def test_apps_that_would_fold_to_one_name_get_different_ones(others: tuple[str, str]) -> None:
    first, second = (service_name(app, 0) for app in others)
    assert first != second


segments = st.lists(st.text("ab_-.~A0", min_size=1, max_size=4), min_size=1, max_size=4)
app_ids = segments.map(lambda parts: "/" + "/".join(parts))
keys = st.tuples(app_ids, st.integers(0, 12))


@given(keys, keys)
def test_no_two_services_share_a_name(one: tuple[str, int], other: tuple[str, int]) -> None:
    assert (service_name(*one) == service_name(*other)) == (one == other)


@pytest.mark.parametrize(
    ("states", "stronger"),
    [(("declared", "up"), "up"), (("drain", "up"), "up"), (("declared", "drain"), "drain")],
)
def test_the_stronger_state_of_one_endpoint_wins(states: tuple[str, str], stronger: str) -> None:
    (service,) = fold(shares(*(member(state) for state in states))).services
    assert [one.state for one in service.members] == [stronger]


def test_one_address_in_two_spellings_is_one_member() -> None:
    table = fold(shares(member("up", address="fd00::1"), member("up", address="FD00:0:0::1")))
    assert [one.target for one in table.services[0].members] == ["[fd00::1]:8080"]


def test_the_newest_staying_share_sets_the_terms() -> None:
    new = replaced(WEB, vhosts=("new.example.org",))
    old, leaving = member("up"), member("drain", address="10.64.0.11")
    newest = member("up", new, "10.64.0.12")
    (service,) = fold(shares(old, newest, leaving, stamps=(1, 2, 3))).services
    assert service.vhosts == ("new.example.org",)
    assert len(service.members) == 3


def test_the_lower_app_id_gets_what_two_want() -> None:
    table = fold(shares(member("up", replaced(WEB, app="/z")), member("up", replaced(WEB, app="/a"))))
    assert [service.terms.app for service in table.services] == ["/a"]
    assert "app /z" in table.conflicts["/z", 0]
    assert "/a" in table.conflicts["/z", 0]
    assert "web.example.org" in table.conflicts["/z", 0]


def test_who_holds_a_claim_keeps_it_as_long_as_it_wants_it() -> None:
    wishes = shares(member("up", replaced(WEB, app="/z")), member("up", replaced(WEB, app="/a")))
    held = {"host web.example.org": ("/z", 0)}
    assert [service.terms.app for service in fold(wishes, held=held).services] == ["/z"]
    moved = shares(
        member("up", replaced(WEB, app="/z", vhosts=("other.org",))), member("up", replaced(WEB, app="/a"))
    )
    assert [service.terms.app for service in fold(moved, held=held).services] == ["/a", "/z"]


def test_host_names_do_not_take_a_port_and_compare_without_case() -> None:
    second = replaced(WEB, app="/b", vhosts=("WEB.example.org",))
    third = replaced(WEB, app="/c", vhosts=("c.example.org",))
    table = fold(shares(member("up"), member("up", second), member("up", third)))
    assert [service.terms.app for service in table.services] == ["/b", "/c"]


def test_ports_of_the_balancer_itself_are_refused() -> None:
    table = fold(shares(member("up", TCP)), reserved={5432: "the statistics page"})
    assert "the statistics page" in table.conflicts["/shop/db", 0]


def test_refused_terms_fall_back_to_others() -> None:
    new = replaced(WEB, balance="leastconn")
    both = shares(member("up"), member("up", new, "10.64.0.11"), stamps=(1, 2))
    (service,) = fold(both, refused=[new]).services
    assert service.terms == WEB
    assert fold(both, refused=[new, WEB]).services == ()


services = st.builds(
    ServiceSpec,
    app=st.sampled_from(["/a", "/b", "/c/d"]),
    index=st.integers(0, 1),
    mode=st.sampled_from(["http", "tcp"]),
    port=st.integers(9000, 9002),
    vhosts=st.sampled_from([(), ("x.org",), ("y.org", "x.org")]),
    balance=st.sampled_from(["roundrobin", "leastconn"]),
)
endpoints = st.builds(
    Endpoint, services, st.sampled_from(["10.0.0.1", "10.0.0.2", "fd00::1"]), st.integers(80, 81)
)
specs = st.builds(
    MemberSpec, st.lists(endpoints, max_size=3).map(tuple), st.sampled_from(["declared", "up", "drain"])
)
bindings = st.dictionaries(
    st.text("abc", min_size=1, max_size=2).map(BindingId),
    st.builds(Share, st.lists(specs, max_size=2).map(tuple), st.integers(0, 3)),
    max_size=6,
)


@given(bindings, st.randoms(use_true_random=False))
def test_the_fold_does_not_depend_on_the_order(held: dict[BindingId, Share], chance: random.Random) -> None:
    shuffled = list(held.items())
    chance.shuffle(shuffled)
    turned = {
        binding: Share(
            tuple(MemberSpec(spec.endpoints[::-1], spec.state) for spec in share.specs[::-1]), share.stamp
        )
        for binding, share in shuffled
    }
    assert fold(held) == fold(turned)


@given(bindings)
def test_every_service_is_served_or_named_and_no_claim_is_held_twice(held: dict[BindingId, Share]) -> None:
    table = fold(held)
    wanted = {
        (one.service.app, one.service.index)
        for share in held.values()
        for spec in share.specs
        for one in spec.endpoints
    }
    assert {service.key for service in table.services} | set(table.conflicts) == wanted
    assert not {service.key for service in table.services} & set(table.conflicts)
    claimed = [claim for service in table.services for claim in (service.vhosts or (service.port,))]
    assert len(claimed) == len(set(claimed))
    assert fold(held, held=table.claims()) == table


@pytest.mark.parametrize("balance", sorted(BALANCES))
def test_what_is_allowed_passes(balance: str) -> None:
    spec = member("up", replaced(WEB, balance=balance))
    assert validate(spec) is spec


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        (member("upward"), "state"),
        (member("up", replaced(WEB, mode="http\n")), "mode"),
        (member("up", replaced(WEB, balance="static-rr")), "static-rr"),
        (member("up", replaced(TCP, balance="uri")), "uri"),
        (member("up", replaced(WEB, app="shop")), "app id"),
        (member("up", replaced(WEB, app="/a\nb")), "app id"),
        (member("up", replaced(WEB, app="/" + "a" * 600)), "app id"),
        (member("up", replaced(WEB, index=-1)), "index"),
        (member("up", replaced(WEB, vhosts=("a.org\n",))), "host name"),
        (member("up", replaced(WEB, vhosts=("-a.org",))), "host name"),
        (member("up", replaced(WEB, vhosts=("*",))), "host name"),
        (member("up", replaced(WEB, vhosts=("a" * 64,))), "host name"),
        (member("up", replaced(WEB, vhosts=(".".join(["a" * 60] * 5),))), "host name"),
        (member("up", replaced(WEB, vhosts=tuple(f"a{n}.org" for n in range(65)))), "host names"),
        (member("up", replaced(TCP, port=0)), "service port"),
        (member("up", replaced(TCP, port="80 ssl")), "service port"),
        (member("up", replaced(TCP, port=True)), "service port"),
        (member("up", port=65536), "member port"),
        (member("up", address="10.0.0.1 check"), "address"),
        (member("up", address="fe80::1%eth0"), "address"),
        (member("up", address="224.0.0.1"), "address"),
        (member("up", address="web.example.org"), "address"),
    ],
)
def test_what_is_not_allowed_is_named(spec: MemberSpec, names: str) -> None:
    with pytest.raises(Refused, match=names):
        validate(spec)


def test_only_members_are_balanced() -> None:
    with pytest.raises(Refused, match="NameSpec"):
        validate(NameSpec("a.example.org", "10.0.0.1", 30))
