"""What only a store in a file can promise: durability, privacy, and a clear word about a bad file."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mooring.controller.store.runners import inline
from mooring.controller.store.schema import APPLICATION_ID, RUNGS
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.errors import LeaseConflict, Refused, StoreBroken, StoreBusy
from mooring.core.model import (
    BindingId,
    Epoch,
    LeaseState,
    PoolSpec,
    SinkName,
    SinkState,
)
from mooring.core.specs import (
    NameSpec,
)
from mooring.core.store import (
    HistoryQuery,
    Note,
    PutBinding,
    PutFlag,
    PutLease,
    PutPool,
    Write,
)
from tests.contract.store_samples import APP, POOL, binding, contents, lease


async def opened(path: Path) -> SqliteStore:
    store = SqliteStore(path, inline, busy_timeout_s=0.05)
    await store.open()
    await store.begin(Epoch(1))
    return store


async def test_the_file_is_private_and_durable_by_setting(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    await store.commit([PutFlag("a", "1")])
    assert store._db is not None
    pragmas = ("journal_mode", "synchronous", "foreign_keys")
    assert [store._db.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas] == ["wal", 2, 1]
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "store.db": 0o600,
        "store.db-wal": 0o600,
        "store.db-shm": 0o600,
        "store.db.lock": 0o600,
    }
    await store.close()


@pytest.mark.parametrize("damage", ["header", "page", "row", "truncated"])
async def test_a_damaged_file_is_refused_with_the_remedy(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "store.db"
    store = await opened(path)
    await store.commit([PutLease(lease(f"10.0.0.{n}", n), None) for n in range(1, 200)])
    await store.commit([PutBinding(binding(sinks={SinkName("name"): SinkState(NameSpec("a", "b", 1))}))])
    await store.close()
    spoil(path, damage)
    again = SqliteStore(path, inline)
    for _ in range(2):  # and the lock is given back each time
        with pytest.raises(
            (Refused, StoreBroken), match=r"store\.db is damaged .*restore a backup.*adopted from the hosts"
        ):
            await again.open()


def spoil(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    if damage == "header":
        path.write_bytes(b"not a database, whatever its name says" * 40)
    elif damage == "page":
        path.write_bytes(whole[:4096] + os.urandom(4096) + whole[8192:-4096] + os.urandom(4096))
    elif damage == "truncated":
        path.write_bytes(whole[:9000])
    else:
        with sqlite3.connect(path) as db:
            db.execute("""UPDATE sink_states SET wanted = '{"type": "nonsense"}'""")
        db.close()


async def test_a_file_from_a_newer_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await (await opened(path)).close()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(RUNGS) + 1}")
    db.close()
    with pytest.raises(Refused, match=f"schema version {len(RUNGS) + 1}.*this release knows {len(RUNGS)}"):
        await SqliteStore(path, inline).open()


async def test_a_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    with pytest.raises(Refused, match="another program"):
        await SqliteStore(path, inline).open()
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
    db.close()


async def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"nowhere/store\.db cannot be opened"):
        await SqliteStore(tmp_path / "nowhere" / "store.db", inline).open()


async def test_a_foreign_transaction_makes_it_busy_for_a_while(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    foreign = sqlite3.connect(tmp_path / "store.db", isolation_level=None)
    foreign.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy, match="nothing was written"):
        await store.commit([PutFlag("a", "1")])
    foreign.execute("ROLLBACK")
    foreign.close()
    await store.commit([PutFlag("a", "2")])
    await store.close()


async def test_a_full_disk_refuses_all_and_recovers(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    assert store._db is not None
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages + 1}")
    commits = (store.commit([PutFlag(str(n), "x" * 5000)]) for n in range(3))
    results = await asyncio.gather(*commits, return_exceptions=True)
    assert [type(result) for result in results] == [StoreBusy] * 3
    store._db.execute("PRAGMA max_page_count = 1000000")
    await store.commit([PutFlag("after", "1")])
    await store.close()
    assert (await store.open()).flags == {"after": "1"}
    await store.close()


async def test_a_value_that_fits_no_column_spoils_only_its_own_commit(tmp_path: Path) -> None:
    store = await opened(tmp_path / "store.db")
    bad: list[list[Write]] = [
        [PutFlag("half", "1"), PutBinding(binding(slot="first"))],
        [PutFlag("half", "1"), PutFlag("object", object())],  # type: ignore[arg-type]
        [PutFlag("half", "1"), Note(1.0, "bound", "\ud800")],
        [PutFlag("half", "1"), PutBinding(binding(incarnation=2**70))],
    ]
    results = await asyncio.gather(
        *(store.commit(writes) for writes in bad), store.commit([PutFlag("b", "1")]), return_exceptions=True
    )
    assert [type(result) for result in results] == [Refused] * 4 + [type(None)]
    await store.close()
    assert (await store.open()).flags == {"b": "1"}
    await store.close()


async def test_an_empty_file_is_a_lost_store_and_not_a_new_one(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    path.touch()
    with pytest.raises(Refused, match=r"the file is empty.*restore a backup"):
        await SqliteStore(path, inline).open()
    assert path.stat().st_size == 0


async def torn(path: Path) -> None:
    """A store whose daemon was killed: what was committed last stands in the journal only."""
    with writer(path, "run") as child:
        assert child.stdout is not None
        while child.stdout.readline() != "20\n":
            pass
        child.send_signal(signal.SIGKILL)


async def test_a_journal_that_was_lost_is_found_out(tmp_path: Path) -> None:
    path, journal = tmp_path / "store.db", tmp_path / "store.db-wal"
    await torn(path)
    kept = journal.rename(tmp_path / "kept")
    for _ in range(2):
        with pytest.raises(Refused, match=r"its journal .*store\.db-wal is missing.*restore a backup"):
            await SqliteStore(path, inline).open()
    kept.rename(journal)
    assert await whole(path) >= 21


async def test_a_journal_without_its_file_is_not_taken_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await torn(path)
    path.unlink()
    with pytest.raises(Refused, match="only its journal"):
        await SqliteStore(path, inline).open()
    assert not path.exists()


async def test_after_a_refused_start_the_right_release_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await torn(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(RUNGS) + 1}")
        with pytest.raises(Refused, match="this release knows"):
            await SqliteStore(path, inline).open()
        db.execute(f"PRAGMA user_version = {len(RUNGS)}")
    db.close()
    assert await whole(path) >= 21


async def test_a_store_that_is_gone_is_made_anew_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    await torn(path)
    for name in ("store.db", "store.db-wal", "store.db-shm"):
        (tmp_path / name).unlink()
    store = SqliteStore(path, inline)
    found = await store.open()
    assert (found.created, found.fresh) == (True, True)
    await store.close()
    assert not (await store.open()).created
    await store.close()


async def test_a_start_that_was_cut_off_leaves_no_half_made_file(tmp_path: Path) -> None:
    (tmp_path / "store.db.new").write_bytes(b"half")
    store = SqliteStore(tmp_path / "store.db", inline)
    assert (await store.open()).created
    await store.close()
    assert not (tmp_path / "store.db.new").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody who may not write")
async def test_a_directory_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(Refused, match=r"store\.db cannot be opened \(Permission denied\): its directory"):
            await SqliteStore(tmp_path / "store.db", inline).open()
    finally:
        os.seteuid(0)


async def test_a_file_of_the_first_version_climbs_with_all_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    first_version(path)
    store = SqliteStore(path, inline)
    found = await store.open()
    state = SinkState(NameSpec("a", "b", 1), None, (), 2)
    assert found == contents(
        [binding(slot=0, address="10.0.0.2", pool=POOL, sinks={SinkName("name"): state})],
        [lease(), lease("10.0.0.3", None, 4, state=LeaseState.COOLING, until=9.5)],
        {"paused:*": "1"},
        Epoch(7),
    )
    assert await store.history(HistoryQuery()) == [Note(1.5, "bound", "why", "10.0.0.2", APP, 0)]
    assert [(row.item.key, row.since) for row in await store.ledger()] == [("/shop/web/0", 3.0)]
    await store.begin(Epoch(8))
    await store.commit([PutLease(lease(generation=2, note="new"), 1), PutPool(PoolSpec(POOL, "10.0.0.0/24"))])
    with pytest.raises(LeaseConflict):  # the constraints came along
        await store.commit([PutLease(lease("10.0.0.9"), None)])
    await store.close()
    assert (await store.open()).pools == [PoolSpec(POOL, "10.0.0.0/24")]
    await store.close()


def first_version(path: Path) -> None:
    """What the first release would have left."""
    db = sqlite3.connect(path)
    db.executescript(f"""
        {RUNGS[0]}
        PRAGMA application_id = {APPLICATION_ID};
        PRAGMA user_version = 1;
        UPDATE epoch SET value = 7;
        INSERT INTO bindings VALUES
            ('web.1', '/shop/web', 'web.1', 1, 'web.1._app.1', 'agent-1', 0, '10.0.0.2', 'shop', 0);
        INSERT INTO sink_states VALUES
            ('web.1', 'name', '{{"type": "name", "name": "a", "address": "b", "ttl": 1}}', NULL, '[]', 2);
        INSERT INTO leases VALUES
            ('10.0.0.3', 'shop', 'cooling', '/shop/web', NULL, 'web.1', 'agent-1', 4, 1000.5, 9.5),
            ('10.0.0.2', 'shop', 'bound', '/shop/web', 0, 'web.1', 'agent-1', 1, 1000.5, NULL);
        INSERT INTO history (at, event, reason, address, app, slot)
            VALUES (1.5, 'bound', 'why', '10.0.0.2', '/shop/web', 0);
        INSERT INTO flags VALUES ('paused:*', '1');
        INSERT INTO ledger VALUES ('/shop/web/0', '{{"type": "item", "key": "/shop/web/0", "app": "/shop/web",
            "instance": "web.1", "task": "t", "host": "h", "status": "live"}}', 3.0, NULL);
    """)
    db.close()


async def write_on(path: Path, stall: bool) -> None:
    """The life of a daemon that is going to be killed: print every transaction that was confirmed."""
    store = SqliteStore(path, inline)
    contents = await store.open()
    await store.begin(Epoch(contents.epoch + 1))

    def freeze(statement: str) -> None:
        if "INSERT INTO history" in statement:
            print("torn", flush=True)
            time.sleep(60)

    for number in itertools.count(len(contents.bindings)):
        if stall and number == 3:
            assert store._db is not None
            store._db.set_trace_callback(freeze)
        address, name = f"10.0.{number // 250}.{number % 250 + 1}", f"web.{number:05}"
        shown = {SinkName("name"): SinkState(generation=number)}
        await store.commit(
            [
                PutLease(lease(address, number, binding=BindingId(name)), None),
                PutBinding(binding(name, address=address, sinks=shown)),
                Note(float(number), "bound", "x", address),
            ]
        )
        print(number, flush=True)


def writer(path: Path, how: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tests.contract.test_store_file", str(path), how]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


async def whole(path: Path) -> int:
    """How many transactions are there, each of them whole."""
    store = SqliteStore(path, inline)
    contents = await store.open()
    notes = await store.history(HistoryQuery(limit=1_000_000))
    await store.close()
    count = len(contents.bindings)
    assert [each.slot for each in sorted(contents.leases, key=lambda one: one.slot or 0)] == list(
        range(count)
    )
    assert sorted(each.binding or "" for each in contents.leases) == [each.id for each in contents.bindings]
    assert [each.sink(SinkName("name")).generation for each in contents.bindings] == list(range(count))
    assert [note.at for note in notes] == [float(n) for n in reversed(range(count))]
    return count


async def test_kill_9_in_the_middle_of_a_transaction_leaves_none_of_it(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with writer(path, "stall") as child:
        assert child.stdout is not None
        told = [child.stdout.readline().strip() for _ in range(4)]
        with pytest.raises(Refused, match=f"in use by process {child.pid}"):
            await SqliteStore(path, inline).open()
        child.send_signal(signal.SIGKILL)
    assert told == ["0", "1", "2", "torn"]
    assert await whole(path) == 3


async def test_kill_9_at_any_moment_keeps_all_that_was_confirmed(tmp_path: Path) -> None:
    path, chance, confirmed = tmp_path / "store.db", random.Random(9), -1
    for _ in range(4):
        with writer(path, "run") as child:
            assert child.stdout is not None
            for _ in range(chance.randrange(1, 200)):
                confirmed = int(child.stdout.readline())
            child.send_signal(signal.SIGKILL)
            confirmed = max([confirmed, *(int(line) for line in child.stdout if line.endswith("\n"))])
        count = await whole(path)
        assert count in (confirmed + 1, confirmed + 2)  # the last may be kept and not confirmed
        confirmed = count - 1


if __name__ == "__main__":
    asyncio.run(write_on(Path(sys.argv[1]), stall=sys.argv[2] == "stall"))
