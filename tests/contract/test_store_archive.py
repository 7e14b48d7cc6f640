"""Backups: whole or refused, the same for every store, through a daemon or without one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mooring.controller import cli
from mooring.controller.doors import history as doors_history
from mooring.controller.stage import AGREED, COMPLETE
from mooring.controller.store import archive as module
from mooring.controller.store.archive import archive, check, fill
from mooring.controller.store.memory import MemoryStore
from mooring.controller.store.runners import inline
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.clock import SystemClock
from mooring.core.errors import Refused
from mooring.core.model import Epoch, PoolName, PoolSpec, SinkName, SinkState
from mooring.core.specs import NameSpec
from mooring.core.store import (
    Contents,
    HistoryQuery,
    Note,
    PutBinding,
    PutFlag,
    PutItem,
    PutLease,
    PutPool,
    RetireItem,
    Store,
    Write,
)
from tests.contract.redis_server import RedisServer
from tests.contract.store_benches import Bench, redis_store
from tests.contract.store_samples import binding, item, lease
from tests.unit.fake_daemon import FakeDaemon, served
from tests.unit.samples_of_settings import settings_file

Run = Callable[..., Result]
STATE = SinkState(NameSpec("a.example", "10.0.0.2", 30), None, (NameSpec("b.example", "10.0.0.2", 30),), 3)
LIFE: list[Write] = [
    PutLease(lease(note="kept"), None),
    PutLease(lease("10.0.0.3", 1), None),
    PutBinding(binding(slot=0, sinks={SinkName("name"): STATE})),
    PutPool(PoolSpec(PoolName("more"), "10.9.0.0/24", vlan=9, reservations={"10.9.0.2": "printer"})),
    PutItem(item(), 3.0),
    PutItem(item("/shop/web/1"), 4.0),
    RetireItem("/shop/web/1", 5.0),
    Note(1.0, "bound", "first \u00e9", "10.0.0.2", lease().app, 0),
    Note(2.0, "bound", "second", "10.0.0.3", lease().app, 1),
    PutFlag("paused:*", "1"),
    PutFlag(COMPLETE, "5"),
]


async def lived(store: Store) -> Contents:
    await store.open()
    await store.begin(Epoch(5))
    await store.commit(LIFE)
    await store.close()
    return await store.open()


async def saved(store: Store, path: Path) -> Path:
    with path.open("wb") as into:
        async for lines in archive(store, Epoch(5), 100.0):
            into.write(lines)
    return path


async def test_what_is_saved_comes_back_in_any_store(bench: Bench, tmp_path: Path) -> None:
    found = await lived(bench.store)
    path = await saved(bench.store, tmp_path / "b")
    header, trailer = check(path)
    assert (header.epoch, header.made_at, trailer.count) == (5, 100.0, len(LIFE))
    twin = MemoryStore()
    await twin.open()
    await twin.begin(Epoch(5))
    await fill(twin, path)
    everything = HistoryQuery(limit=99)
    assert await twin.history(everything) == await bench.store.history(everything)
    assert await twin.ledger(live_only=False) == await bench.store.ledger(live_only=False)
    await twin.close()
    assert await twin.open() == found


async def test_a_copy_is_of_one_moment(bench: Bench, tmp_path: Path) -> None:
    await lived(bench.store)
    await bench.store.begin(Epoch(6))
    walk = bench.store.dump()
    writes = list(await anext(walk))
    await bench.store.commit([PutLease(lease("10.0.0.4", 2), None), Note(9.0, "bound", "late")])
    async for some in walk:
        writes += some
    assert sorted(str(write) for write in writes if isinstance(write, PutLease)) == sorted(map(str, LIFE[:2]))
    assert [write.reason for write in writes if isinstance(write, Note)] == ["first \u00e9", "second"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda whole: whole[:-20], "damaged"),
        (lambda whole: whole[: whole.rindex(b'{"count"')], "its last line is missing"),
        (lambda whole: whole.replace(b"10.0.0.3", b"10.0.0.9"), "checksum"),
        (lambda whole: whole + b"{}\n", "checksum"),
        (lambda whole: whole[whole.index(b"\n") + 1 :], "not a backup of ours"),
        (lambda whole: b"", "its last line is missing"),
        (lambda whole: b"\x00\xff\n" + whole, "not a backup of ours"),
        (lambda whole: whole.replace(b'"mooring-backup":1', b'"mooring-backup":2'), "format 2"),
    ],
)
async def test_what_is_not_whole_is_refused(
    tmp_path: Path, spoil: Callable[[bytes], bytes], told: str
) -> None:
    store = MemoryStore()
    await lived(store)
    path = await saved(store, tmp_path / "b")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(Refused, match=told):
        check(path)
    with pytest.raises(Refused, match="cannot be read"):
        check(tmp_path / "none")


async def test_flags_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them says that the store knows every lease."""
    store, seen = MemoryStore(), []
    await lived(store)
    path = await saved(store, tmp_path / "b")
    twin = MemoryStore()
    await twin.open()
    await twin.begin(Epoch(5))
    monkeypatch.setattr(module, "_TOGETHER", 2)
    original = twin.commit

    async def commit(writes: list[Write]) -> None:
        seen.append([type(write) for write in writes])
        await original(writes)

    monkeypatch.setattr(twin, "commit", commit)
    await fill(twin, path)
    assert seen[-1] == [PutFlag, PutFlag]
    assert all(PutFlag not in kinds for kinds in seen[:-1])


# The commands.


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = settings_file(tmp_path)
    return lambda *args: CliRunner().invoke(cli.main, ["--config", str(config), *map(str, args)])


