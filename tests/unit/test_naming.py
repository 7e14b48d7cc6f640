"""Names: the mapping, its limits, and that no two apps can ever meet in one name."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from mooring.core.errors import Refused
from mooring.core.model import AppId
from mooring.dns.naming import (
    app_name,
    canonical_address,
    canonical_zone,
    check_name,
    reverse_name,
    seat_name,
    zone_of,
)
from mooring.dns.ownership import Mark, check_owner, marked_name, marker_of, parse_mark

ZONE = "mooring.test"
labels = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
paths = st.lists(labels, min_size=1, max_size=6).map(lambda parts: AppId("/" + "/".join(parts)))


def test_the_path_is_read_from_the_inside_out() -> None:
    assert app_name(AppId("/shop/web"), ZONE) == "web.shop.mooring.test"
    assert seat_name(AppId("/shop/web"), 0, ZONE) == "web-0.web.shop.mooring.test"
    assert app_name(AppId("/solo"), ZONE) == "solo.mooring.test"


@given(paths, paths)
@example(AppId("/a/b-c"), AppId("/a-b/c"))
def test_two_apps_never_share_a_name(one: AppId, other: AppId) -> None:
    assume(one != other)
    assert app_name(one, ZONE) != app_name(other, ZONE)
    assert seat_name(one, 0, ZONE) != seat_name(other, 0, ZONE)


@given(paths, st.integers(0, 5000))
def test_every_name_is_legal_and_in_its_zone(app: AppId, slot: int) -> None:
    name = seat_name(app, slot, ZONE)
    assert check_name(name) == name
    assert zone_of(name, [ZONE, "other.test"]) == ZONE
    assert name.endswith("." + app_name(app, ZONE))
    assert len(marker_of(name)) <= 253


def _name_or_reason(text: str) -> tuple[str | None, str]:
    try:
        return app_name(AppId(text), ZONE), ""
    except Refused as refused:
        return None, str(refused)


@given(st.text(max_size=300))
def test_no_text_makes_an_illegal_name(text: str) -> None:
    name, reason = _name_or_reason(text)
    assert len(reason) < 500
    assert "\n" not in reason
    assert name is None or check_name(name) == name


@pytest.mark.parametrize(
    "app",
    [
        "/",
        "",
        "/Shop/web",
        "/shop/web_1",
        "/shop/-web",
        "/shop/web-",
        "/shop//web",
        "/a.b",
        "/x/" + "y" * 64,
        "/ü",
    ],
)
def test_a_path_that_cannot_be_a_name_is_refused_and_named(app: str) -> None:
    with pytest.raises(Refused, match="not a DNS label") as refused:
        app_name(AppId(app), ZONE)
    assert "rename that part" in str(refused.value)


def test_the_limits_are_exact() -> None:
    assert app_name(AppId("/" + "a" * 63), ZONE).startswith("a" * 63)
    with pytest.raises(Refused, match="not a DNS label"):
        seat_name(AppId("/" + "a" * 62), 0, ZONE)
    longest = ".".join(["a" * 60] * 4)  # 243 characters, with the ownership label 252
    assert check_name(longest) == longest
    assert check_name(longest + "a") == longest + "a"
    with pytest.raises(Refused, match="at most 244"):
        check_name(longest + "aa")


def test_a_negative_slot_is_refused() -> None:
    with pytest.raises(Refused, match="slot -1"):
        seat_name(AppId("/web"), -1, ZONE)


def test_the_most_specific_zone_holds_a_name() -> None:
    zones = ["test", "mooring.test", "sub.mooring.test"]
    assert zone_of("a.sub.mooring.test", zones) == "sub.mooring.test"
    assert zone_of("sub.mooring.test", zones) == "sub.mooring.test"
    assert zone_of("notmooring.test", ["mooring.test"]) is None


@given(st.ip_addresses(v=4))
def test_reverse_names_of_ipv4(address: ipaddress.IPv4Address) -> None:
    name = reverse_name(str(address))
    assert name.removesuffix(".in-addr.arpa").split(".")[::-1] == str(address).split(".")
    assert check_name(name) == name


@given(st.ip_addresses(v=6))
def test_reverse_names_of_ipv6(address: ipaddress.IPv6Address) -> None:
    nibbles = reverse_name(str(address)).removesuffix(".ip6.arpa").split(".")
    assert int("".join(reversed(nibbles)), 16) == int(address)
    assert canonical_address(address.exploded) == str(address)


@pytest.mark.parametrize("address", ["", "10.0.0", "10.0.0.256", "fe80::1%eth0", "web", "10.0.0.1/24"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(Refused):
        reverse_name(address)


def test_zones_are_brought_into_our_spelling() -> None:
    assert canonical_zone("Mooring.Test.") == "mooring.test"
    assert canonical_zone("0/25.2.0.192.in-addr.arpa") == "0/25.2.0.192.in-addr.arpa"
    for wrong in ("", ".", "a..b", "a b"):
        with pytest.raises(Refused):
            canonical_zone(wrong)


def test_marks_survive_being_written_and_read() -> None:
    mark = Mark("site-a", "seat")
    assert parse_mark(str(mark)) == mark
    assert str(mark) == "heritage=mooring,owner=site-a,kind=seat"
    assert parse_mark("heritage=external-dns,external-dns/owner=x") is None
    assert parse_mark(str(mark) + "\n") is None
    assert marked_name(marker_of("a.test")) == "a.test"
    assert marked_name("a.test") is None


@pytest.mark.parametrize("owner", ["", "A", "a,kind=seat", "a b", "-a", "x" * 64])
def test_an_owner_cannot_forge_a_mark(owner: str) -> None:
    with pytest.raises(Refused, match="owner"):
        check_owner(owner)
