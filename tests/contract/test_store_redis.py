"""What only Redis can do wrong: forget, stall, lose a reply, hold other people's keys."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from mooring.controller.store import redis_store as module
from mooring.controller.store.redis import ReplyLost, Script
from mooring.controller.store.redis_store import RedisStore
from mooring.core.clock import SystemClock
from mooring.core.errors import Fenced, Refused, StoreBroken, StoreBusy
from mooring.core.model import Epoch
from mooring.core.store import HistoryQuery, Note, PutBinding, PutFlag, PutItem, PutLease, Write
from tests.contract.redis_server import RedisServer
from tests.contract.store_benches import in_redis, redis_store
from tests.contract.store_samples import binding, item, lease


@asynccontextmanager
async def working(server: RedisServer, **more: float) -> AsyncIterator[RedisStore]:
    """A store that has begun."""
    store = redis_store(server, **more)
    await store.open()
    await store.begin(Epoch(1))
    try:
        yield store
    finally:
        await store.close()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (("--appendonly", "no"), "appendonly no: it forgets everything at a restart; set `appendonly yes`"),
        (
            ("--appendonly", "yes", "--appendfsync", "everysec"),
            "appendfsync everysec: it forgets",
        ),
        (
            ("--appendonly", "yes", "--appendfsync", "always", "--no-appendfsync-on-rewrite", "yes"),
            "while it rewrites its file; set `no-appendfsync-on-rewrite no`",
        ),
        (
            ("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "allkeys-lru"),
            "it drops leases when memory runs short",
        ),
        (
            ("--appendonly", "yes", "--appendfsync", "always", "--replicaof", "127.0.0.1 1"),
            "is a slave: give the address of the master",
        ),
        (
            ("--appendonly", "yes", "--appendfsync", "always", "--rename-command", "CONFIG", ""),
            "allow CONFIG GET",
        ),
    ],
)
async def test_a_redis_that_may_forget_is_refused_with_the_remedy(
    own_redis: RedisServer, settings: tuple[str, ...], named: str
) -> None:
    own_redis.start(durable=settings)
    store = redis_store(own_redis)
    with pytest.raises(Refused) as refusal:
        await store.open()
    assert named in str(refusal.value)
    assert own_redis.cli("dbsize").strip() == b"0"


async def test_a_user_who_may_not_ask_is_told_what_to_allow(own_redis: RedisServer) -> None:
    own_redis.start()
    own_redis.cli("acl", "setuser", "default", "-config")
    with pytest.raises(Refused, match=r"ACL SETUSER \.\.\. \+config\|get"):
        await redis_store(own_redis).open()


async def test_a_wrong_password_is_told_and_not_shown(own_redis: RedisServer) -> None:
    own_redis.start()
    own_redis.cli("config", "set", "requirepass", "right")
    store = RedisStore(
        module.RedisLink(own_redis.url, password="hush"), "test", SystemClock(), lock_s=0.5, patience_s=1.0
    )
    with pytest.raises(Refused, match="does not admit us") as refusal:
        await store.open()
    assert "hush" not in str(refusal.value)


async def test_kill_9_keeps_all_that_was_confirmed(own_redis: RedisServer) -> None:
    own_redis.start()
    confirmed: list[int] = []
    async with working(own_redis, patience_s=0.5) as store:

        async def write(number: int) -> None:
            one = lease(f"10.0.{number // 250}.{number % 250}", number)
            await store.commit([PutLease(one, None), Note(1.0, "bound", "x", one.address)])
            confirmed.append(number)

        writers = [asyncio.create_task(write(number)) for number in range(3000)]
        while len(confirmed) < 1500:
            await asyncio.sleep(0)
        own_redis.kill()
        results = await asyncio.gather(*writers, return_exceptions=True)
        assert {type(result) for result in results} <= {type(None), StoreBroken, StoreBusy}
    own_redis.start()
    async with working_again(own_redis) as (again, found):
        kept = {each.slot for each in found.leases}
        assert set(confirmed) <= kept
        assert len(await again.history(HistoryQuery(limit=10_000))) == len(kept)


@asynccontextmanager
async def working_again(server: RedisServer) -> AsyncIterator[tuple[RedisStore, module.Contents]]:
    store = redis_store(server)
    found = await store.open()
    try:
        yield store, found
    finally:
        await store.close()


async def test_it_goes_on_after_a_restart_of_redis(own_redis: RedisServer) -> None:
    own_redis.start()
    async with working(own_redis) as store:
        await store.commit([PutFlag("a", "1")])
        own_redis.kill()
        waiting = asyncio.create_task(store.commit([PutFlag("a", "2")]))  # its request may have arrived
        await asyncio.sleep(0)
        own_redis.start()
        await waiting
        await store.commit([PutFlag("a", "3"), PutFlag("b", "1")])
    async with working_again(own_redis) as (_, found):
        assert found.flags == {"a": "3", "b": "1"}


async def test_a_lost_reply_is_asked_for_again_and_counted_once(own_redis: RedisServer) -> None:
    own_redis.start()
    async with working(own_redis) as store:
        await store.commit([PutLease(lease(), None)])
        original, lost = store._link.run, 0

        async def lossy(script: Script, *args: object) -> object:
            nonlocal lost
            answer = await original(script, *args)  # type: ignore[arg-type]
            if lost < 2:
                lost += 1
                raise ReplyLost("the reply was lost after it ran")
            return answer

        store._link.run = lossy  # type: ignore[method-assign]
        other, refused = lease("10.0.0.3", 1), lease("10.0.0.3", 2)
        group: list[list[Write]] = [
            [PutLease(other, None), Note(1.0, "bound", "once", "10.0.0.3")],
            [PutLease(refused, None)],
        ]
        results = await asyncio.gather(*map(store.commit, group), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["NoneType", "LeaseConflict"]
        assert lost == 2
        assert len(await store.history(HistoryQuery())) == 1
        await store.commit([PutFlag("goes", "on")])


async def test_a_reply_that_stays_lost_ends_the_daemon(own_redis: RedisServer) -> None:
    own_redis.start()
    async with working(own_redis, patience_s=1.0) as store:
        own_redis.signal(signal.SIGSTOP)
        try:
            with pytest.raises(StoreBroken, match="start again"):
                await store.commit([PutFlag("a", "1")])
        finally:
            own_redis.signal(signal.SIGCONT)
        with pytest.raises(StoreBroken):  # whatever it took, this daemon does not know
            await store.commit([PutFlag("a", "2")])


async def test_a_redis_that_forgot_what_it_confirmed_is_found_out(redis: RedisServer) -> None:
    bench = in_redis(redis)
    await bench.store.open()
    await bench.store.begin(Epoch(1))
    for number in range(3):
        await bench.store.commit([PutFlag("n", str(number))])
    assert isinstance(bench.store, RedisStore)
    redis.cli("hset", bench.store._keys["meta"], "group", "1")  # as a replica that lagged behind would
    with pytest.raises(StoreBroken, match="has forgotten what it confirmed"):
        await bench.store.commit([PutFlag("n", "4")])
    await bench.store.close()


async def test_settings_that_change_later_stop_it(own_redis: RedisServer) -> None:
    own_redis.start()
    async with working(own_redis, lock_s=0.3) as store:
        own_redis.cli("config", "set", "appendfsync", "everysec")
        deadline = asyncio.get_running_loop().time() + 20
        while store._broken is None and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        with pytest.raises(StoreBroken, match="set `appendfsync always`"):
            await store.commit([PutFlag("a", "1")])


async def test_out_of_memory_is_busy_and_writes_nothing(own_redis: RedisServer) -> None:
    own_redis.start()
    async with working(own_redis) as store:
        own_redis.cli("config", "set", "maxmemory", "1")
        with pytest.raises(StoreBusy, match="nothing was written"):
            await store.commit([PutFlag("a", "1")])
        own_redis.cli("config", "set", "maxmemory", "0")
        await store.commit([PutFlag("a", "2")])


async def test_the_lock_of_a_dead_holder_runs_out(redis: RedisServer) -> None:
    bench = in_redis(redis)
    await bench.store.open()
    assert isinstance(bench.store, RedisStore)
    assert bench.store._keeper is not None
    bench.store._keeper.cancel()  # it is dead: nobody renews, nobody gives back
    heir = bench.make()
    await heir.open()
    await heir.begin(Epoch(1))
    with pytest.raises(Fenced, match="was taken over by"):
        await bench.store.begin(Epoch(2))
    await bench.store.close()
    await heir.commit([PutFlag("still", "its own")])
    await heir.close()


async def test_a_frozen_holder_that_nobody_followed_goes_on(redis: RedisServer) -> None:
    bench = in_redis(redis)
    await bench.store.open()
    await bench.store.begin(Epoch(1))
    assert isinstance(bench.store, RedisStore)
    redis.cli("del", bench.store._keys["lock"])
    await bench.store.commit([PutFlag("a", "1")])
    with pytest.raises(Refused, match=r"in use by .* process"):
        await bench.make().open()
    await bench.store.close()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("set", "{key}:leases", "x"), "leases is a string of another program"),
        (("hset", "{key}:flags", "x", "y"), "is damaged or another program's"),
        (("hset", "{key}:meta", "program", "theirs"), "is damaged or another program's"),
        (("hset", "{key}:meta", "program", "mooring", "schema", "99"), "schema version 99"),
    ],
)
async def test_keys_that_are_not_ours_are_left_alone(
    own_redis: RedisServer, command: tuple[str, ...], told: str
) -> None:
    own_redis.start()
    own_redis.cli(*(word.replace("{key}", "test:{a}") for word in command))
    before = own_redis.cli("dbsize")
    with pytest.raises(Refused, match=told):
        await redis_store(own_redis).open()
    assert own_redis.cli("dbsize") == before


async def test_a_damaged_value_is_refused_with_the_remedy(redis: RedisServer) -> None:
    bench = in_redis(redis)
    await bench.store.open()
    await bench.store.begin(Epoch(1))
    await bench.store.commit([PutBinding(binding())])
    assert isinstance(bench.store, RedisStore)
    redis.cli("hset", bench.store._keys["bindings"], "web.1", "{")
    with pytest.raises(Refused, match=r"is damaged .*restore a backup"):
        await bench.reopen()


async def test_an_older_schema_climbs(redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = in_redis(redis)
    await bench.store.open()
    await bench.store.close()
    rung = Script("keep")
    rung.source = b"redis.call('HSET', KEYS[1], 'schema', '2', 'climbed', 'yes')"
    rung.digest = "0" * 40
    monkeypatch.setattr(module, "SCHEMA", 2)
    monkeypatch.setattr(module, "RUNGS", (rung,))
    await bench.reopen()
    assert isinstance(bench.store, RedisStore)
    assert redis.cli("hget", bench.store._keys["meta"], "climbed").strip() == b"yes"
    await bench.store.close()
    monkeypatch.undo()
    with pytest.raises(Refused, match="schema version 2, and this release knows 1"):
        await bench.store.open()


async def test_a_redis_that_is_not_there_is_waited_for_and_then_named(own_redis: RedisServer) -> None:
    store = redis_store(own_redis, patience_s=0.5)
    with pytest.raises(Refused, match=r"redis unix:///.*redis\.sock cannot be reached"):
        await store.open()
    opening = asyncio.create_task(redis_store(own_redis, patience_s=20).open())
    await asyncio.sleep(0)
    own_redis.start()
    assert (await opening).created


async def test_every_key_begins_with_the_prefix_and_a_wipe_leaves_the_epoch(own_redis: RedisServer) -> None:
    own_redis.start()
    async with working(own_redis) as store:
        await store.commit([PutLease(lease(), None), PutBinding(binding()), PutItem(item(), 1.0)])
        await store.commit([Note(1.0, "bound", "x", "10.0.0.2", lease().app), PutFlag("a", "1")])
        keys = own_redis.cli("keys", "*").split()
        assert len(keys) == 10
        assert all(key.startswith(b"test:{a}:") for key in keys)
        await store.wipe()
        assert sorted(own_redis.cli("keys", "*").split()) == [b"test:{a}:lock", b"test:{a}:meta"]
    async with working_again(own_redis) as (_, found):
        assert (found.epoch, found.fresh, found.created) == (1, True, False)


def test_only_an_address_of_redis_is_one() -> None:
    with pytest.raises(Refused, match="redis http://host"):
        module.RedisLink("http://user:secret@host/0")
