"""Stores of every kind for the store tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mooring.controller.store.runners import Runner, ThreadRunner, inline
from mooring.core.model import Epoch
from mooring.core.store import Store
from tests.contract.redis_server import RedisServer, needs_redis
from tests.contract.store_benches import Bench, in_file, in_memory, in_redis


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One server for all tests that do it no harm; each uses keys of its own."""
    needs_redis()
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test may kill; not started yet."""
    needs_redis()
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture(params=["memory", "sqlite", "sqlite-thread", "redis"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    runner: Runner = ThreadRunner() if request.param == "sqlite-thread" else inline
    match request.param:
        case "memory":
            bench = in_memory()
        case "redis":
            bench = in_redis(request.getfixturevalue("redis"))
        case _:
            bench = in_file(tmp_path / "store.db", runner)
    yield bench
    await bench.store.close()
    if isinstance(runner, ThreadRunner):
        runner.close()


@pytest.fixture
async def store(bench: Bench) -> Store:
    await bench.store.open()
    await bench.store.begin(Epoch(1))
    return bench.store
