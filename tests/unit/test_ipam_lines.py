"""Who waits for an address, and in which order."""

from __future__ import annotations

from mooring.core.model import AppId, BindingId, PoolName
from mooring.ipam.lines import AGAIN_S, Lines

WEB, DB = AppId("/web"), AppId("/db")
SHOP, OPS = PoolName("shop"), PoolName("ops")
A, B, C, D = map(BindingId, "abcd")


def line_of(*keys: BindingId, now: float = 0.0) -> Lines:
    lines = Lines()
    for key in keys:
        lines.ask(key, WEB, SHOP, now)
    return lines


def test_first_come_first_served_however_often_one_asks() -> None:
    lines = line_of(A, B, C)
    lines.ask(A, WEB, SHOP, 5.0)
    lines.ask(C, WEB, SHOP, 6.0)
    assert lines.first(SHOP, 2, 7.0) == [A, B]
    assert lines.first(SHOP, 9, 7.0) == [A, B, C]
    assert [lines.ahead(key, SHOP, 7.0, most=9) for key in (A, B, C, D)] == [0, 1, 2, 3]
    assert lines.ahead(D, SHOP, 7.0, most=2) == 2
    assert lines.ahead(D, OPS, 7.0, most=9) == 0
    assert lines.lengths() == {SHOP: 3}


def test_who_leaves_is_forgotten() -> None:
    lines = line_of(A, B)
    lines.leave(A)
    lines.leave(A)
    assert (A in lines, B in lines) == (False, True)
    assert lines.ahead(B, SHOP, 1.0, most=9) == 0
    lines.leave(B)
    assert lines.lengths() == {}
    lines.ask(A, WEB, SHOP, 2.0)
    assert lines.first(SHOP, 9, 2.0) == [A]


def test_one_stands_in_one_line() -> None:
    lines = line_of(A, B)
    lines.ask(A, WEB, OPS, 1.0)
    assert lines.lengths() == {SHOP: 1, OPS: 1}
    lines.ask(A, WEB, SHOP, 2.0)
    assert lines.first(SHOP, 9, 2.0) == [B, A]
    assert lines.lengths() == {SHOP: 2}


def test_who_does_not_ask_keeps_the_place_and_holds_up_nobody() -> None:
    lines = line_of(A)
    lines.ask(B, WEB, SHOP, 2 * AGAIN_S)
    assert lines.first(SHOP, 9, 3 * AGAIN_S) == [A, B]
    assert lines.first(SHOP, 9, 3 * AGAIN_S + 1) == [B]
    assert lines.ahead(B, SHOP, 3 * AGAIN_S + 1, most=9) == 0
    assert lines.lengths() == {SHOP: 2}
    lines.ask(A, WEB, SHOP, 3 * AGAIN_S + 2)
    assert lines.first(SHOP, 9, 3 * AGAIN_S + 2) == [A, B]


def test_who_needs_a_certain_address_holds_up_nobody() -> None:
    lines = Lines()
    lines.ask(A, WEB, SHOP, 0.0, in_turn=False)
    lines.ask(B, WEB, SHOP, 0.0)
    assert lines.first(SHOP, 9, 0.0) == [B]
    assert lines.ahead(C, SHOP, 0.0, most=9) == 1
    assert lines.lengths() == {SHOP: 2}
    lines.ask(A, WEB, SHOP, 1.0)
    assert lines.first(SHOP, 9, 1.0) == [A, B]


def test_the_first_of_an_app_is_known() -> None:
    lines = Lines()
    lines.ask(A, WEB, SHOP, 0.0)
    lines.ask(B, DB, SHOP, 0.0)
    lines.ask(C, DB, SHOP, 0.0)
    assert (lines.first_of_app(DB), lines.first_of_app(AppId("/none"))) == ([B], [])
