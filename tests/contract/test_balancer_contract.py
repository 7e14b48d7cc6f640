"""One contract for balancers, over the twin, a real HAProxy and a real Nginx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from mooring.core.errors import Fenced, Refused
from mooring.core.model import BindingId
from mooring.core.sink import Change, Done, NotPossible, Outcome, RetryAfter, Sink
from mooring.core.specs import Endpoint, MemberSpec, ServiceSpec
from mooring.lb.model import member_key
from tests.contract.balancers import (
    WEB,
    Bench,
    Members,
    change,
    eventually,
    free_port,
    running,
)

HOST = "web.example.org"


@pytest.fixture(params=["memory", "haproxy", "nginx"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with running(request.param, tmp_path) as started:
        yield started


@pytest.fixture
async def members() -> AsyncIterator[Members]:
    group = Members(101)
    await group.start()
    yield group
    await group.stop()


@pytest.fixture
async def sink(bench: Bench) -> Sink:
    fresh = bench.sink()
    await fresh.prime({})
    return fresh


def all_done(outcomes: Sequence[Outcome]) -> bool:
    return all(isinstance(outcome, Done) for outcome in outcomes)


async def seen(bench: Bench, host: str = HOST, requests: int = 12) -> set[str | None]:
    return {await bench.get(host) for _ in range(requests)}


async def states(sink: Sink) -> dict[str, str]:
    observed = (await sink.observe()).shown
    return {key: spec.state for key, spec in observed.items() if isinstance(spec, MemberSpec)}


def key(members: Members, number: int, service: ServiceSpec = WEB) -> str:
    return member_key(Endpoint(service, members.addresses[number], members.port))


async def test_a_declared_member_takes_no_traffic(bench: Bench, sink: Sink, members: Members) -> None:
    assert all_done(await sink.apply([change("a", members.spec(0, "declared"))]))
    assert await seen(bench, requests=3) == {None}
    assert (await states(sink)).get(key(members, 0), "declared") == "declared"
    assert (key(members, 0) in await states(sink)) == bench.shows_down


async def test_a_member_that_is_up_takes_traffic(bench: Bench, sink: Sink, members: Members) -> None:
    declared, up = members.spec(0, "declared"), members.spec(0, "up")
    await sink.apply([change("a", declared), change("b", members.spec(1, "up"))])
    assert await seen(bench) == {members.addresses[1]}
    assert await sink.apply([change("a", up, declared)]) == [Done()]
    assert await seen(bench) == {members.addresses[0], members.addresses[1]}
    assert (await states(sink))[key(members, 0)] == "up"


async def test_a_draining_member_gets_nothing_new(bench: Bench, sink: Sink, members: Members) -> None:
    up = members.spec(0, "up")
    await sink.apply([change("a", up), change("b", members.spec(1, "up"))])
    assert all_done(await sink.apply([change("a", members.spec(0, "drain"), up)]))
    assert await seen(bench) == {members.addresses[1]}


async def test_a_removed_member_is_gone(bench: Bench, sink: Sink, members: Members) -> None:
    up = members.spec(0, "up")
    await sink.apply([change("a", up), change("b", members.spec(1, "up"))])
    assert all_done(await sink.apply([change("a", None, up)]))
    assert await seen(bench) == {members.addresses[1]}
    assert key(members, 0) not in await states(sink)
    assert all_done(await sink.apply([change("b", None, members.spec(1, "up"))]))
    assert await seen(bench, requests=3) == {None}
    assert (await sink.observe()).shown == {}


async def test_a_moved_member_leaves_nothing_behind(bench: Bench, sink: Sink, members: Members) -> None:
    first, second = members.spec(0, "up"), members.spec(1, "up")
    await sink.apply([change("a", first)])
    assert all_done(await sink.apply([change("a", second, first)]))
    assert await seen(bench) == {members.addresses[1]}
    assert set(await states(sink)) == {key(members, 1)}


async def test_the_same_change_twice_changes_nothing(bench: Bench, sink: Sink, members: Members) -> None:
    wanted = change("a", members.spec(0, "up"))
    await sink.apply([wanted])
    before = await bench.reloads()
    assert await sink.apply([wanted]) == [Done(changed=False)]
    assert await bench.reloads() == before


async def test_an_endpoint_of_two_bindings_stays_until_both_left(
    bench: Bench, sink: Sink, members: Members
) -> None:
    up = members.spec(0, "up")
    await sink.apply([change("old", up), change("new", up)])
    assert all_done(await sink.apply([change("old", members.spec(0, "drain"), up)]))
    assert all_done(await sink.apply([change("old", None, members.spec(0, "drain"))]))
    assert await seen(bench, requests=3) == {members.addresses[0]}


async def test_a_hundred_members_cost_one_reload(bench: Bench, sink: Sink, members: Members) -> None:
    before = await bench.reloads()
    changes = [change(f"i{number}", members.spec(number, "up")) for number in range(100)]
    assert all_done(await sink.apply(changes))
    assert await bench.reloads() <= before + 1
    answered: set[str | None] = set()

    async def all_have_answered() -> bool:  # each worker of Nginx goes its own round
        answered.update(await seen(bench, requests=50))
        return answered == set(members.addresses[:100])

    await eventually(all_have_answered, "an answer from every member")


async def test_a_service_with_its_own_port(bench: Bench, sink: Sink, members: Members) -> None:
    service = msgspec.structs.replace(WEB, vhosts=(), port=free_port())
    assert all_done(await sink.apply([change("a", members.spec(2, "up", service))]))
    assert await bench.get_port(service.port) == members.addresses[2]


HOSTILE = [
    msgspec.structs.replace(WEB, vhosts=("x.org; } server { listen 1234",)),
    msgspec.structs.replace(WEB, vhosts=("x.org\n    use_backend other",)),
    msgspec.structs.replace(WEB, balance="roundrobin\n    server evil 192.0.2.1:80"),
    msgspec.structs.replace(WEB, balance="static-rr"),
    msgspec.structs.replace(WEB, app="/shop/web\nlisten evil"),
    msgspec.structs.replace(WEB, mode="health"),
    msgspec.structs.replace(WEB, vhosts=(), port=70000),
]


@pytest.mark.parametrize("service", HOSTILE)
async def test_hostile_values_are_refused_alone(
    bench: Bench, sink: Sink, members: Members, service: ServiceSpec
) -> None:
    bad = change("bad", members.spec(0, "up", service))
    refused, served = await sink.apply([bad, change("good", members.spec(1, "up"))])
    assert isinstance(refused, NotPossible)
    assert served == Done()
    assert await seen(bench, requests=3) == {members.addresses[1]}


@pytest.mark.parametrize("place", ["10.0.0.1:80 check\n", "fe80::1%eth0", "example.org", "0.0.0.0"])
async def test_a_hostile_address_is_refused(sink: Sink, place: str) -> None:
    (outcome,) = await sink.apply([change("bad", MemberSpec((Endpoint(WEB, place, 80),), "up"))])
    assert isinstance(outcome, NotPossible)


async def test_a_hostile_member_can_always_leave(bench: Bench, sink: Sink, members: Members) -> None:
    up = members.spec(0, "up")
    await sink.apply([change("a", up)])
    evil = msgspec.structs.replace(WEB, balance="nonsense")
    assert all_done(await sink.apply([change("a", members.spec(0, "drain", evil), up)]))
    assert await seen(bench, requests=3) == {None}


async def test_a_bad_edit_keeps_the_last_good_state(bench: Bench, sink: Sink, members: Members) -> None:
    up = members.spec(0, "up")
    await sink.apply([change("a", up)])
    evil = members.spec(0, "up", msgspec.structs.replace(WEB, balance="nonsense"))
    (outcome,) = await sink.apply([change("a", evil, up)])
    assert isinstance(outcome, NotPossible)
    assert await seen(bench, requests=3) == {members.addresses[0]}


async def test_the_lower_app_id_gets_a_host_name(bench: Bench, sink: Sink, members: Members) -> None:
    thief = msgspec.structs.replace(WEB, app="/thief")
    other = msgspec.structs.replace(WEB, app="/other", vhosts=("other.example.org",))
    lost, won, served = await sink.apply(
        [
            change("t", members.spec(0, "up", thief)),
            change("a", members.spec(1, "up")),
            change("o", members.spec(2, "up", other)),
        ]
    )
    assert isinstance(lost, NotPossible)
    assert "/thief" in lost.reason
    assert "/shop/web" in lost.reason
    assert (won, served) == (Done(), Done())
    assert await seen(bench, requests=3) == {members.addresses[1]}
    assert await seen(bench, "other.example.org", 3) == {members.addresses[2]}


async def test_who_serves_a_host_name_keeps_it_over_restarts(
    bench: Bench, sink: Sink, members: Members
) -> None:
    up = members.spec(0, "up")
    await sink.apply([change("a", up)])
    again = bench.sink()
    await again.prime({BindingId("a"): [up]})
    thief = msgspec.structs.replace(WEB, app="/a-lower-id")
    (outcome,) = await again.apply([change("t", members.spec(1, "up", thief))])
    assert isinstance(outcome, NotPossible)
    assert await seen(bench, requests=3) == {members.addresses[0]}


async def test_two_services_cannot_have_one_port(bench: Bench, sink: Sink, members: Members) -> None:
    mine = msgspec.structs.replace(WEB, vhosts=(), port=free_port())
    theirs = msgspec.structs.replace(mine, app="/zzz")
    won, lost = await sink.apply(
        [change("a", members.spec(0, "up", mine)), change("b", members.spec(1, "up", theirs))]
    )
    assert won == Done()
    assert isinstance(lost, NotPossible)
    assert f"port {mine.port}" in lost.reason
    assert await bench.get_port(mine.port) == members.addresses[0]


async def test_after_a_crash_the_store_tells_what_stands(bench: Bench, sink: Sink, members: Members) -> None:
    first, second = members.spec(0, "up"), members.spec(1, "declared")
    await sink.apply([change("a", first), change("b", second)])
    before = await states(sink)
    reloads = await bench.reloads()
    again = bench.sink()
    await again.prime({BindingId("a"): [first], BindingId("b"): [second]})
    assert await again.apply([change("a", first)]) == [Done(changed=False)]
    assert await states(again) == before
    assert await bench.reloads() == reloads
    assert all_done(await again.apply([change("a", None, first), change("b", members.spec(1, "up"), second)]))
    assert await seen(bench) == {members.addresses[1]}


async def test_what_an_interrupted_change_left_is_undone(bench: Bench, sink: Sink, members: Members) -> None:
    tried = members.spec(0, "up")
    await sink.apply([change("a", tried)])
    again = bench.sink()  # the daemon died before it could confirm, and now wants something else
    await again.prime({BindingId("a"): [tried]})
    assert all_done(await again.apply([change("a", members.spec(1, "up"), tried)]))
    assert await seen(bench) == {members.addresses[1]}


async def test_a_restart_behind_our_back_is_repaired(bench: Bench, sink: Sink, members: Members) -> None:
    drained = members.spec(1, "drain")
    await sink.apply([change("a", members.spec(0, "up")), change("b", members.spec(1, "up"))])
    await sink.apply([change("b", drained, members.spec(1, "up"))])
    before = await states(sink)
    await bench.restart()
    assert await seen(bench, requests=6) <= {members.addresses[0], None}
    assert all_done(await sink.apply([change("c", members.spec(2, "up"))]))
    assert await states(sink) == before | {key(members, 2): "up"}
    assert await seen(bench) == {members.addresses[0], members.addresses[2]}


async def test_a_dead_balancer_is_served_when_it_returns(bench: Bench, sink: Sink, members: Members) -> None:
    wanted = change("a", members.spec(0, "up"))
    await sink.apply([change("b", members.spec(1, "up"))])
    await bench.lose()
    (outcome,) = await sink.apply([wanted])
    assert isinstance(outcome, RetryAfter)
    await bench.restart()
    assert all_done(await sink.apply([wanted]))
    assert await seen(bench) == {members.addresses[0], members.addresses[1]}


async def test_an_older_epoch_is_refused(bench: Bench, sink: Sink, members: Members) -> None:
    await sink.apply([change("a", members.spec(0, "up"), epoch=5)])
    stale = bench.sink()
    await stale.prime({})
    with pytest.raises(Fenced):
        await stale.apply([change("a", None, members.spec(0, "up"), epoch=4)])
    assert await seen(bench, requests=3) == {members.addresses[0]}


async def test_no_request_fails_while_members_and_services_change(
    bench: Bench, sink: Sink, members: Members
) -> None:
    await sink.apply([change("steady", members.spec(0, "up"))])
    answers: list[str | None] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            answers.append(await bench.get(HOST))
            await asyncio.sleep(0.002)

    clients = [asyncio.create_task(load()) for _ in range(3)]
    await asyncio.sleep(0)
    for turn in range(5):
        other = msgspec.structs.replace(WEB, app=f"/other{turn}", vhosts=(f"o{turn}.example.org",))
        batch: list[Change] = [
            change(f"o{turn}", members.spec(1, "up", other)),
            change("m", members.spec(turn + 2, "up")),
        ]
        assert all_done(await sink.apply(batch))
    stop.set()
    await asyncio.gather(*clients)
    assert len(answers) >= len(clients)
    assert None not in answers


async def test_a_foreign_configuration_is_left_alone(tmp_path: Path, members: Members) -> None:
    for kind in ("haproxy", "nginx"):
        directory = tmp_path / kind
        directory.mkdir()
        async with running(kind, directory) as bench:
            config = next(directory.rglob("haproxy.cfg" if kind == "haproxy" else "nginx.conf"))
            theirs = config.read_text().replace("# mooring: initial\n", "")
            config.write_text(theirs)
            sink = bench.sink()
            with pytest.raises(Refused, match="does not carry our mark"):
                await sink.apply([change("a", members.spec(0, "up"))])
            with pytest.raises(Refused, match="does not carry our mark"):
                await sink.check()
            assert config.read_text() == theirs


async def test_check_names_what_answered(bench: Bench, sink: Sink) -> None:
    assert "\n" not in await sink.check()
