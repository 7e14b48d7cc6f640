"""`mooring plan` says what would change and what holds it back, and touches nothing."""

from __future__ import annotations

import pytest

from mooring.controller.plan import Plan
from tests.unit.small_house import HAPROXY, LEDGER, NAMES, NETWORK, WEB, WEBHOOK, House


@pytest.fixture
async def house() -> House:
    return await House().open()


async def planned(house: House) -> Plan:
    """The plan, with nothing written and nothing done for it."""
    house.commits.clear()
    house.changed()
    before = (dict(house.server.sets), dict(house.proxy.members), dict(house.cmdb.live))
    waiting = house.engine.queue.depth()
    plan = await house.engine.planner.plan()
    assert house.commits == []
    assert house.changed() == {}
    assert before == (house.server.sets, house.proxy.members, house.cmdb.live)
    assert house.engine.queue.depth() == waiting
    return plan


def rows(plan: Plan) -> dict[tuple[str, str], tuple[str, str, str]]:
    return {
        (change.instance, change.sink): (change.shows, change.shall_show, change.held_by)
        for change in plan.changes
    }


async def test_nothing_would_change_where_all_is_in_step(house: House) -> None:
    plan = await planned(house)
    assert (plan.changes, plan.findings) == ((), ())


async def test_a_paused_app_shows_what_waits(house: House) -> None:
    """Labels were changed while it is paused: no worker has worked out yet what that means."""
    await house.engine.pause(WEB)
    house.list(2, MOORING_DNS_NAME="shop.front")
    await house.work()
    found = rows(await planned(house))
    shows, shall_show, held_by = found["shop_web.instance-0", NAMES]
    assert shows.startswith("web-0.web.shop.mooring.test")
    assert shall_show.startswith("shop-0.shop.front.mooring.test")
    assert held_by == "paused"
    assert ("shop_web.instance-0", NETWORK) not in found, "its port stays as it is"


async def test_an_instance_that_leaves_a_paused_app(house: House) -> None:
    await house.engine.pause(None)
    for _ in range(3):  # absence has to be confirmed
        house.list(1)
        house.clock.step(120)
    found = rows(await planned(house))
    assert {shall for (instance, _), (_, shall, _) in found.items() if instance.endswith("-1")} == {"nothing"}
    sinks = {sink for instance, sink in found if instance.endswith("-1")}
    assert {NETWORK, NAMES, HAPROXY, LEDGER, WEBHOOK} <= sinks


async def test_an_instance_without_a_seat_says_why(house: House) -> None:
    house.engine.seats.close("the store does not know every lease")
    house.list(3)
    await house.work()
    plan = await planned(house)
    (change,) = plan.changes
    assert (change.instance, change.sink, change.shows) == ("shop_web.instance-2", "seat", "nothing")
    assert change.shall_show == "a seat in pool blue"
    assert change.held_by == "the store does not know every lease"
    assert list(plan.unread) == ["all sinks"]


async def test_a_sink_that_does_not_take_a_change_says_why(house: House) -> None:
    house.proxy.away = True
    house.list(3)
    await house.work()
    found = rows(await planned(house))
    shows, shall_show, held_by = found["shop_web.instance-2", HAPROXY]
    assert shows == "nothing or declared at 10.64.0.4:8080", "it may or may not have been taken"
    assert shall_show == "up at 10.64.0.4:8080"
    assert "the balancer in memory is away" in held_by


async def test_what_differs_is_told_and_not_repaired(house: House) -> None:
    house.cmdb.live.clear()
    plan = await planned(house)
    assert {(each.sink, each.kind.value, each.remedy) for each in plan.findings} == {
        (WEBHOOK, "missing", "would be repaired")
    }
    assert len(plan.findings) == 2
    await house.work()
    assert house.cmdb.live == {}