def in_file(path: Path) -> Contents:
    async def look() -> Contents:
        store = SqliteStore(path, inline)
        found = await store.open()
        await store.close()
        return found

    return asyncio.run(look())


def make(path: Path) -> None:
    async def live() -> None:
        store = SqliteStore(path, inline)
        await lived(store)
        await store.close()

    asyncio.run(live())


def test_backup_and_restore_without_a_daemon(run: Run, tmp_path: Path) -> None:
    store, file = tmp_path / "store.db", tmp_path / "b"
    make(store)
    before = in_file(store)
    done = run("backup", file)
    assert (done.exit_code, done.output) == (0, f"{file}: {len(LIFE)} entries\n")
    assert file.stat().st_mode & 0o777 == 0o600
    refused = run("restore", file)
    assert refused.exit_code == 1
    assert "holds 2 leases and 1 bindings: nothing was changed; give --replace" in refused.output
    assert in_file(store) == before
    store.unlink()
    done = run("restore", file)
    assert done.exit_code == 0, done.output
    assert "mooring rebuild" in done.output
    assert in_file(store) == before  # made at rest: it knows every lease up to its epoch


def test_restore_keeps_aside_what_it_replaces(run: Run, tmp_path: Path) -> None:
    store, file = tmp_path / "store.db", tmp_path / "b"
    make(store)
    run("backup", file)
    done = run("restore", file, "--replace")
    assert done.exit_code == 0, done.output
    (aside,) = [path for path in tmp_path.glob("store.db.replaced-*") if path.suffix != ".lock"]
    assert str(aside) in done.output
    assert in_file(aside).epoch == 5
    assert in_file(store).epoch == 6  # never back to a number that was given


def test_restore_replaces_what_is_damaged(run: Run, tmp_path: Path) -> None:
    store, file = tmp_path / "store.db", tmp_path / "b"
    make(store)
    run("backup", file)
    store.write_bytes(b"rubbish" * 999)
    assert run("restore", file).exit_code == 1
    assert run("restore", file, "--replace").exit_code == 0
    assert len(in_file(store).leases) == 2


def test_a_damaged_backup_changes_nothing(run: Run, tmp_path: Path) -> None:
    store, file = tmp_path / "store.db", tmp_path / "b"
    make(store)
    file.write_text('{"mooring-backup":1,"epoch":5,"made_at":1.0}\n')
    assert "last line is missing" in run("restore", file, "--replace").output
    assert not list(tmp_path.glob("*replaced*"))


def test_no_restore_and_no_second_opening_beside_a_daemon(run: Run, tmp_path: Path) -> None:
    store, file = tmp_path / "store.db", tmp_path / "b"
    make(store)
    run("backup", file)

    async def beside() -> list[Result]:
        daemon = SqliteStore(store, inline)
        await daemon.open()
        results = [
            await asyncio.to_thread(run, *args)
            for args in (("restore", file), ("restore", file, "--replace"), ("backup", file))
        ]
        await daemon.close()
        return results

    for result in asyncio.run(beside()):
        assert result.exit_code == 1
        assert "in use by process" in result.output


def test_a_running_daemon_makes_the_copy_itself(run: Run, tmp_path: Path) -> None:
    store, file = MemoryStore(), tmp_path / "b"
    asyncio.run(lived(store))
    routes = doors_history.routes(store, SystemClock(), Epoch(5))
    with served(tmp_path / "c.sock", FakeDaemon(), routes=routes):
        done = run("backup", file)
    assert (done.exit_code, done.output) == (0, f"{file}: {len(LIFE)} entries\n")
    assert run("restore", file).exit_code == 0
    found = in_file(tmp_path / "store.db")
    assert len(found.leases) == 2
    assert not {COMPLETE, AGREED} & found.flags.keys()  # later leases of the same epoch may be missing
    assert not list(tmp_path.glob("*.partial"))


def test_a_copy_that_breaks_off_is_no_backup(run: Run, tmp_path: Path) -> None:
    class Failing(MemoryStore):
        async def dump(self):  # type: ignore[no-untyped-def]
            yield [PutFlag("a", "1")]
            raise Refused("the disk is gone")

    store, file = Failing(), tmp_path / "b"
    file.write_text("an older one")
    asyncio.run(lived(store))
    routes = doors_history.routes(store, SystemClock(), Epoch(5))
    with served(tmp_path / "c.sock", FakeDaemon(), routes=routes):
        assert run("backup", file).exit_code != 0
    assert file.read_text() == "an older one"
    assert not list(tmp_path.glob("*.partial"))


def test_it_moves_from_a_file_to_redis(tmp_path: Path, redis: RedisServer) -> None:
    make(tmp_path / "store.db")
    before = in_file(tmp_path / "store.db")
    file, config = tmp_path / "b", settings_file(tmp_path)
    to_redis = config.read_text().splitlines()[1:]
    other = tmp_path / "redis.toml"
    other.write_text("\n".join([*to_redis, "[redis]", f'url = "{redis.url}"', 'prefix = "moved"']))
    invoke = CliRunner().invoke
    assert invoke(cli.main, ["--config", str(config), "backup", str(file)]).exit_code == 0
    for again in ((), ("--replace",)):
        done = invoke(cli.main, ["--config", str(other), "restore", str(file), *again])
        assert done.exit_code == 0, done.output

    async def look() -> Contents:
        store = redis_store(redis, "moved:{mooring}")
        found = await store.open()
        await store.close()
        return found

    found = asyncio.run(look())
    assert (found.leases, found.bindings, found.flags) == (before.leases, before.bindings, before.flags)
    assert found.epoch == 6
    (aside,) = tmp_path.glob("b.replaced-*")
    assert json.loads(aside.read_text().splitlines()[0])["at_rest"] is True
