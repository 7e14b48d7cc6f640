"""Which store the configuration asks for, and how what it holds is put out of the way."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from mooring.controller.settings import RedisSettings, Settings
from mooring.controller.sinks import read_secret
from mooring.controller.store.archive import appearing, archive
from mooring.controller.store.redis import RedisLink
from mooring.controller.store.redis_store import RedisStore
from mooring.controller.store.runners import ThreadRunner
from mooring.controller.store.sqlite import SqliteStore, set_aside
from mooring.core.clock import SystemClock
from mooring.core.model import Epoch


def store_of(settings: Settings, stack: AsyncExitStack) -> SqliteStore | RedisStore:
    """The configured store, not opened yet; `stack` ends what it needs beside itself."""
    if settings.redis is not None:
        return _in_redis(settings.redis, settings.owner)
    assert settings.store is not None, "the settings allow exactly one of the two"
    runner = ThreadRunner()
    stack.callback(runner.close)
    return SqliteStore(settings.store, runner)


def _in_redis(redis: RedisSettings, owner: str) -> RedisStore:
    link = RedisLink(
        redis.url,
        password=read_secret(redis.password_file) if redis.password_file else None,
        ca_file=str(redis.ca_file) if redis.ca_file else None,
        timeout_s=redis.timeout_s,
    )
    return RedisStore(link, f"{redis.prefix}:{{{owner}}}", SystemClock())


class Aside(NamedTuple):
    """What was put out of the way."""

    where: Path | None  # None: there was nothing
    epoch: Epoch


async def put_aside(settings: Settings, beside: Path, now: float) -> Aside:
    """Empty the configured store, which no daemon has, and keep what it held.

    A file is renamed as it is. What Redis holds is written to an archive next to the file `beside`.
    """
    mark = f"replaced-{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}"
    if settings.store is not None:
        return Aside(*set_aside(settings.store, mark))
    async with AsyncExitStack() as stack:
        store = store_of(settings, stack)
        assert isinstance(store, RedisStore)
        stack.push_async_callback(store.close)
        contents = await store.open()
        if contents.created:
            return Aside(None, contents.epoch)
        where = beside.with_name(f"{beside.name}.{mark}")
        with appearing(where) as into:
            async for lines in archive(store, contents.epoch, now, at_rest=True):
                into.write(lines)
        await store.wipe()
        return Aside(where, contents.epoch)
