"""The stores under test, and what happens to each from outside."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mooring.controller.store.memory import MemoryStore
from mooring.controller.store.redis import RedisLink
from mooring.controller.store.redis_store import RedisStore
from mooring.controller.store.runners import Runner
from mooring.controller.store.sqlite import SqliteStore
from mooring.core.clock import SystemClock
from mooring.core.model import Epoch
from mooring.core.store import Contents, Store
from tests.contract.redis_server import RedisServer


@dataclass
class Bench:
    """A store under test, and what happens to it from outside."""

    store: Store
    make: Callable[[], Store]  # another daemon's view of the same data
    overtake: Callable[[Epoch], None]  # another daemon takes that epoch

    async def reopen(self) -> Contents:
        """What a new daemon finds after the old one is gone."""
        await self.store.close()
        self.store = self.make()
        return await self.store.open()


def in_memory() -> Bench:
    memory = MemoryStore()
    return Bench(memory, lambda: memory, lambda epoch: setattr(memory.tables, "epoch", epoch))


def in_file(path: Path, runner: Runner) -> Bench:
    def overtake(epoch: Epoch) -> None:
        with sqlite3.connect(path) as rival:
            rival.execute("UPDATE epoch SET value = ?", (epoch,))
        rival.close()

    def make() -> SqliteStore:
        return SqliteStore(path, runner)

    return Bench(make(), make, overtake)


def in_redis(server: RedisServer) -> Bench:
    prefix = f"test:{{{uuid.uuid4().hex[:8]}}}"

    def overtake(epoch: Epoch) -> None:
        server.cli("hset", f"{prefix}:meta", "epoch", str(epoch))

    def make() -> RedisStore:
        return redis_store(server, prefix)

    return Bench(make(), make, overtake)


def redis_store(
    server: RedisServer, prefix: str = "test:{a}", *, patience_s: float = 10.0, lock_s: float = 0.5
) -> RedisStore:
    link = RedisLink(server.url, timeout_s=2.0)
    return RedisStore(link, prefix, SystemClock(), lock_s=lock_s, patience_s=patience_s)
